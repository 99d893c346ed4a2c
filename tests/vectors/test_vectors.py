"""The code opens every positive vector and refuses every negative one with exactly its code."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from product_reader import READERS, ParkedError, documents
from vector_flips import code_of, flipped

SPEC = Path(__file__).parent.parent.parent / "docs" / "spec"
LEAST = {
    "world": 50,
    "encoding": 2_000,
    "derivation": 150,
    "signature": 100,
    "tree": 15,
    "path": 100,
    "hpke": 20,
    "root": 25,
    "certificate": 180,
    "crl": 30,
    "statement": 90,
    "bundle": 70,
    "papers": 120,
    "inbox": 70,
    "grant": 280,
    "envelope": 490,
    "sealing": 25,
    "flips": 12,
}
"""Cases of each kind: an empty document proves nothing."""
LEAST_POSITIVE = {kind: 2 for kind in LEAST if kind not in ("world", "flips")} | {"envelope": 70, "grant": 12, "encoding": 130}
NO_BYTES_SHOW = {"identity_ended", "clock_behind", "not_enrolled"}
"""Codes of what a process does by itself."""


def judged(kind: str, case: dict[str, Any]) -> Any:
    """The result, or the code."""
    return code_of(READERS[kind], case, ParkedError)


DOCUMENTS = [stem for stem, document in documents().items() if document["kind"] in READERS]


@pytest.mark.parametrize("stem", DOCUMENTS)
def test_every_case_of_a_document_opens_or_is_refused_with_its_code(stem: str):
    """One test for a document, since there are thousands of cases; what differs is shown by name."""
    kind, cases = documents()[stem]["kind"], documents()[stem]["cases"]
    expected = {case["name"]: case.get("code", case.get("result")) for case in cases}
    assert len(expected) == len(cases), "a name stands twice"
    found = {case["name"]: judged(kind, case) for case in cases}
    assert {name: (found[name], wanted) for name, wanted in expected.items() if found[name] != wanted} == {}


@pytest.mark.parametrize("case", [pytest.param(one, id=one["name"]) for one in documents()["flips"]["cases"]])
def test_every_changed_byte_is_refused(case: dict[str, Any]):
    assert sum(count for _, count in case["codes"]) == len(case["bytes"]) // 2
    assert flipped(case, case["xor"], lambda one: judged(case["of"], one)) == case["codes"]


@pytest.mark.parametrize("kind", ["envelope", "grant", "papers", "statement", "bundle"])
def test_what_is_cut_or_longer_is_malformed(kind: str):
    found = [
        case for document in documents().values() if document["kind"] == kind for case in document["cases"] if "result" in case
    ]
    for case in found[:3]:
        data = case["bytes"]
        for end in {*range(0, len(data), max(2, len(data) // 200 * 2)), len(data) - 2}:
            assert judged(kind, case | {"bytes": data[:end]}) == "malformed"
        assert judged(kind, case | {"bytes": data + "00"}) == "malformed"


def test_there_are_cases():
    found: Counter[str] = Counter()
    positive: Counter[str] = Counter()
    for stem, document in documents().items():
        assert document["version"] == 1
        names = [case["name"] for case in document["cases"]]
        assert len(set(names)) == len(names) > 0, stem
        found[document["kind"]] += len(names)
        positive[document["kind"]] += sum("result" in case for case in document["cases"])
    assert {kind: found[kind] for kind in LEAST if found[kind] < LEAST[kind]} == {}
    assert set(found) == set(LEAST)
    assert {kind: positive[kind] for kind, least in LEAST_POSITIVE.items() if positive[kind] < least} == {}


def tables_of_codes() -> dict[str, set[str]]:
    """The codes of each part of the page, by its title."""
    text = (SPEC / "09-codes.md").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: set(re.findall(r"^\| `([a-z_]+)` \|", part, flags=re.MULTILINE)) for part in parts}


def test_every_code_that_bytes_can_show_is_shown():
    shown = {case["code"] for document in documents().values() for case in document["cases"] if "code" in case}
    wanted = tables_of_codes()
    assert len(wanted["Receiving"]) > 20
    assert (wanted["Receiving"] | wanted["Trust"]) - NO_BYTES_SHOW - shown == set()
    assert shown - set().union(*wanted.values()) == set()


def test_every_line_of_the_receiver_is_shown_by_an_envelope():
    """The codes that part 9 says a line gives to an envelope of data, or to a grant."""
    for stems, marks in ((("envelopes-refused",), "1 2 3 4 5 6 7 8 9 10"), (("grants",), "g")):
        shown = {case["code"] for stem in stems for case in documents()[stem]["cases"] if "code" in case}
        rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", (SPEC / "09-codes.md").read_text(), flags=re.MULTILINE)
        lines = {code: set(re.split(r"[ ,]+", where.strip())) for code, where in rows}
        due = {code for code, where in lines.items() if where & set(marks.split())}
        assert len(due) >= 9
        assert due - shown == set()


def test_the_kinds_are_those_that_the_specification_lists():
    text = (SPEC / "11-vectors.md").read_text()
    first = text[text.index("| kind | what a case is |") :].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", first, flags=re.MULTILINE)) == set(LEAST)

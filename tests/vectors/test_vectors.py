"""The code opens every positive vector and refuses every negative one with exactly its code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from product_reader import READERS, ParkedError, documents

from bus.errors import BusError

LEAST = {"envelope": 60}
"""Cases of each kind: an empty document proves nothing."""


def cases(*, positive: bool) -> list[Any]:
    return [
        pytest.param(document["kind"], case, id=f"{stem}: {case['name']}")
        for stem, document in documents().items()
        for case in document["cases"]
        if document["kind"] in READERS and ("code" not in case) == positive
    ]


def judged(kind: str, case: dict[str, Any]) -> Any:
    """The result, or the code."""
    try:
        return READERS[kind](case)
    except (BusError, ParkedError) as error:
        return error.reason  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "case"), cases(positive=True))
def test_it_opens(kind: str, case: dict[str, Any]):
    assert judged(kind, case) == case["result"]


@pytest.mark.parametrize(("kind", "case"), cases(positive=False))
def test_it_is_refused_with_its_code(kind: str, case: dict[str, Any]):
    assert judged(kind, case) == case["code"]


def test_there_are_cases():
    found: dict[str, int] = {}
    for document in documents().values():
        assert document["version"] == 1
        names = [case["name"] for case in document["cases"]]
        assert len(set(names)) == len(names) > 0
        found[document["kind"]] = found.get(document["kind"], 0) + len(names)
    for kind, least in LEAST.items():
        assert found[kind] >= least

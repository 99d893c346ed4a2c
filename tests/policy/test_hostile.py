"""Texts that are made to hurt end with a clear error, soon. Each runs in well under the five seconds that it may take.

`make soak` has as much in them as a file may hold; a third of it, in a third of the time, shows the same.
"""

from __future__ import annotations

import os
import time

import pytest

from bus.errors import PolicyError
from bus.policy import load
from bus.policy.loader import MAX_FILES, MAX_PROBLEMS, lint
from bus.policy.source import MAX_FILE_BYTES, MAX_NODES, MAX_SCALAR, read

pytestmark = pytest.mark.slow

PART = 1 if "TPMBUS_SOAK" in os.environ else 3
KEYS = 60_000 // PART

LAUGHS = "version: 1\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "an anchor bomb": LAUGHS,
    "a bomb in one line": "a: &a {<<: *a, <<: *a}\n",
    "an anchor that holds itself": "version: 1\nroles: &a {x: *a}\n",
    "ten million bytes": b"#" * 10_000_000,
    "ten million characters": "é" * 600_000,
    "deep lists": "version: 1\nroles: " + "[" * 100_000,
    "deep mappings": "version: 1\nroles: " + "{a: " * 100_000,
    "deep by indentation": "version: 1\n" + "".join(f"{' ' * depth}a:\n" for depth in range(1_000)),
    "many small values": "version: 1\ntopics: [" + "a," * 400_000 + "]",
    "a long text": "version: 1\ndomain: " + "a" * 1_000_000,
    "a long key": "version: 1\n" + "a" * 1_000_000 + ": 1\n",
    "a long text in quotes": 'version: 1\ndomain: "' + "\\n" * 500_000 + '"\n',
    "a huge number": "version: " + "9" * 4_000 + "\n",
    "many unknown keys": "version: 1\n" + "".join(f"key{number}: 1\n" for number in range(KEYS)),
    "many unknown roles": "version: 1\nroles: {x: {key: ecc256/sha256}}\nagents:\n"
    + "".join(f"  A{n}: r{n}\n" for n in range(50_000 // PART)),
    "many bad patterns": "version: 1\nroles: {x: {key: ecc256/sha256, publish: [" + "_a," * (100_000 // PART) + "a]}}\n",
    "many bad suites": "version: 1\nroles:\n" + "".join(f"  r{number}: {{key: rs{number}}}\n" for number in range(30_000 // PART)),
    "many critical rules": "version: 1\nroles: {x: {key: ecc256/sha256, publish: ["
    + ",".join(f"b.*.a{number}" for number in range(4_000 // PART))
    + "]}}\ntopics:\n"
    + "".join(f"  - {{match: b.a{number}.>, signed_by: identity}}\n" for number in range(15_000 // PART)),
    "many patterns that meet": "version: 1\nroles: {x: {key: ecc256/sha256, deny: {publish: ['>']}, publish: ["
    + ",".join(f"b.c{number}.>" for number in range(3_000 // PART))
    + "]}}\ntopics:\n"
    + "".join(f"  - {{match: b.*.a{number}.>, signed_by: identity}}\n" for number in range(15_000 // PART)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_bounded_time(name):
    text = HOSTILE[name]
    started = time.process_time()
    with pytest.raises(PolicyError) as caught:
        load({"p.yaml": text})
    assert time.process_time() - started < 15 / PART, "about five times what it takes here"
    assert len(caught.value.problems) <= MAX_PROBLEMS + 1
    assert all(len(problem.message) < 1_500 for problem in caught.value.problems)
    assert caught.value.file == "p.yaml"
    assert caught.value.line >= 1


def test_a_bomb_ends_at_its_first_anchor():
    (problem,) = lint({"p.yaml": LAUGHS}).problems
    assert (problem.line, problem.column) == (2, 4)


def test_a_long_tail_of_mistakes_is_counted():
    problems = lint({"p.yaml": HOSTILE["many unknown keys"]}).problems
    assert problems[-1].message == f"and {KEYS - MAX_PROBLEMS:,} more mistakes"


def test_the_budget_of_nodes_is_one_for_all_files():
    def half(letter: str) -> str:
        return "version: 1\nagents:\n" + "".join(f"  {letter}{number}: x\n" for number in range(MAX_NODES // 4))

    roles = "version: 1\nroles: {x: {key: ecc256/sha256}}\n"
    problems = lint({"a.yaml": half("A"), "b.yaml": half("B"), "c.yaml": roles}).problems
    assert [problem.file for problem in problems] == ["b.yaml", "c.yaml"]


def test_too_many_texts_are_refused():
    with pytest.raises(PolicyError):
        load({f"{number}.yaml": "version: 1\n" for number in range(MAX_FILES + 1)})
    with pytest.raises(PolicyError) as caught:
        load({f"{number:02}.yaml": b" " * (1 << 20) for number in range(17)})
    assert [problem.file for problem in caught.value.problems] == ["00.yaml"]  # none of them was read


def test_what_counts_of_a_text_is_its_bytes():
    text = "# " + "é" * (MAX_FILE_BYTES // 2)
    assert len(text) < MAX_FILE_BYTES
    _, (problem,), _ = read(text, file="p")
    assert (problem.line, problem.column) == (1, 1)
    assert f"{MAX_FILE_BYTES:,}" in problem.message


@pytest.mark.parametrize("text", ["key: {}", 'key: "{}"'])
def test_one_text_has_its_limit(text):
    assert read(text.format("a" * MAX_SCALAR), file="p")[0] is not None
    root, (problem,), _ = read(text.format("a" * (MAX_SCALAR + 1)), file="p")
    assert (root, problem.line, problem.column) == (None, 1, 6)


def test_thirty_two_levels_are_enough_and_the_limit():
    def nested(levels: int) -> str:
        return "version: 1\na: " + "[" * levels + "]" * levels

    assert read(nested(31), file="p")[0] is not None
    assert read(nested(32), file="p")[0] is None


@pytest.mark.parametrize("text", ["\ufeffversion: 1\n", b"\xef\xbb\xbfversion: 1\n", "version: 1\r\ndomain: a.b\r\n"])
def test_marks_and_line_ends_of_other_systems_are_no_mistake(text):
    assert lint({"p.yaml": text}).problems == ()


def test_the_slow_loader_reads_the_same(monkeypatch):
    import yaml

    from bus.policy import source

    texts = {"p.yaml": "\n".join(HOSTILE["many bad suites"].splitlines()[:500])}
    quick = lint(texts)
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert len(quick.problems) == 498
    assert lint(texts).problems == quick.problems


@pytest.mark.parametrize(
    "text",
    [
        'a: "\\ud800"',
        'a: "\\U0011FFFF"',
        "a: !<tag:yaml.org,2002:python/object:os.system> x",
        "%YAML 9.9\n---\na: 1",
        "a: |\n  x\n",
        "? |\n  a\n: 1",
    ],
)
@pytest.mark.parametrize("slow", [False, True])
def test_odd_corners_are_problems_with_both_loaders(text, slow, monkeypatch):
    import yaml

    from bus.policy import source

    if slow:
        monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert lint({"p.yaml": text}).problems

"""Two policies that are too much to compare exactly are compared soon, and what is not exact says so."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bus.cli.main import cli
from bus.policy import load
from bus.policy.diff import INEXACT, diff


def between(old: str, new: str):
    return diff(load({"policy.yaml": old}), load({"policy.yaml": new}))


ROLE = "version: 1\nagents: {EVIL: x}\nroles:\n  x:\n    key: ecc256/sha256\n"


def listed(key: str, texts: list[str]) -> str:
    return f"{key}: [{', '.join(map(repr, texts))}]\n"


def grid(denied: list[str]) -> str:
    """46 patterns that each meet 46 others: more places than patterns."""
    allow = listed("publish", [f"a{number}.*" for number in range(46)])
    return f"{ROLE}    {allow}    deny:\n      {listed('publish', [*(f'*.b{number}' for number in range(46)), *denied])}"


def test_one_denial_of_many_that_goes_is_seen():
    (role,) = between(grid(["*.shutdown"]), grid([])).roles
    assert sorted(role.gains["publish"]) == sorted(f"a{number}.shutdown" for number in range(46))
    assert not role.changes


def test_four_thousand_replaced_patterns_are_compared_soon():
    old, new = (load({"p": f"{ROLE}    {listed('publish', [f'{name}{n}.x' for n in range(4_000)])}"}) for name in "ab")
    started = time.process_time()
    result = diff(old, new)
    assert time.process_time() - started < 5, "about twenty times what it takes here"
    assert result.is_exact
    assert len(result.roles[0].gains["publish"]) == len(result.roles[0].loses["publish"]) == 4_000


def tangle(name: str) -> list[str]:
    """Patterns that meet in more places than anybody can look at."""
    return [".".join(f"{name}{n}" if place == hole else "*" for place in range(13)) for hole in range(13) for n in range(5)]


TANGLES = {
    "patterns of a role": [f"{ROLE}    {listed('publish', tangle(name))}" for name in "ab"],
    "a denial that goes": [
        f"{ROLE}    publish: ['>']\n    deny:\n      {listed('publish', tangle('a')[: 65 - less])}" for less in (0, 1)
    ],
    "rules": [f"{ROLE}topics:\n" + "".join(f"  - {{match: '{one}', ttl: {ttl}}}\n" for one in tangle("a")) for ttl in ("5s", "6s")],
}


@pytest.mark.parametrize("name", TANGLES)
def test_what_is_too_much_to_compare_is_said_and_never_no_difference(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, text in zip(("old.yaml", "new.yaml"), TANGLES[name], strict=True):
        Path(file).write_text(text)
    started = time.process_time()
    said = CliRunner().invoke(cli, ["policy", "diff", "old.yaml", "new.yaml", "--exit-code"])
    document = CliRunner().invoke(cli, ["policy", "diff", "old.yaml", "new.yaml", "--json"])
    assert time.process_time() - started < 90, "about ten times what both take here; measuring coverage takes most of that"
    assert said.exit_code == 1
    assert "no difference" not in said.stdout
    assert any(f": {INEXACT}: " in line for line in said.stdout.splitlines())
    found = json.loads(document.stdout)
    assert found["different"] is True
    changes = [part["changes"] for part in (*found["roles"], *found["topics"])]
    assert any(before.startswith("not compared exactly") for change in changes for before, _ in change.values())


def test_what_is_too_much_to_compare_shows_what_is_written():
    result = between(*TANGLES["a denial that goes"])
    assert not result.is_exact
    (role,) = result.roles
    assert role.changes["publish"] == (f"{INEXACT}: deny {tangle('a')[64]}", "nothing")


def test_a_tangle_that_stays_is_no_difference():
    result = between(*[TANGLES["a denial that goes"][0]] * 2)
    assert result.is_exact
    assert not result

"""Texts -> Policy, or every mistake in them.

texts --source--> trees --shape--> words --draft--> one draft --checks--> problems
|
+--build--> Policy --reach--> problems
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bus.errors import PolicyError, Problem
from bus.policy import checks, reach, source
from bus.policy.build import build
from bus.policy.draft import Draft, roster_path
from bus.policy.near import hint
from bus.policy.policy import Policy
from bus.policy.shape import shape
from bus.policy.words import Document

MAX_FILES: Final = 1_000
MAX_TOTAL_BYTES: Final = 16 << 20
MAX_PROBLEMS: Final = 1_000
"""A text with more is no policy; the rest is counted."""

Texts = Mapping[str, str | bytes]


@dataclass(frozen=True, slots=True)
class Report:
    """What lint says about some texts."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    policy: Policy
    """Made of what is right; only good for use where there are no problems."""


def load(texts: Texts) -> Policy:
    """The policy that these files (path -> text) add up to. Raises PolicyError with every mistake in them."""
    report = lint(texts)
    if report.problems:
        raise PolicyError(report.problems)
    return report.policy


def lint(texts: Texts) -> Report:
    """Everything that is wrong or doubtful in these files; never raises for what they hold."""
    too_much = _too_much(texts)
    if too_much:
        return Report((too_much,), (), Policy())
    problems: list[Problem] = []
    trees = _trees(texts, problems)
    draft = Draft(files=sorted(texts), is_whole=len(trees) == len(texts))
    rosters = _rosters(trees, texts, draft, problems)
    for file, root in trees.items():
        _take(root, draft, problems, is_roster=file in rosters)
    policy = build(draft)
    mistakes, doubts = reach.check(policy)
    problems += checks.errors(draft) + mistakes
    return Report(_tidy(problems), _tidy(checks.warnings(draft) + doubts), policy)


def roster_files(texts: Texts) -> dict[str, str]:
    """The roster files that these policy files ask for, each with the file that does; mistakes are left to `lint`."""
    wanted = {}
    for file, root in _trees(texts, []).items():
        path = roster_path(root)
        if path is not None:
            wanted[_resolve(file, path.text)] = file
    return wanted


def _too_much(texts: Texts) -> Problem | None:
    if not texts:
        return Problem("policy", 1, 1, "there are no policy files here; a policy is at least one file with 'version: 1'")
    first = min(texts)
    if len(texts) > MAX_FILES:
        return Problem(first, 1, 1, f"the policy has more than {MAX_FILES:,} files")
    if sum(map(len, texts.values())) > MAX_TOTAL_BYTES:
        return Problem(first, 1, 1, f"the policy has more than {MAX_TOTAL_BYTES:,} bytes")
    return None


def _trees(texts: Texts, problems: list[Problem]) -> dict[str, source.Mapping]:
    trees, left = {}, source.MAX_NODES
    for file in sorted(texts):
        root, found, nodes = source.read(texts[file], file=file, max_nodes=left)
        left -= min(nodes, left)
        problems += found
        if root is not None:
            trees[file] = root
    return trees


def _rosters(trees: dict[str, source.Mapping], texts: Texts, draft: Draft, problems: list[Problem]) -> set[str]:
    """Which files are rosters; takes the paths out of the trees that name them."""
    rosters: set[str] = set()
    for file, root in trees.items():
        path = roster_path(root)
        if path is None:
            continue
        del root.entries["agents"]
        roster = _resolve(file, path.text)
        if roster not in texts:
            near = hint(roster, list(texts))
            problems.append(
                path.place.problem(f"there is no roster file {roster[:200]!r}; the path is relative to this file{near}")
            )
            draft.is_whole = False
        rosters.add(roster)
    return rosters


def _resolve(file: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), path))


def _take(root: source.Mapping, draft: Draft, problems: list[Problem], *, is_roster: bool) -> None:
    roles = root.entries.get("roles")
    draft.role_names |= set(roles.entries) if isinstance(roles, source.Mapping) else set()
    if is_roster:
        for key in [key for key in root.entries if key not in ("version", "agents")]:
            problems.append(root.keys[key].problem(f"{key[:60]!r} in a roster file, which holds only 'version' and 'agents'"))
            del root.entries[key]
    words, found = shape(root, Document)
    problems += found
    if words is None:
        draft.is_whole = False
    else:
        problems += draft.add(words, root)


def _tidy(problems: list[Problem]) -> tuple[Problem, ...]:
    """In the order of the files, each once, and not more than anybody reads."""
    ordered = sorted(set(problems))
    if len(ordered) > MAX_PROBLEMS:
        last = ordered[MAX_PROBLEMS]
        rest = len(ordered) - MAX_PROBLEMS
        ordered[MAX_PROBLEMS:] = [Problem(last.file, last.line, last.column, f"and {rest:,} more mistakes")]
    return tuple(ordered)

"""How `tpmbus policy diff` looks: one block for each group of agents, one line for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from bus.policy.diff import Change, PolicyDiff, RoleDiff
from bus.policy.model import RolloutSettings
from bus.policy.values import show_duration, show_size

_MAX_NAMES: Final = 8
"""Names shown of a group of agents."""
_NUMBERS: Final[Mapping[str, Callable[[int], str]]] = {
    "session_ms": show_duration,
    "retention_ms": lambda value: show_duration(value) if value else "none",
    "ttl_ms": show_duration,
    "history_ms": lambda value: show_duration(value) if value else "entitled",
    "ack_wait_ms": show_duration,
    "trust_max_age_ms": show_duration,
    "max_bytes": show_size,
    "primary_handle": hex,
}
_NOTHING: Final = {"history_ms": "all"}
"""What None stands for."""


def lines(changes: PolicyDiff) -> Iterator[str]:
    if not changes:
        yield "no difference"
    yield from (f"+ agent {agent} ({role})" for agent, role in changes.added.items())
    yield from (f"- agent {agent} ({role})" for agent, role in changes.removed.items())
    for role in changes.roles:
        yield _heading(role)
        yield from (f"  + {_what(name)} {item}" for name, items in role.gains.items() for item in items)
        yield from (f"  - {_what(name)} {item}" for name, items in role.loses.items() for item in items)
        yield from (f"  ~ {_changed(name, change)}" for name, change in role.changes.items())
    for topic in changes.topics:
        concerned = ", ".join(topic.roles) or "nobody"
        yield f"topics {topic.match} (concerns {concerned})"
        yield from (f"  ~ {_changed(name, change)}" for name, change in topic.changes.items())
    yield from (f"~ {_changed(name, change)}" for name, change in changes.settings.items())


def document(changes: PolicyDiff) -> dict[str, Any]:
    return {
        "different": bool(changes),
        "exact": changes.is_exact,
        "added": dict(changes.added),
        "removed": dict(changes.removed),
        "roles": [
            {
                "agents": list(role.agents),
                "before": role.before,
                "after": role.after,
                "gains": {name: list(items) for name, items in role.gains.items()},
                "loses": {name: list(items) for name, items in role.loses.items()},
                "changes": _pairs(role.changes),
            }
            for role in changes.roles
        ],
        "topics": [
            {"match": topic.match, "roles": list(topic.roles), "changes": _pairs(topic.changes)} for topic in changes.topics
        ],
        "settings": _pairs(changes.settings),
    }


def _heading(role: RoleDiff) -> str:
    moved = role.before if role.before == role.after else f"{role.before} -> {role.after}"
    names = ", ".join(role.agents[:_MAX_NAMES])
    more = len(role.agents) - _MAX_NAMES
    return f"{moved}: {names}{f' and {more} more' if more > 0 else ''}"


def _what(name: str) -> str:
    return {"groups": "group", "uids": "uid"}.get(name, name)


def _changed(name: str, change: Change) -> str:
    before, after = (_text(name, value) for value in change)
    return f"{_key(name)}: {before} -> {after}"


def _pairs(changes: Mapping[str, Change]) -> dict[str, list[str]]:
    return {_key(name): [_text(name, value) for value in change] for name, change in changes.items()}


def _key(name: str) -> str:
    """As the policy language calls it."""
    known = {"trust_max_age_ms": "trust.max_age", "primary_handle": "tpm.handle"}
    return known.get(name, name.removesuffix("_ms").rstrip("_"))


def _text(name: str, value: object) -> str:
    if isinstance(value, int):
        return _NUMBERS.get(name, str)(value)
    if isinstance(value, RolloutSettings):
        return f"{value.tpm_percent} %{'' if value.enabled else ' (disabled)'}, samples {value.sample_rate}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return _NOTHING.get(name, "none") if value is None else str(value)

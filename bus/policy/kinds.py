"""The kinds of values in a policy: names, patterns, suites, durations, sizes; what is wrong with one, and its JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from bus.policy.values import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size, show_duration, show_size
from bus.protocol.contexts import Purpose
from bus.protocol.names import AGENT_NAME, is_agent_name, pattern_fault
from bus.protocol.suites import HOST_SUITE, IDENTITY_SUITES

MAX_RECORD_BYTES: Final = (1 << 20) - (8 << 10)
"""A record is at most an envelope less room for the header, the proof and the path."""
OTHERS: Final = "*"
"""In `agents:`, every valid name that is not listed itself."""
ROLE_PATTERN: Final = r"^[a-z][a-z0-9_-]{0,63}$"
GROUP_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,63}$"
DOMAIN_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
_TOKEN: Final = r"(\*|[A-Za-z0-9-][A-Za-z0-9_-]{0,63})"
TOPIC_PATTERN: Final = rf"^(>|{_TOKEN}(\.{_TOKEN}){{0,15}}(\.>)?)$"
"""For editors; what is judged is `pattern_fault`."""
PURPOSES: Final = tuple(purpose.name.lower() for purpose in Purpose)

UNKNOWN_SUITE: Final = "unknown_suite"
"""The code of the mistake for which `shape` looks for a near miss."""

MINUTE: Final = 60_000
DAY: Final = 24 * 60 * MINUTE


def _spelled(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if re.fullmatch(pattern.removesuffix("$"), text, re.ASCII) is None:
            raise ValueError(f"{text[:60]!r} is no {what}: it must match {pattern}")
        return text

    return AfterValidator(check)


def _span(least: int, most: int, *, parse: Callable[[object], int], show: Callable[[int], str]) -> BeforeValidator:
    def check(text: object) -> int:
        value = parse(text)
        if not least <= value <= most:
            raise ValueError(f"{text} is out of bounds: from {show(least)} to {show(most)}")
        return value

    return BeforeValidator(check)


def duration(least: int, most: int) -> tuple[BeforeValidator, WithJsonSchema]:
    schema = {"type": "string", "pattern": DURATION_PATTERN, "examples": [show_duration(least), show_duration(most)]}
    return _span(least, most, parse=parse_duration, show=show_duration), WithJsonSchema(schema)


def _agent(name: str) -> str:
    if name != OTHERS and not is_agent_name(name):
        raise ValueError(f"{name[:60]!r} is no agent name: 1 to 32 of A-Z 0-9, a letter first")
    return name


def _reader(name: str) -> str:
    if not is_agent_name(name) and re.fullmatch(ROLE_PATTERN.removesuffix("$"), name, re.ASCII) is None:
        raise ValueError(f"{name[:60]!r} is neither a role nor an agent")
    return name


def _pattern(text: str) -> str:
    fault = pattern_fault(text)
    if fault:
        raise ValueError(f"the pattern {text[:60]!r} {fault}")
    return text


def _suite(name: str) -> str:
    if name == HOST_SUITE.name or name.startswith(HOST_SUITE.kind):
        raise ValueError(f"{name[:60]!r} signs for hosts and is never an identity; use one of {', '.join(sorted(IDENTITY_SUITES))}")
    if name not in IDENTITY_SUITES:
        raise PydanticCustomError(UNKNOWN_SUITE, "no suite")
    return name


def as_grant(value: object) -> object:
    return {"uid": value} if isinstance(value, int) and not isinstance(value, bool) else value


def as_group(value: object) -> object:
    return {"group": value} if isinstance(value, str) else value


def finite(value: object) -> object:
    if value in ("forever", "never", "none", "unlimited", "infinite", None, 0):
        raise ValueError(
            "a durable topic needs a finite retention, such as 7d: keys and replay records are kept as long as its messages"
        )
    return value


def _history(value: object) -> int | None:
    if value == "entitled":
        return 0
    return None if value == "all" else parse_duration(value)


AgentName = Annotated[str, AfterValidator(_agent), WithJsonSchema({"type": "string", "pattern": rf"^({AGENT_NAME.pattern}|\*)$"})]
RoleName = Annotated[str, _spelled(ROLE_PATTERN, "role name"), WithJsonSchema({"type": "string", "pattern": ROLE_PATTERN})]
ReaderName = Annotated[
    str,
    AfterValidator(_reader),
    WithJsonSchema({"type": "string", "anyOf": [{"pattern": ROLE_PATTERN}, {"pattern": f"^{AGENT_NAME.pattern}$"}]}),
]
PatternText = Annotated[str, AfterValidator(_pattern), WithJsonSchema({"type": "string", "pattern": TOPIC_PATTERN})]
GroupName = Annotated[
    str,
    _spelled(rf"^(\*|{GROUP_PATTERN[1:-1]})$", "group name"),
    WithJsonSchema({"type": "string", "pattern": rf"^(\*|{GROUP_PATTERN[1:-1]})$"}),
]
SuiteName = Annotated[str, AfterValidator(_suite), WithJsonSchema({"type": "string", "enum": sorted(IDENTITY_SUITES)})]
Priority = Literal["critical", "high", "normal", "bulk"]
PurposeName = Literal["envelope", "session", "inbox", "enroll", "audit", "http"]
Pcr = Annotated[int, Field(ge=0, le=23)]
Domain = Annotated[str, _spelled(DOMAIN_PATTERN, "trust domain"), WithJsonSchema({"type": "string", "pattern": DOMAIN_PATTERN})]
History = Annotated[
    int | None,
    BeforeValidator(_history),
    WithJsonSchema({"type": "string", "anyOf": [{"enum": ["entitled", "all"]}, {"pattern": DURATION_PATTERN}]}),
]
Size = Annotated[
    int,
    _span(1, MAX_RECORD_BYTES, parse=parse_size, show=show_size),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN, "examples": ["64KiB"]}),
]

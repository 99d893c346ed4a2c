"""Part 2: names, topics and patterns."""

from __future__ import annotations

import re

AGENT = re.compile(r"[A-Z][A-Z0-9]{0,31}", re.ASCII)
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
REPLY = re.compile(r"_reply\.([A-Z][A-Z0-9]{0,31})\.([0-9a-f]{32})", re.ASCII)
GRANT = re.compile(r"_grant\.([A-Z][A-Z0-9]{0,31})", re.ASCII)
AUDIT = re.compile(r"_audit\.([A-Z][A-Z0-9]{0,31})", re.ASCII)


def is_topic(text: str) -> bool:
    tokens = text.split(".")
    return 1 <= len(tokens) <= 16 and len(text) <= 512 and all(TOKEN.fullmatch(token) for token in tokens)


def matches(pattern: str, topic: str) -> bool:
    """No wildcard matches a token that begins with `_`."""
    wanted, tokens = pattern.split("."), topic.split(".")
    for place, want in enumerate(wanted):
        rest = tokens[place:]
        if not rest:
            return False
        if want == ">":
            return place == len(wanted) - 1 and not any(token.startswith("_") for token in rest)
        if want != rest[0] and (want != "*" or rest[0].startswith("_")):
            return False
    return len(wanted) == len(tokens)


def rank(pattern: str) -> tuple[int, ...]:
    """Of patterns that match one topic, the most specific has the smallest: a literal before `*` before `>`."""
    return tuple({"*": 1, ">": 2}.get(token, 0) for token in pattern.split("."))

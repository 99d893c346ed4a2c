"""What agents, topics, groups and durable subscriptions may be called, checked everywhere by the same expressions.

Tokens that begin with an underscore belong to the protocol: no policy pattern and no wildcard matches them.
"""

from __future__ import annotations

import re
from typing import Final

AGENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{0,31}", re.ASCII)
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
SHARE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
"""Of groups and of durable subscriptions."""
MAX_TOKENS: Final = 16
MAX_TOPIC_BYTES: Final = 512


def is_agent_name(text: str) -> bool:
    return AGENT_NAME.fullmatch(text) is not None


def is_share_name(text: str) -> bool:
    return SHARE_NAME.fullmatch(text) is not None


def topic_fault(topic: str) -> str | None:
    """What is wrong with a topic that an application may use; None if nothing is."""
    return _fault(topic.split("."), topic, wildcards=False)


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a pattern: `*` stands for one token, a final `>` for one or more."""
    return _fault(pattern.split("."), pattern, wildcards=True)


def _fault(tokens: list[str], text: str, *, wildcards: bool) -> str | None:
    if len(text) > MAX_TOPIC_BYTES:  # characters: what is not ASCII is a fault anyway, and half a surrogate has no bytes
        return f"is longer than {MAX_TOPIC_BYTES} bytes"
    if len(tokens) > MAX_TOKENS:
        return f"has more than {MAX_TOKENS} tokens"
    for place, token in enumerate(tokens):
        if wildcards and token == "*":
            continue
        if wildcards and token == ">":
            if place != len(tokens) - 1:
                return "has '>' before its end"
            continue
        if token.startswith("_"):
            return f"uses the token {token!r}: tokens that begin with '_' are reserved"
        if TOKEN.fullmatch(token) is None:
            return f"has the token {token!r}: a token is 1 to 64 of A-Z a-z 0-9 _ -"
    return None

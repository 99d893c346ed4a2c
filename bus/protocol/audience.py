"""Whom an epoch is for: all agents that policy lets hear, each with how often its name was revoked.

    audience = SHA-256("tpmbus/1 audience" | [[name, generation]..] by name)

The digest is part of the epoch's parameters, so another audience is another epoch by construction: nobody has to notice a change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

from bus.protocol import contexts
from bus.protocol.codec import array, malformed, pack, unsigned
from bus.protocol.names import is_agent_name

Members = tuple[tuple[str, int], ...]
AUDIENCE_BYTES: Final = 32
MAX_MEMBERS: Final = 16_384
"""Of a list of names that travels: as many as fit an envelope."""


def members(agents: Iterable[tuple[str, int]]) -> Members:
    return tuple(sorted(agents))


def digest(agents: Members) -> bytes:
    return hashlib.sha256(contexts.AUDIENCE + pack(agents)).digest()


def parse_members(value: Any) -> Members:
    """From a field that holds [[name, generation]..]. Raises RemoteProtocolError("malformed")."""
    if type(value) is not list or len(value) > MAX_MEMBERS:
        raise malformed("an audience is a list of names")
    found = tuple(_member(item) for item in value)
    if any(left[0] >= right[0] for left, right in pairwise(found)):
        raise malformed("an audience ascends by name, each name once")
    return found


def _member(item: Any) -> tuple[str, int]:
    name, generation = array(item, 2)
    if type(name) is not str or not is_agent_name(name):
        raise malformed("a member of an audience is an agent")
    return name, unsigned(generation)

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
from bus.protocol.codec import array, malformed, pack, unpack_rows, unsigned
from bus.protocol.names import is_agent_name

Members = tuple[tuple[str, int], ...]
AUDIENCE_BYTES: Final = 32
MAX_MEMBERS: Final = 16_384
"""Of a list of names that travels: as many as fit an envelope."""


def members(agents: Iterable[tuple[str, int]]) -> Members:
    return tuple(sorted(agents))


def digest(agents: Members) -> bytes:
    return hashlib.sha256(contexts.AUDIENCE + pack(agents)).digest()


def encode_members(agents: Members) -> bytes:
    """The list as a grant carries it: nobody is no bytes at all."""
    return pack(agents) if agents else b""


def parse_members(data: bytes) -> Members:
    """From what `encode_members` gave. Raises RemoteProtocolError("malformed")."""
    if not data:
        return ()
    found = tuple(_member(item) for item in unpack_rows(data, most=MAX_MEMBERS, width=2))
    if not found:
        raise malformed("an empty audience is no bytes")
    if any(left[0] >= right[0] for left, right in pairwise(found)):
        raise malformed("an audience ascends by name, each name once")
    return found


def _member(item: Any) -> tuple[str, int]:
    name, generation = array(item, 2)
    if type(name) is not str or not is_agent_name(name):
        raise malformed("a member of an audience is an agent")
    return name, unsigned(generation)

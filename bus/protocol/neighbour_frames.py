"""What two brokers of one domain say to each other: how they begin, and the frames of a link on which each of them is both ends.

    greeting   = [versions, nonce(32), boot(16), papers: bin, time_ms]                 each sends one; neither is first
    h(x)       = SHA-256(x)
    each signs   "tpmbus/1 hello neighbour" | h(own greeting) | h(the other's) | h(server leaf) | h(client leaf)

Whoever signs puts its own greeting first, so what one end has signed is of no use to the other end, nor to anybody in between.
The leaves are what the link says of itself (`Peer`), 32 zero bytes each where it says nothing. `boot` is of one run of a broker:
a broker that meets itself, or that has come back, is known by it.

Most frames are those of an agent's link, with the same fields; four are of neighbours alone. What each means is in the
specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

from bus.protocol import contexts, frames
from bus.protocol.codec import array, ascii_text, malformed, pack, sized, unpack, unsigned
from bus.protocol.frames import MAX_FRAME_BYTES, Frame
from bus.protocol.handshake import MAX_VERSIONS, NONCE_BYTES
from bus.protocol.header import is_topic
from bus.protocol.names import is_agent_name

BOOT_BYTES: Final = 16
MAX_GREETING_BYTES: Final = 64 << 10
VERSIONS: Final = (1,)
ORDER_BITS: Final = 16
"""Of a number of SEATED, below its milliseconds."""
_U64: Final = (1 << 64) - 1
_MAX_U8: Final = 255
_ARRAYS: Final = 2
_NO_LEAF: Final = bytes(32)


class Between(IntEnum):
    """Frames that only neighbours exchange. Their types are far from those of `Frame`, which grow."""

    GREET = 64
    SEATED = 65
    UNSEATED = 66
    STOP = 67


COMMON: Final = frozenset((
    Frame.PROVE, Frame.CREDIT, Frame.SUBSCRIBE, Frame.SUBSCRIBED, Frame.UNSUBSCRIBE, Frame.DELIVER, Frame.INTEREST,
    Frame.INTEREST_SEEN, Frame.ASK, Frame.PAPERS, Frame.PING, Frame.PONG, Frame.DRAIN, Frame.REFUSE,
))  # fmt: skip
"""Frames of an agent's link that neighbours exchange too."""


def encode(frame: Between, *fields: Any) -> bytes:
    """The frame without its length. The caller keeps to the types."""
    return pack((int(frame), *fields))


def parse(data: bytes) -> list[Any]:
    """[type, field..], of either kind. Raises RemoteProtocolError("malformed")."""
    kind = data[1] if len(data) > 1 else 0
    if kind not in _FIELDS:
        fields = frames.parse(data)
        if fields[0] not in COMMON:
            raise malformed("a frame that neighbours do not exchange")
        return fields
    if len(data) > MAX_FRAME_BYTES:
        raise malformed("a frame of more than 1 MiB and 64 KiB")
    fields = unpack(data, longest=3, arrays=1)
    checks = _FIELDS[kind]
    if fields[0] != kind or len(fields) != len(checks) + 1:
        raise malformed("no frame of neighbours has so many fields")
    for place, check in enumerate(checks, 1):
        check(fields[place])
    return fields


class Greeting(NamedTuple):
    versions: tuple[int, ...]
    nonce: bytes
    boot: bytes
    papers: bytes
    time_ms: int

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def parse(cls, data: bytes) -> Greeting:
        """Raises RemoteProtocolError("malformed", or "version" where both know no common one)."""
        if len(data) > MAX_GREETING_BYTES:
            raise malformed("a greeting of more than 64 KiB")
        versions, nonce, boot, papers, time_ms = array(unpack(data, longest=MAX_VERSIONS, arrays=_ARRAYS), 5)
        if type(versions) is not list or not versions:
            raise malformed("a greeting names the versions that its broker knows")
        numbers = tuple(unsigned(version, most=_MAX_U8) for version in versions)
        if not sized(papers):
            raise malformed("papers are missing")
        return cls(numbers, sized(nonce, NONCE_BYTES), sized(boot, BOOT_BYTES), papers, unsigned(time_ms))


def greeting_tbs(signer: bytes, other: bytes, *, server_leaf: bytes | None = None, client_leaf: bytes | None = None) -> bytes:
    """What the host key of the broker whose greeting is `signer` signs."""
    leaves = [_NO_LEAF if leaf is None else hashlib.sha256(leaf).digest() for leaf in (server_leaf, client_leaf)]
    digests = hashlib.sha256(signer).digest() + hashlib.sha256(other).digest()
    return contexts.HELLO_NEIGHBOUR + digests + b"".join(leaves)


# ---- the fields of each ----------------------------------------------------------------------------------------------------------


def _u64(value: Any) -> None:
    unsigned(value, most=_U64)


def _bytes(value: Any) -> None:
    if not sized(value):
        raise malformed("a field is missing")


def _name(value: Any) -> None:
    if not is_agent_name(ascii_text(value)):
        raise malformed("no agent's name")


def _topic(value: Any) -> None:
    if not is_topic(ascii_text(value)):
        raise malformed("no topic")


def _flag(value: Any) -> None:
    unsigned(value, most=1)


_FIELDS: Final[Mapping[int, tuple[frames.Check, ...]]] = {
    Between.GREET: (_bytes,),
    Between.SEATED: (_u64, _bytes),
    Between.UNSEATED: (_name,),
    Between.STOP: (_topic, _flag),
}

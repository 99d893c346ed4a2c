"""How an agent's host and a broker begin: two hellos, two signatures, and nothing else on the link before both.

    hello_a = [[version..], nonce(32), [papers: bin..]]                                 host to broker: the papers of all its agents
    hello_b = [version, nonce(32), papers: bin, limits, time_ms]                        broker to host
    limits  = [longest envelope, most records, most topics, most subscriptions]         what this broker takes from one link
    t       = SHA-256("tpmbus/1 hello" | hello_a | hello_b | SHA-256(server leaf) | SHA-256(client leaf))
    broker signs "tpmbus/1 hello broker" | t, then the host signs "tpmbus/1 hello agent" | t, each with its host key

Both hellos are in t as they were received, so nobody in between has changed a version, a nonce or papers. So are both leaf
certificates of TLS (32 zero bytes each without TLS): a broker that passes the challenge on to another broker has another leaf.
The two signatures have two contexts, so that none can be sent back to whom it came from. The broker signs first: the host
proves itself only to a broker that did.

What may happen when is a table, and the diagram in the specification is drawn from it. An open link never shakes hands again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from bus.errors import LocalProtocolError, RemoteProtocolError
from bus.protocol import contexts
from bus.protocol.codec import array, malformed, pack, sized, unpack, unsigned
from bus.protocol.envelope import MAX_ENVELOPE_BYTES
from bus.protocol.header import MAX_HEADER_BYTES, MAX_RECORDS

VERSIONS: Final = (1,)
NONCE_BYTES: Final = 32
MAX_HELLO_BYTES: Final = 1 << 20
MAX_VERSIONS: Final = 16
MAX_PAPERS: Final = 1_024
MAX_SECONDS: Final = 5
"""From the first byte to the second signature."""

_ARRAYS: Final = 3
"""In a hello: itself, versions and papers."""
_MAX_U8: Final = 255
_MAX_U32: Final = (1 << 32) - 1
_NO_LEAF: Final = bytes(32)


# ---- what may happen when ------------------------------------------------------------------------------------------------------


class State(StrEnum):
    START = "Start"
    ASKED = "Asked"
    ANSWERED = "Answered"
    PROVED = "Proved"
    OPEN = "Open"
    CLOSED = "Closed"


class Event(StrEnum):
    SEND_HELLO_A = "send HELLO_A"
    RECEIVE_HELLO_A = "receive HELLO_A"
    SEND_HELLO_B = "send HELLO_B"
    RECEIVE_HELLO_B = "receive HELLO_B"
    SEND_PROVE = "send PROVE"
    RECEIVE_PROVE = "receive PROVE"
    FAIL = "fail"
    """REFUSE was sent or received, 5 s are over, or the connection is gone."""


Table = Mapping[State, Mapping[Event, State]]

HOST: Final[Table] = {
    State.START: {Event.SEND_HELLO_A: State.ASKED, Event.FAIL: State.CLOSED},
    State.ASKED: {Event.RECEIVE_HELLO_B: State.ANSWERED, Event.FAIL: State.CLOSED},
    State.ANSWERED: {Event.RECEIVE_PROVE: State.PROVED, Event.FAIL: State.CLOSED},
    State.PROVED: {Event.SEND_PROVE: State.OPEN, Event.FAIL: State.CLOSED},
    State.OPEN: {},
    State.CLOSED: {},
}
BROKER: Final[Table] = {
    State.START: {Event.RECEIVE_HELLO_A: State.ASKED, Event.FAIL: State.CLOSED},
    State.ASKED: {Event.SEND_HELLO_B: State.ANSWERED, Event.FAIL: State.CLOSED},
    State.ANSWERED: {Event.SEND_PROVE: State.PROVED, Event.FAIL: State.CLOSED},
    State.PROVED: {Event.RECEIVE_PROVE: State.OPEN, Event.FAIL: State.CLOSED},
    State.OPEN: {},
    State.CLOSED: {},
}
"""PROVED: the broker has proved itself. RECEIVE_PROVE happens when a signature was found good, not when its frame came."""


def step(table: Table, state: State, event: Event) -> State:
    """The state after this. What cannot be now raises LocalProtocolError if it is ours, else RemoteProtocolError("malformed")."""
    following = table[state].get(event)
    if following is not None:
        return following
    if event in (Event.RECEIVE_HELLO_A, Event.RECEIVE_HELLO_B, Event.RECEIVE_PROVE):
        raise malformed(f"'{event}' in the state {state} of a handshake")
    raise LocalProtocolError(f"'{event}' cannot be in the state {state} of a handshake")


def diagram(table: Table) -> str:
    """The table as Mermaid draws it."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.START}"]
    lines += [f"    {state} --> {after}: {event}" for state, moves in table.items() for event, after in moves.items()]
    return "\n".join([*lines, f"    {State.CLOSED} --> [*]"]) + "\n"


# ---- the hellos ----------------------------------------------------------------------------------------------------------------


class HelloA(NamedTuple):
    versions: tuple[int, ...]
    nonce: bytes
    papers: tuple[bytes, ...]

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def parse(cls, data: bytes) -> HelloA:
        """Raises RemoteProtocolError("malformed"). Versions that nobody knows yet are no fault."""
        versions, nonce, papers = array(_unpacked(data), 3)
        numbers = [unsigned(version, most=_MAX_U8) for version in _listed(versions, MAX_VERSIONS)]
        if numbers != sorted({*numbers} - {0}):
            raise malformed("versions are from 1 on, ascending, each once")
        return cls(tuple(numbers), sized(nonce, NONCE_BYTES), tuple(_papers(each) for each in _listed(papers, MAX_PAPERS)))


class Limits(NamedTuple):
    """What this broker takes from one link; never more than the protocol allows."""

    envelope_bytes: int = MAX_ENVELOPE_BYTES
    records: int = MAX_RECORDS
    topics: int = 65_536
    subscriptions: int = 65_536


class HelloB(NamedTuple):
    version: int
    nonce: bytes
    papers: bytes
    limits: Limits
    time_ms: int

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def parse(cls, data: bytes) -> HelloB:
        """Raises RemoteProtocolError("malformed", or "version" if the broker chose one that was not offered)."""
        version, nonce, papers, limits, time_ms = array(_unpacked(data), 5)
        if unsigned(version, most=_MAX_U8) not in VERSIONS:
            raise RemoteProtocolError("version", f"the broker chose version {version}, and {VERSIONS} were offered")
        return cls(version, sized(nonce, NONCE_BYTES), _papers(papers), _limits(limits), unsigned(time_ms))


def choose(versions: Sequence[int]) -> int:
    """The newest version that both sides know. Raises RemoteProtocolError("version")."""
    common = set(versions).intersection(VERSIONS)
    if not common:
        raise RemoteProtocolError("version", f"the peer knows {[*versions]}, this side {[*VERSIONS]}: update the older one")
    return max(common)


def transcript(hello_a: bytes, hello_b: bytes, *, server_leaf: bytes | None = None, client_leaf: bytes | None = None) -> bytes:
    """t, from both hellos as they travelled, and from both leaf certificates (DER) if the link is TLS."""
    if (server_leaf is None) != (client_leaf is None):
        raise ValueError("a link is TLS with a certificate on both sides, or it is not TLS")
    leaves = [_NO_LEAF if leaf is None else hashlib.sha256(leaf).digest() for leaf in (server_leaf, client_leaf)]
    return hashlib.sha256(contexts.HELLO + hello_a + hello_b + b"".join(leaves)).digest()


def broker_tbs(t: bytes) -> bytes:
    """What the broker's host key signs."""
    return contexts.HELLO_BROKER + t


def agent_tbs(t: bytes) -> bytes:
    """What the host key of the agents signs, once for all of them."""
    return contexts.HELLO_AGENT + t


def _unpacked(data: bytes) -> list[Any]:
    if len(data) > MAX_HELLO_BYTES:
        raise malformed("a hello of more than 1 MiB")
    return unpack(data, longest=MAX_PAPERS, arrays=_ARRAYS)


def _listed(value: object, most: int) -> list[Any]:
    if type(value) is not list or not 0 < len(value) <= most:
        raise malformed(f"a field is no array of 1 to {most}")
    return value


def _papers(value: object) -> bytes:
    if not (papers := sized(value)):
        raise malformed("papers are missing")
    return papers


def _limits(value: object) -> Limits:
    envelope_bytes, records, topics, subscriptions = (unsigned(number, most=_MAX_U32) for number in array(value, 4))
    if not (MAX_HEADER_BYTES < envelope_bytes <= MAX_ENVELOPE_BYTES and 0 < records <= MAX_RECORDS and topics and subscriptions):
        raise malformed("a broker's limits are not zero, and within those of the protocol")
    return Limits(envelope_bytes, records, topics, subscriptions)


# ---- refusals ------------------------------------------------------------------------------------------------------------------

REFUSE: Final = ("malformed", "not_permitted", "unverified", "busy", "version")
"""All that a peer is told. `version` is said in a handshake alone: whoever is too old must learn that, and nothing else helps."""

_TOLD: Final[Mapping[str, str]] = {
    **{code: code for code in REFUSE},
    "wrong_signer": "not_permitted",
    "unsolicited": "not_permitted",
    "too_many_epochs": "busy",
    "ledger_full": "busy",
    "too_slow": "busy",
}


def told(reason: str) -> str:
    """The code for the peer; the precise reason stays in the local log, metric and audit."""
    return _TOLD.get(reason, "unverified")

"""A host's half of the handshake: bytes in, bytes out. What may happen when is the table of `protocol/handshake`.

The broker proves itself first, and this host only to one that did: its papers are of profile broker, its name is pinned, its
session counts now, and its signature is over everything that both have said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from bus.errors import ConnectError, NotPermittedError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed, believe
from bus.identity.envelopes.granting import check_not_revoked
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.host_keys import HostKeys
from bus.protocol.codec import malformed
from bus.protocol.frames import Frame, encode
from bus.protocol.handshake import (
    HOST,
    NONCE_BYTES,
    VERSIONS,
    Event,
    HelloA,
    HelloB,
    Limits,
    State,
    agent_tbs,
    broker_tbs,
    step,
    transcript,
)
from bus.protocol.signatures import verify_host
from bus.protocol.skew import SKEW_MS
from bus.transport.link import Peer
from bus.trust.certificates import Profile
from bus.trust.statement import Statement


class Greeting:
    def __init__(
        self,
        papers: Sequence[bytes],
        keys: HostKeys | None,
        *,
        peer: Peer,
        brokers: Collection[str],
        snapshot: Snapshot,
        verifier: Verifier,
        now_ms: int,
        random: Callable[[int], bytes],
    ) -> None:
        """Without `keys` it only listens: once the broker has proved itself, what it goes by is in `heard`."""
        self._keys, self._peer, self._brokers = keys, peer, brokers
        self._snapshot, self._verifier, self._now_ms = snapshot, verifier, now_ms
        self._state = State.START
        self._hello_a = HelloA(VERSIONS, random(NONCE_BYTES), tuple(papers)).encode()
        self._broker: Believed | None = None
        self.limits = Limits()
        self.heard: Statement | None = None
        self.clocks_differ = False
        """By more than two honest ones do: then nothing else that is wrong says much."""
        self.t = b""
        """What every proof on this link is over."""

    @property
    def is_open(self) -> bool:
        return self._state is State.OPEN

    @property
    def broker(self) -> str:
        return "" if self._broker is None else self._broker.name

    def begin(self) -> bytes:
        self._step(Event.SEND_HELLO_A)
        return encode(Frame.HELLO_A, self._hello_a)

    def take(self, frame: list[Any]) -> bytes | None:
        """What came, and what to answer.

        Raises RemoteProtocolError, VerificationError, NotPermittedError, ConnectError: the link is over.
        """
        kind = frame[0]
        if kind == Frame.HELLO_B:
            self._step(Event.RECEIVE_HELLO_B)
            self._hear(frame[1])
            return None
        if kind == Frame.PROVE:
            return self._prove(frame[1])
        if kind == Frame.REFUSE:
            self._refused(frame[1])
        raise malformed("nothing but hello before both have proved themselves")

    def _hear(self, hello_b: bytes) -> None:
        hello = HelloB.parse(hello_b)
        self.limits = hello.limits
        self.clocks_differ = abs(hello.time_ms - self._now_ms) > SKEW_MS
        broker = believe(hello.papers, self._verifier, now_ms=self._now_ms, profile=Profile.BROKER)
        if broker.name not in self._brokers:
            raise VerificationError("untrusted", agent=broker.name, detail="a broker whose name is not pinned here")
        check_not_revoked(broker.identity, self._snapshot.trust, now_ms=self._now_ms)
        if not broker.not_before_ms - SKEW_MS <= self._now_ms <= broker.not_after_ms + SKEW_MS:
            raise VerificationError("untrusted", agent=broker.name, detail="a session that is not valid now; compare the clocks")
        self._broker = broker
        self.t = transcript(self._hello_a, hello_b, server_leaf=self._peer.server_leaf, client_leaf=self._peer.client_leaf)

    def _prove(self, signature: bytes) -> bytes | None:
        """The broker has proved itself; so do we."""
        broker = self._broker
        if broker is None:
            raise malformed("a proof before its hello")
        verify_host(broker.host_key, broker_tbs(self.t), signature)
        self._step(Event.RECEIVE_PROVE)
        if self._keys is None:
            self.heard = broker.statement
            return None
        self._step(Event.SEND_PROVE)
        return encode(Frame.PROVE, self._keys.prove(agent_tbs(self.t)))

    def _refused(self, code: str) -> None:
        if code == "version":
            raise RemoteProtocolError("version", "the broker speaks no version that we do: update the older of the two")
        if code == "busy":
            raise ConnectError("the broker is about to stop, or has too many links in a handshake: try again in a moment")
        raise NotPermittedError(
            "this host", "connect", f"the broker says {code}; its log says why, and so may `tpmbus trust status`"
        )

    def _step(self, event: Event) -> None:
        self._state = step(HOST, self._state, event)

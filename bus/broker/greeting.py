"""How a link begins: two hellos, two signatures. What may come when is the table of protocol/handshake; here it is acted upon.

The broker's own part is cheap, so it comes first. Then the agents' host proves its key, which costs one signature to check; only
then are its papers looked at, one by one, and the first bad one ends it. So a stranger makes the broker work for little.

Whoever fails hears one word. On a Unix socket the kernel's user must be the broker's own, root, or one that policy lets use the
keys of each agent's role (`uids:`): that restricts, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from bus.broker.host_link import HostLink
from bus.errors import NotPermittedError, VerificationError
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.reserved import AUDIT
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.host.session import Session
from bus.policy import Policy
from bus.protocol import signatures
from bus.protocol.codec import malformed
from bus.protocol.frames import Frame
from bus.protocol.handshake import (
    BROKER,
    NONCE_BYTES,
    Event,
    HelloA,
    HelloB,
    Limits,
    State,
    agent_tbs,
    broker_tbs,
    choose,
    step,
    transcript,
)
from bus.protocol.papers import claimed
from bus.protocol.skew import SKEW_MS

ROOT_UID: Final = 0
Believe = Callable[[bytes], Believed]
"""Raises RemoteProtocolError("malformed"), VerificationError."""


class Greeting:
    """Of one link, as the broker. `received` takes the frames until `is_done`."""

    def __init__(self, host: HostLink, own: Session, limits: Limits, *, now: float) -> None:
        self.began_at = now
        self.papers: tuple[bytes, ...] = ()
        self._host, self._own, self._limits = host, own, limits
        self._state = State.START
        self._host_key = b""

    @property
    def size(self) -> int:
        """Bytes of its papers."""
        return sum(map(len, self.papers))

    @property
    def is_done(self) -> bool:
        return self._state is State.OPEN

    def received(self, fields: Sequence[Any], *, now_ms: int, random: Callable[[int], bytes]) -> None:
        """Raises RemoteProtocolError("malformed", "version"), VerificationError: then it has failed."""
        if fields[0] == Frame.HELLO_A:
            self._answer(fields[1], now_ms=now_ms, nonce=random(NONCE_BYTES))
        elif fields[0] == Frame.PROVE:
            self._prove(fields[1])
        else:
            raise malformed("something else than a handshake on a link that has had none")

    def _answer(self, hello_a: bytes, *, now_ms: int, nonce: bytes) -> None:
        self._step(Event.RECEIVE_HELLO_A)
        hello, host, own = HelloA.parse(hello_a), self._host, self._own
        version = choose(hello.versions)
        self.papers = hello.papers
        self._host_key = claimed(hello.papers[0]).host_key
        hello_b = HelloB(version, nonce, own.papers, self._limits, now_ms).encode()
        peer = host.link.peer
        host.t = transcript(hello_a, hello_b, server_leaf=peer.server_leaf, client_leaf=peer.client_leaf)
        host.send(Frame.HELLO_B, hello_b)
        self._step(Event.SEND_HELLO_B)
        host.send(Frame.PROVE, own.keys.prove(broker_tbs(host.t)))
        self._step(Event.SEND_PROVE)

    def _prove(self, signature: bytes) -> None:
        after = step(BROKER, self._state, Event.RECEIVE_PROVE)
        signatures.verify_host(self._host_key, agent_tbs(self._host.t), signature)
        self._host.host_keys[self._host_key] = None
        self._state = after

    def _step(self, event: Event) -> None:
        self._state = step(BROKER, self._state, event)


def check_may_join(believed: Believed, host: HostLink, snapshot: Snapshot, *, now_ms: int, uids: Collection[int]) -> None:
    """Return if this agent may be on this link now. Raises VerificationError, NotPermittedError."""
    if believed.host_key not in host.host_keys:
        raise VerificationError("bad_proof", agent=believed.name, detail="nobody proved the host key of these papers on this link")
    check_counts(believed, snapshot, now_ms=now_ms)
    uid = host.link.peer.uid
    if host.link.peer.kind == "unix" and not _lets_in(uid, believed.name, snapshot.policy, uids):
        raise NotPermittedError(believed.name, f"be opened by uid {uid}", "the `uids:` of its role do not list it")


def check_counts(believed: Believed, snapshot: Snapshot, *, now_ms: int) -> None:
    """Return if these papers count now: in their time, trusted, and of an agent that policy knows. Raises VerificationError."""
    if not believed.not_before_ms - SKEW_MS <= now_ms <= believed.not_after_ms + SKEW_MS:
        raise VerificationError("untrusted", agent=believed.name, detail="its session certificate is not valid now")
    standing = snapshot.standing(believed, AUDIT + believed.name)  # what anybody may do who may do anything
    fault = standing.fault or standing.forbidden
    if fault is not None:
        raise fault.error(believed.name)
    if standing.rotated_ms is not None and now_ms >= standing.rotated_ms:
        raise VerificationError("revoked", agent=believed.name, detail="its identity key was replaced")


def _lets_in(uid: int | None, agent: str, policy: Policy, uids: Collection[int]) -> bool:
    if uid is None or uid == ROOT_UID or uid in uids:
        return uid is not None
    return any(grant.uid == uid for grant in policy.role_of(agent).uids)

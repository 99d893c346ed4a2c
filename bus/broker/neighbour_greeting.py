"""How two brokers meet: each greets, each proves itself over both greetings, and neither believes anything before.

A neighbour is a broker of this domain: its papers are of profile broker, its identity is not revoked, its session counts now, and
its host key signed. It is not this broker itself, nor one that sends back what it was sent.

Session certificates last a quarter of an hour, and who has stolen a key has none for the next. So each broker shows its next one on
the link, whose host key signs the same greetings; one that does not is no neighbour any more when the one that is known ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bus.broker.moment import Moment
from bus.broker.neighbour import Neighbour
from bus.errors import RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed, believe
from bus.identity.envelopes.granting import check_not_revoked
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.session import Session
from bus.protocol.codec import malformed
from bus.protocol.frames import Frame
from bus.protocol.handshake import NONCE_BYTES
from bus.protocol.neighbour_frames import VERSIONS, Between, Greeting, greeting_tbs
from bus.protocol.signatures import verify_host
from bus.protocol.skew import SKEW_MS
from bus.trust.certificates import Profile

MAX_SECONDS: Final = 5.0
"""From the first frame to both proofs."""


class Meeting:
    """One of them. `received` takes the frames until it says that it is over."""

    def __init__(
        self, neighbour: Neighbour, own: Session, verifier: Verifier, *, boot: bytes, now_ms: int, random: Callable[[int], bytes]
    ) -> None:
        self._neighbour, self._own, self._verifier, self._boot = neighbour, own, verifier, boot
        self._mine = Greeting(VERSIONS, random(NONCE_BYTES), boot, own.papers, now_ms).encode()
        self._theirs = b""
        neighbour.say(Between.GREET, self._mine)

    def received(self, fields: list[Any], snapshot: Snapshot, moment: Moment) -> bool:
        """Whether both have proved themselves. Raises RemoteProtocolError("malformed", "version"), VerificationError."""
        if fields[0] == Between.GREET and not self._theirs:
            self._hear(fields[1], snapshot, moment)
            return False
        if fields[0] != Frame.PROVE or self._neighbour.broker is None:
            raise malformed("something else than a greeting, and then a proof, from a broker that was not met")
        verify_host(self._neighbour.broker.host_key, self._tbs(self._theirs, self._mine), fields[1])
        return True

    def _hear(self, data: bytes, snapshot: Snapshot, moment: Moment) -> None:
        greeting, neighbour = Greeting.parse(data), self._neighbour
        if not set(greeting.versions) & set(VERSIONS):
            raise RemoteProtocolError("version", f"the neighbour speaks {greeting.versions}: update the older of the two")
        broker = self._believe(greeting.papers, snapshot, moment)
        if greeting.boot == self._boot:
            raise _itself(broker)
        neighbour.broker, self._theirs = broker, data
        neighbour.send(Frame.PROVE, self._own.keys.prove(self._tbs(self._mine, data)))

    def _believe(self, papers: bytes, snapshot: Snapshot, moment: Moment) -> Believed:
        """Raises RemoteProtocolError("malformed"), VerificationError."""
        broker = believe(papers, self._verifier, now_ms=moment.now_ms, profile=Profile.BROKER)
        if broker.host_key == self._own.keys.public:
            raise _itself(broker)
        check_broker(broker, snapshot, now_ms=moment.now_ms)
        if not broker.not_before_ms - SKEW_MS <= moment.now_ms <= broker.not_after_ms + SKEW_MS:
            raise VerificationError("untrusted", agent=broker.name, detail="its session is not valid now; compare the clocks")
        return broker

    # ---- later -----------------------------------------------------------------------------------------------------------------

    def renew(self, own: Session) -> None:
        """Show these papers of ours, if they are others than were shown."""
        if own is not self._own:
            self._own = own
            self._neighbour.send(Frame.PAPERS, [own.papers], own.keys.prove(self._tbs(self._mine, self._theirs)))

    def renewed(self, fields: list[Any], snapshot: Snapshot, moment: Moment) -> None:
        """A PAPERS with a signature. Raises RemoteProtocolError("malformed"), VerificationError."""
        _, items, signature = fields
        if len(items) != 1:
            raise malformed("a broker shows one session of its own at a time")
        broker, neighbour = self._believe(items[0], snapshot, moment), self._neighbour
        if broker.name != neighbour.neighbour:
            raise VerificationError("untrusted", agent=broker.name, detail=f"this is the link of {neighbour.neighbour}")
        verify_host(broker.host_key, self._tbs(self._theirs, self._mine), signature)
        if neighbour.broker is None or neighbour.broker.not_after_ms <= broker.not_after_ms:
            neighbour.broker = broker

    def is_over(self, moment: Moment) -> bool:
        """The certificate that it showed has ended, by any clock."""
        broker = self._neighbour.broker
        return broker is not None and broker.not_after_ms + SKEW_MS < moment.now_ms

    def _tbs(self, signer: bytes, other: bytes) -> bytes:
        peer = self._neighbour.link.peer
        return greeting_tbs(signer, other, server_leaf=peer.server_leaf, client_leaf=peer.client_leaf)


def _itself(broker: Believed) -> VerificationError:
    return VerificationError("untrusted", agent=broker.name, detail="this broker itself is at the other end")


def check_broker(broker: Believed, snapshot: Snapshot, *, now_ms: int) -> None:
    """Return if trust lets it be a broker still. Raises VerificationError("revoked")."""
    check_not_revoked(broker.identity, snapshot.trust, now_ms=min(now_ms, broker.identity.not_after_ms))

"""Agents come and go on links: with the handshake, with PAPERS later, by renewal, by takeover, and when they count no more.

    papers      count where their host key was proven on this very link: by PROVE, or by a signature that comes with them
    renewal     a newer session of an agent that is here: those who seal to it get its papers
    takeover    one live session an agent: the older link hears DRAIN "session_replaced NAME", and its subscriptions end
    refused     papers that do not count put off their agent alone; who has older ones on this link goes on under those
    inboxes     the newest inbox certificate of each agent is kept for those who seal to offline readers

The last agent that is put off a link for want of trust takes the link with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from bus.broker.durable_inboxes import fields_of
from bus.broker.greeting import check_counts, check_may_join
from bus.broker.host_link import HostLink, Subscription
from bus.broker.interest import Interest
from bus.broker.lanes import Lanes
from bus.broker.moment import Moment
from bus.broker.seats import Seats
from bus.broker.subscribing import Subscribing
from bus.errors import NotPermittedError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed, believe_inbox
from bus.identity.envelopes.granting import check_not_revoked
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.known import Known
from bus.identity.trust_memory import TrustMemory
from bus.protocol import signatures
from bus.protocol.codec import unpack
from bus.protocol.frames import Frame
from bus.protocol.handshake import agent_tbs
from bus.protocol.papers import Papers, claimed
from bus.transport.soon import soon
from bus.trust.revocations import Reason
from bus.trust.view import TrustView
from bus.trust.x509_form import take_apart

if TYPE_CHECKING:
    from bus.broker.durable import Durable

MAX_HOST_KEYS: Final = 64
"""Of one link; a host changes its key every few minutes, and the oldest count no more."""
AT_ONCE: Final = 128
"""Subscriptions that are dropped in one turn of the loop, of an agent that was at a neighbour: one that lies says it has 65,536."""
_SESSION_FIELDS: Final = 4


class Refused(NamedTuple):
    """Papers that do not count, as they call themselves; those of an inbox give no name."""

    name: str
    session: bytes
    reason: str
    detail: str


class Joining:
    def __init__(
        self,
        snapshot: Snapshot,
        *,
        verifier: Verifier,
        memory: TrustMemory,
        uids: Collection[int],
        seats: Seats,
        lanes: Lanes,
        interest: Interest,
        subscribing: Subscribing,
    ) -> None:
        self._snapshot, self._uids, self._memory = snapshot, uids, memory
        self._held = Held(verifier)
        self._known = Known(self._held, memory, snapshot.trust)
        self._seats, self._lanes, self._interest, self._subscribing = seats, lanes, interest, subscribing
        self.durable: Durable
        self.follow(snapshot)

    def follow(self, snapshot: Snapshot) -> None:
        if snapshot.trust is not self._snapshot.trust:
            self._held.verifier.forget()
        self._snapshot = snapshot
        self._held.hears(len(snapshot.policy.agents))
        live = [rule.ttl_ms for rule in snapshot.policy.topics if not rule.is_durable]
        self._known.follow(snapshot.trust, longest_live_ms=max(live, default=0))

    # ---- coming --------------------------------------------------------------------------------------------------------------

    def believed(self, host: HostLink, papers: bytes, moment: Moment) -> Believed:
        """Whose these are, if that one may be on this link.

        Raises RemoteProtocolError("malformed"), VerificationError, NotPermittedError.
        """
        found = self._known.believe(papers, now_ms=moment.now_ms)
        check_may_join(found, host, self._snapshot, now_ms=moment.now_ms, uids=self._uids)
        return found

    def believed_afar(self, papers: bytes, moment: Moment) -> Believed:
        """The same of papers that a neighbour shows: that their host key was proven is its word.

        Raises RemoteProtocolError("malformed"), VerificationError, NotPermittedError.
        """
        found = self._known.believe(papers, now_ms=moment.now_ms)
        self._snapshot.policy.role_of(found.name)
        check_counts(found, self._snapshot, now_ms=moment.now_ms)
        return found

    def inbox_afar(self, data: bytes, moment: Moment) -> None:
        """A neighbour shows the inbox of an agent, which is live there or away.

        Raises RemoteProtocolError("malformed"), VerificationError.
        """
        believed = believe_inbox(*fields_of(data), self._held.verifier, now_ms=moment.now_ms)
        check_not_revoked(believed.identity, self._snapshot.trust, now_ms=moment.now_ms)
        self.durable.hear_inbox(data)

    def join(self, host: HostLink, found: Sequence[Believed], moment: Moment) -> None:
        """They are on this link from now on."""
        for one in found:
            self.seat(host, one, moment)
        for lane in host.lanes.values():  # with other agents, other lanes may hear
            if not lane.hears:
                self._lanes.judge(lane, self._snapshot)
                self._interest.opened(lane)

    def papers(self, host: HostLink, items: Sequence[bytes], signature: bytes, moment: Moment) -> list[Refused]:
        """A PAPERS of an open link, and whose in it do not count: the others come all the same.

        Raises RemoteProtocolError("malformed").
        """
        refused: list[Refused] = []
        for data in items:
            is_session = is_of_session(data)
            try:
                if not is_session:
                    self.durable.show_inbox(host, data)
                    continue
                if signature:
                    self._prove(host, data, signature)
                self.join(host, [self.believed(host, data, moment)], moment)
            except (VerificationError, NotPermittedError) as error:
                reason = error.reason if isinstance(error, VerificationError) else "not_permitted"
                name, _, session = claimed(data) if is_session else ("", b"", b"")
                refused.append(Refused(name, session, reason, str(error)))
        return refused

    def _prove(self, host: HostLink, data: bytes, signature: bytes) -> None:
        """Another host key of this host signs the same handshake."""
        key = claimed(data).host_key
        if key not in host.host_keys:
            signatures.verify_host(key, agent_tbs(host.t), signature)
            host.host_keys[key] = None
            if len(host.host_keys) > MAX_HOST_KEYS:
                del host.host_keys[next(iter(host.host_keys))]

    def seat(self, host: HostLink, one: Believed, moment: Moment) -> None:
        """Its agent is on this link from now on, and on no other."""
        is_renewal = one.name in host.agents and one.id not in host.sessions
        older = self._seats.take(host, one)
        host.told_papers[one.id] = None
        if older is not None:
            self.leave(older, one.name, "session_replaced", moment)
        if is_renewal:
            self._interest.renewed(one.name)

    def find(self, session: bytes) -> Believed | None:
        """Somebody asks whose session this is."""
        return self._held.sessions.get(session)

    # ---- going ---------------------------------------------------------------------------------------------------------------

    def leave(self, host: HostLink, agent: str, why: str, moment: Moment) -> None:
        """The agent is off this link, which is told why. If it is a neighbour's, what it listens to there may be in force again."""
        self.close(host, agent, moment, for_good=False)
        host.send(Frame.DRAIN, f"{why} {agent}")

    def close(self, host: HostLink, agent: str, moment: Moment, *, for_good: bool = True) -> None:
        """It has left this link; that it was not there is no fault: it may have been put off meanwhile."""
        if agent not in host.agents:
            return
        leaving = host.subscriptions.of(agent)
        self._drop_some(leaving, AT_ONCE if host.is_neighbour else len(leaving), for_good, moment)
        self._seats.leave(host, agent)
        for lane in host.lanes.values():
            self._lanes.judge(lane, self._snapshot)

    def _drop_some(self, leaving: list[Subscription], most: int, for_good: bool, moment: Moment) -> None:
        for one in leaving[:most]:
            if one.is_live:
                self._subscribing.drop(one, moment)
                if not for_good:
                    one.host.put_aside(one)
        if leaving[most:]:
            soon(partial(self._drop_some, leaving[most:], most, for_good, moment))

    def revoked(self, papers: bytes) -> str:
        """Whose these say they are, if that certificate was taken back and not replaced: its agent may hear that. Else "".

        Who it is has proved the host key by then; and the list of revocations is no secret.
        """
        try:
            shown = Papers.parse(papers)
            found = self._snapshot.trust.revocations.revoked.get(take_apart(shown.identity).serial)
        except (RemoteProtocolError, ValueError):
            return ""
        return claimed(papers).name if found is not None and found.reason is not Reason.ROTATED else ""

    def judge(self, host: HostLink, moment: Moment) -> None:
        """By another policy and trust: who counts no more goes; and the link, whose own certificate does not."""
        if _leaf_is_revoked(host.link.peer.client_leaf, self._snapshot.trust):
            host.cut("revoked")
            return
        for one in [*host.sessions.values()]:
            why = self._why_not(one, moment) if one.id in host.sessions else None  # it may have gone with another of its agent
            if why is None:
                continue
            if host.agents.get(one.name) is one:
                self.leave(host, one.name, why, moment)
            else:
                self._seats.end(host, one)
        if not host.agents and not host.is_neighbour:
            host.cut("revoked")

    def _why_not(self, one: Believed, moment: Moment) -> str | None:
        standing_ms = min(moment.now_ms, one.not_after_ms)  # that it has ended is no reason: it may be renewed yet
        try:
            self._snapshot.policy.role_of(one.name)
            check_counts(one, self._snapshot, now_ms=standing_ms)
        except NotPermittedError:
            return "not_permitted"
        except VerificationError as error:
            if _makes_another(one, self._snapshot.trust):
                return None
            return "not_permitted" if error.reason in ("not_permitted", "wrong_signer") else "revoked"
        return None

    def forget(self, now_ms: int) -> None:
        self._memory.passed_ms()
        self._seats.forget(now_ms)
        self._known.forget(now_ms)

    def statistics(self) -> dict[str, object]:
        return {"sessions": len(self._known), "papers_refused": dict(self._known.refused), **self._held.verifier.statistics()}


def is_of_session(papers: bytes) -> bool:
    """Or else of an inbox. Raises RemoteProtocolError("malformed")."""
    return len(unpack(papers, longest=_SESSION_FIELDS, arrays=1)) == _SESSION_FIELDS


def _leaf_is_revoked(leaf: bytes | None, trust: TrustView) -> bool:
    """Of a link over TLS. Who comes with such a one is refused by TLS; this is for links that are open when it happens."""
    if leaf is None:
        return False
    try:
        return take_apart(leaf).serial in trust.revocations.revoked
    except ValueError:  # not one that the authority issues, so none that it takes back
        return False


def _makes_another(one: Believed, trust: TrustView) -> bool:
    """Whether nothing is wrong with these papers but that the signer of the trust statement they name was revoked.

    Nobody may send under them any more; their agent, whom nobody doubts, makes new ones at once, as when their time is over.
    """
    revoked = trust.revocations.revoked
    is_good = one.identity.serial not in revoked and one.begun_ms >= trust.sessions_not_before_ms(one.name)
    return is_good and one.statement.signer.serial in revoked

"""The keys of a host: the epochs that its agents seal with, the grants that they give and get, and what waits for either.

    to send       `epoch` for a lane, `grants` for its readers; `answer` to those who ask
    to receive    `arrive` for envelopes and grants, `papers` for papers; what was parked comes out with the answer to a later call
    to be told    `follow` of policy and trust, after `TrustMemory.accept`; `renewed` of sessions, in `Sessions.on_change`;
                  `own_inbox` of inbox keys; and `listening` is set
    now and then  `asks` what to ask for, `expire` a few times a second, `forget` every few seconds

It binds: what is decided, is decided in the parts. Nothing waits here and nothing is stored. One for each host, used in one loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from bus.clock import Clock
from bus.errors import RemoteProtocolError, SessionEndedError, VerificationError
from bus.identity.envelopes.believe import Believed, BelievedInbox, believe_inbox
from bus.identity.envelopes.granting import Granted
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Listening, Subscription
from bus.identity.envelopes.reserved import requester_of
from bus.identity.envelopes.snapshot import REPLY_TTL_MS, Snapshot
from bus.identity.epochs.admitting import Admitting, Arrived, Moment, Outcome
from bus.identity.epochs.asking import Missing, Wanted
from bus.identity.epochs.audible import audible
from bus.identity.epochs.entitled import Grantable
from bus.identity.epochs.giving import BUSY, UNKNOWN_EPOCH, Answer, Giving, Made, Terms
from bus.identity.epochs.known import Known
from bus.identity.epochs.own_keys import OwnKeys
from bus.identity.epochs.regranting import Regranting
from bus.identity.epochs.sealing import Sealing, SealingEpochs, Use
from bus.identity.host.session import Session
from bus.identity.inbox_record import longest_retention
from bus.identity.trust_memory import InboxMark, TrustMemory
from bus.protocol import envelope as envelopes
from bus.protocol import grants as grant_form
from bus.protocol import header as headers
from bus.protocol.epochs import Params
from bus.protocol.kem import PrivateKey


class Keyring:
    def __init__(
        self,
        held: Held,
        memory: TrustMemory,
        snapshot: Snapshot,
        clock: Clock,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.held, self.snapshot, self.listening = held, snapshot, Listening(())
        self._memory, self._clock, self._random = memory, clock, random
        self._sessions: dict[str, Session] = {}
        self._known = Known(held, memory, snapshot.trust)
        self._keys = OwnKeys()
        self._sealing = SealingEpochs(snapshot)
        self._regranting = Regranting()
        self._giving = Giving(memory.inbox_counter, random=random)
        self._admitting = Admitting(held, self._keys, self._take)
        self.follow(snapshot)

    # ---- told ----------------------------------------------------------------------------------------------------------------

    def follow(self, snapshot: Snapshot) -> None:
        """Another policy or trust is in force. Lanes have to ask for their epochs again."""
        if snapshot.trust is not self.snapshot.trust:
            self.held.verifier.forget()
        self.snapshot = snapshot
        live = [rule.ttl_ms for rule in snapshot.policy.topics if not rule.is_durable]
        self._longest_live_ms = max([*live, REPLY_TTL_MS])
        self._retention_ms = longest_retention(snapshot.policy)
        self._known.follow(snapshot.trust, longest_live_ms=self._longest_live_ms)
        self._sealing.follow(snapshot, now_ms=self.now_ms())
        self._make_room()

    def renewed(self, sessions: Mapping[str, Session]) -> None:
        """These are the current sessions of all agents that are open here; to be called in the step in which they change."""
        others = sessions.keys() != self._sessions.keys()
        self._sessions = dict(sessions)
        if others:
            self._make_room()
        self._keys.renewed(sessions)
        self._sealing.renewed(sessions, now_ms=self.now_ms())

    def own_inbox(self, agent: str, key: PrivateKey) -> None:
        """One of this agent's inbox keys is unsealed. It will open what is sealed to it."""
        self._keys.take_inbox(agent, key)

    def keep_own_inboxes(self, agent: str, ids: Iterable[bytes]) -> None:
        """This agent has these inbox keys, and no others any more."""
        self._keys.keep_inboxes(agent, ids)

    def close(self, agent: str) -> None:
        """An agent is closed: it seals and grants no more, and its inbox keys are forgotten."""
        self._sealing.close(agent)
        self._regranting.close(agent)
        self._keys.keep_inboxes(agent, ())

    # ---- papers --------------------------------------------------------------------------------------------------------------

    def papers(self, data: bytes) -> tuple[Believed, list[Outcome]]:
        """Papers came. Raises RemoteProtocolError("malformed"), VerificationError("untrusted", "bad_proof")."""
        found = self._known.believe(data, now_ms=self.now_ms())
        self._admitting.papers_came(found.id)
        return found, self._admitting.go_on(self.moment())

    def believe_inbox(self, data: bytes, identity: bytes) -> BelievedInbox:
        """An inbox certificate came. Before `take_inbox`, write its mark down: `TrustMemory.accept_inboxes`, in a thread.

        Raises RemoteProtocolError("malformed"), VerificationError("untrusted", "bad_proof").
        """
        return believe_inbox(data, identity, self.held.verifier, now_ms=self.now_ms())

    def inbox_mark(self, found: BelievedInbox) -> InboxMark:
        """What to write down of it. Raises VerificationError("revoked", "untrusted"): such a counter must not count."""
        return self._known.mark(found, now_ms=self.now_ms())

    def take_inbox(self, found: BelievedInbox) -> None:
        """Grants of durable epochs go to this key now. Raises VerificationError("revoked", "untrusted", "inbox_rollback"), and
        LocalProtocolError if its mark is not written down.
        """
        self._known.take_inbox(found, now_ms=self.now_ms())

    # ---- sending -------------------------------------------------------------------------------------------------------------

    def epoch(self, use: Use) -> Sealing:
        """What to seal with, as long as it is `still_good`. Raises SessionEndedError, VerificationError("trust_stale")."""
        session, now_ms = self._session(use.sender), self.now_ms()
        return self._sealing.get(use, session, sent_ms=session.sent_ms(now_ms), random=self._random)

    def grants(self, sealing: Sealing, *, listening: Iterable[str] = (), durable: Iterable[str] = ()) -> Made:
        """For these readers, as far as they may have it and do not: by their sessions, and by their inbox keys.

        The first time for a durable epoch, one to its own sender too: on disk before anything under the epoch is acknowledged.
        Each new one costs about 0.1 ms: for thousands of readers, call it with some of them at a time. Raises SessionEndedError.
        """
        grantable = sealing.grantable
        inboxes = dict.fromkeys(chain([sealing.key.sender], durable) if sealing.epoch.params.is_durable else durable)
        found, unknown = self._known.readers(listening, inboxes, now_ms=self.now_ms())
        made = self._giving.grant(grantable, found, self._terms(grantable))
        return Made(made.grants, [*(self._giving.leave_out(grantable, name, "missing_papers") for name in unknown), *made.left_out])

    def answer(self, epoch_id: bytes, papers: bytes) -> Answer:
        """To somebody who asks for an epoch of an agent of this host, with its papers."""
        sealing = self._sealing.find(epoch_id)
        grantable = self._regranting.find(epoch_id) if sealing is None else sealing.grantable
        if grantable is None:
            return self._giving.say(UNKNOWN_EPOCH)
        try:
            asker = self._known.believe(papers, now_ms=self.now_ms())
            terms = self._terms(grantable)
        except SessionEndedError:
            return self._giving.say(BUSY)
        except (RemoteProtocolError, VerificationError) as error:
            return self._giving.say(error.reason)
        self._admitting.papers_came(asker.id)
        return self._giving.answer(grantable, asker, terms, tick_ms=self._tick_ms())

    # ---- receiving -----------------------------------------------------------------------------------------------------------

    def arrive(
        self,
        data: bytes,
        ticket: Any = None,
        *,
        dead: bool = False,
        is_grant: bool = False,
        named: frozenset[Subscription] | None = None,
        moment: Moment | None = None,
    ) -> list[Outcome]:
        """What came of this envelope, and of those that it released; nothing, if it waits. `named`: who alone may get it. `moment`:
        one for all that came at once, which was asked for in this turn of the loop and under this policy and trust.
        """
        return self._admitting.arrive(Arrived(data, ticket, dead, is_grant, named), moment or self.moment())

    def moment(self) -> Moment:
        """What is judged by now."""
        return Moment(self.snapshot, self.listening, self.now_ms(), self._tick_ms())

    def sealed_to(self, grant: bytes) -> tuple[str, bytes] | None:
        """The agent of this host, and the id of the inbox key that has to be unsealed before this grant can be opened, if any.

        Raises RemoteProtocolError("malformed").
        """
        header = headers.parse(envelopes.split(grant)[0])
        place = grant_form.reader_of(header), header.ref
        return place if place[0] in self._sessions and place not in self._keys.table else None

    @property
    def waiting(self) -> int:
        """Envelopes that wait for a key or for papers."""
        return self._admitting.parking.parked

    def parked(self) -> list[Any]:
        """Their tickets."""
        return [one.ticket for one in self._admitting.parking.items()]

    def asks(self) -> list[tuple[str, Wanted]]:
        """What to ask for now, each with the agent of this host with whose papers it is asked."""
        due = self._admitting.asks.due(now_ms=self._tick_ms())
        return [(agent, wanted) for wanted in due if (agent := self._listener(wanted.topic)) is not None]

    def refused(self, what: str, id: bytes) -> None:  # noqa: A002  as the header calls it
        """Somebody answered that we do not get it."""
        self._admitting.asks.refused(Missing(what, id))

    def expire(self) -> list[Outcome]:
        """What became of those that waited too long, and of those that need not wait any more."""
        return self._admitting.expire(self.moment())

    def link_lost(self) -> list[Outcome]:
        """Let go of all that waits: what is durable is delivered again."""
        return self._admitting.empty(tick_ms=self._tick_ms())

    # ---- now and then --------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Let go of what nobody needs any more."""
        now_ms = self.now_ms()
        # Not by the clock alone: windows that it frees while it is ahead would let live envelopes be taken again when it is right.
        passed_ms = self._memory.passed_ms()
        self.held.forget(passed_ms=passed_ms, longest_ms=self._retention_ms, live_ms=self._longest_live_ms)
        self._known.forget(now_ms)
        for grantable in self._sealing.forget(now_ms):
            self._regranting.keep(grantable, until_ms=self._expires_ms(grantable.epoch.params))
        self._giving.forget(now_ms, tick_ms=self._tick_ms())
        self._regranting.forget(now_ms)
        self._keys.forget()

    def statistics(self) -> dict[str, Any]:
        """Since the start, and what is there now."""
        sealing, giving, admitting = self._sealing, self._giving, self._admitting
        return {
            "epochs": {**sealing.statistics(), "grantable_again": len(self._regranting), "held": len(self.held.epochs)},
            **giving.statistics(),
            "grants_received": {"opened": admitting.granted, "refused": dict(admitting.refused)},
            "papers": {"sessions": len(self._known), "refused": dict(self._known.refused)},
            "parking": {**admitting.parking.statistics(), "asked": admitting.asks.asked, "missing": len(admitting.asks)},
            "verifying": dict(self.held.statistics()),
        }

    def now_ms(self) -> int:
        """The time to judge by: never before an instant that is known to have passed."""
        return self.snapshot.trust.now_ms(self._memory.now_ms(self._clock.now_ms()))

    def _make_room(self) -> None:
        """For as many senders as the agents that are open here may hear."""
        self.held.hears(audible(self.snapshot.policy, self._sessions))

    def _tick_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _session(self, agent: str) -> Session:
        session = self._sessions.get(agent)
        if session is None or not session.is_good(self.now_ms()):
            raise SessionEndedError(agent, "expired")
        return session

    def _listener(self, topic: str) -> str | None:
        """The agent of this host for whom this is; of several, one that policy lets hear it."""
        if topic.startswith(grant_form.GRANT_TOPIC):
            return topic.removeprefix(grant_form.GRANT_TOPIC)
        reached = (*self.listening.reached(topic), *self.listening.reached(topic, dead=True))
        names = [one.agent for one in reached] or [name for name in [requester_of(topic)] if name is not None]
        return next((name for name in names if self.snapshot.may_hear(name, topic)), names[0] if names else None)

    def _terms(self, grantable: Grantable) -> Terms:
        granter = self._session(grantable.epoch.params.sender)
        return Terms(self.snapshot, granter, self._expires_ms(grantable.epoch.params), self.now_ms())

    def _expires_ms(self, params: Params) -> int:
        """When nothing of an epoch is kept any more."""
        return params.ends_ms + (self._retention_ms if params.is_durable else 0)

    def _take(self, granted: Granted) -> None:
        """A grant to the sender itself makes it able to grant again; an epoch of this process needs that of nobody."""
        if self._sealing.find(granted.epoch.id) is None:
            self._regranting.take(granted, until_ms=self._expires_ms(granted.epoch.params))

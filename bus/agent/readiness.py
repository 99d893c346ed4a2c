"""Whether what waits in a lane can be sealed now: its topic is open, somebody hears it, and they have the key.

    not yet    the topic is not open, its readers are behind, or not back after a reconnect: what changes that lists the lane again
    unheard    nobody listens: it would be sealed to nobody, and is dropped here
    an epoch   is asked for again when the last one is over; its grants go out before what it seals
    stalled    there is no session, or no news of trust: until `looked_at_again`
    forbidden  policy has changed since it was accepted: it fails

What the identity key signs first may be signed while readers are behind; only when it is sealed do they have to keep up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from bus.agent.lane import Lane
from bus.errors import BusError, NotPermittedError, SessionEndedError, TrustStaleError, VerificationError
from bus.identity.envelopes.reserved import why_not_publish
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.sessions import Sessions
from bus.protocol.frames import BY_ITS_TOPIC, KEPT_GRANT
from bus.protocol.header import REPLY


class Readiness:
    """`grant` gets each grant that goes before: its lane, the alias, the envelope. `failed`: nothing of that lane is sent."""

    def __init__(
        self,
        keyring: Keyring,
        sessions: Sessions,
        *,
        grant: Callable[[Lane, int, bytes], None],
        unheard: Callable[[Lane], None],
        failed: Callable[[Lane, BusError], None],
    ) -> None:
        self._keyring, self._sessions = keyring, sessions
        self._grant, self._unheard, self._failed = grant, unheard, failed
        self.stalled: dict[Lane, None] = {}

    def is_ready(self, lane: Lane, now_ms: int) -> bool:
        topic, is_live = lane.topic, not lane.rule.is_durable
        if topic is None or not lane.may_begin or (is_live and topic.expected):
            return False
        if not (topic.may_send or (lane.by_identity and topic.answered)):
            return False
        sealing = lane.sealing
        if sealing is not None and sealing.still_good(now_ms):
            return True
        if is_live and not topic.readers:
            self._unheard(lane)
            return False
        return self._refresh(lane)

    def forget(self, lane: Lane) -> None:
        self.stalled.pop(lane, None)

    def looked_at_again(self) -> list[Lane]:
        """Policy, trust or sessions changed: those that could not go on may go on now."""
        stalled, self.stalled = self.stalled, {}
        for lane in stalled:
            lane.trouble = None
        return [*stalled]

    def _refresh(self, lane: Lane) -> bool:
        """Ask for its epoch again, and have its readers granted it."""
        topic = lane.topic
        try:
            self._check_may(lane)
            sealing = self._keyring.epoch(lane.use)
            if topic is not None:
                listening, durable = topic.readers
                for grant in self._keyring.grants(sealing, durable=durable).grants if lane.rule.is_durable else ():
                    self._grant(lane, KEPT_GRANT, grant)
                for grant in self._keyring.grants(sealing, listening=listening).grants:  # to keys that are in memory alone
                    self._grant(lane, BY_ITS_TOPIC, grant)
        except (SessionEndedError, VerificationError) as error:
            self._stall(lane, error)
            return False
        except NotPermittedError as error:
            self._failed(lane, error)
            return False
        lane.sealing = sealing
        return True

    def _stall(self, lane: Lane, error: SessionEndedError | VerificationError) -> None:
        """Until there is a session again, which is a moment; or news of trust, for which nobody knows how long it waits."""
        self.stalled[lane] = None
        until = self._keyring.snapshot.trust.statement.next_update_ms
        lane.trouble = TrustStaleError(until) if self._keyring.now_ms() > until else error
        if not isinstance(lane.trouble, SessionEndedError):
            self._failed(lane, lane.trouble)
            return
        with suppress(SessionEndedError):
            self._sessions.current(lane.agent)  # the clock may have been set: then it is renewed now, and not when it was due

    def _check_may(self, lane: Lane) -> None:
        """Policy may have changed since it was accepted."""
        if lane.key.flags != REPLY:
            rule = why_not_publish(self._keyring.snapshot.policy, lane.agent, lane.key.topic)
            if rule is not None:
                raise NotPermittedError(lane.agent, f"publish {lane.key.topic}", rule)

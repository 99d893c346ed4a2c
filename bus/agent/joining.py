"""How subscriptions come and go: judged by my own policy first, then told to the broker, and again after every lost link.

A subscription is live when the broker says so: everybody who publishes knows of it then, so nothing that is published afterwards
is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bus.agent.inbox import Inbox
from bus.agent.settling import Settling
from bus.agent.subscription import Subscription
from bus.errors import (
    BackboneError,
    BusError,
    ClosedError,
    LocalProtocolError,
    NotPermittedError,
    SlowReaderError,
    twin,
)
from bus.identity.envelopes.listening import Subscription as Hears
from bus.identity.envelopes.reserved import AUDIT
from bus.identity.envelopes.snapshot import Snapshot
from bus.policy import Policy
from bus.policy.retention import class_within
from bus.protocol.frames import Frame, encode
from bus.protocol.names import is_agent_name
from bus.transport.bell import Bell, bell

DEAD: Final = "_dead."
NO_LIMIT: Final = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class _Joined:
    subscription: Subscription
    hears: Hears
    start: str
    is_live: bool = False
    waiting: Bell | None = None
    """Rung when it is live; thousands of those that are need none."""
    error: BusError | None = None
    paused: bool = False

    def goes_live(self) -> None:
        self.is_live = True
        if self.waiting is not None:
            self.waiting.ring()

    async def until_live(self) -> None:
        self.waiting = bell()
        while not self.is_live:
            await self.waiting.wait()
        self.waiting = None


class Joining:
    """`send` gives a frame to the link, if there is one."""

    def __init__(self, inbox: Inbox, send: Callable[[bytes], None]) -> None:
        self._inbox, self._send = inbox, send
        self._joined: dict[int, _Joined] = {}
        self._last = 0

    def next_number(self) -> int:
        self._last += 1
        return self._last

    async def join(
        self,
        one: Subscription,
        snapshot: Snapshot,
        *,
        began_ms: int,
        start: str = "",
        settling: Settling | None = None,
        dead: bool = False,
    ) -> None:
        """Return when it is live. Raises NotPermittedError, BackboneError for a durable one, and what ends its agent meanwhile."""
        rule = why_not(snapshot, one, dead=dead)
        if rule is not None:
            raise NotPermittedError(one.agent, f"subscribe to {one.pattern}", rule)
        if one.durable:
            class_within(snapshot.policy, one.pattern)
            self._check_is_new(one)
        ledger = None if settling is None else settling.ledger
        joined = _Joined(one, Hears(one.agent, one.pattern, began_ms, ledger, dead), start)
        self._joined[one.number] = joined
        self._inbox.add(one, joined.hears, settling)
        self._send(_subscribe(joined))
        try:
            await joined.until_live()
        except BaseException:
            self.leave(one)
            raise
        if joined.error is not None:
            self.leave(one)
            raise twin(joined.error)

    def _check_is_new(self, one: Subscription) -> None:
        mine = (one.agent, one.group, one.durable)
        if any((other.agent, other.group, other.durable) == mine for other in self._inbox):
            raise LocalProtocolError(f"{one.agent} has its durable subscription {one.durable!r} open already: take from that one")

    def leave(self, one: Subscription) -> None:
        """Nothing comes any more. Once is enough."""
        if self._joined.pop(one.number, None) is not None:
            self._inbox.remove(one.number)
            self._send(encode(Frame.UNSUBSCRIBE, one.number))

    def close(self, agent: str, error: BusError | None) -> None:
        """All of an agent's end."""
        for joined in [joined for joined in self._joined.values() if joined.subscription.agent == agent]:
            self._end(joined, error)

    def _end(self, joined: _Joined, error: BusError | None) -> None:
        joined.error = error or ClosedError(f"{joined.subscription.agent} is closed")
        joined.goes_live()
        joined.subscription.end(error)
        self.leave(joined.subscription)

    # ---- what the broker says ------------------------------------------------------------------------------------------------

    def joined(self, number: int) -> None:
        found = self._joined.get(number)
        if found is not None:
            found.goes_live()

    def refused(self, number: int, code: str, snapshot: Snapshot) -> None:
        """It is not taken, or was ended later."""
        found = self._joined.get(number)
        if found is None:
            return
        one = found.subscription
        if one.durable and code != "not_permitted":
            self._end(found, _not_kept(one, code, snapshot))
            return
        if code == "busy" and found.is_live:
            self._end(found, SlowReaderError(one.pattern, pending=one.pending, limit=one.limit))
            return
        rule = why_not(snapshot, one, dead=found.hears.dead) or f"the broker: {code}"
        self._end(found, NotPermittedError(one.agent, f"subscribe to {one.pattern}", rule))

    def join_again(self) -> None:
        """On a new link."""
        for joined in self._joined.values():
            if not joined.paused:
                self._send(_subscribe(joined))

    def pause(self, number: int) -> None:
        """What is kept shall wait at the broker."""
        found = self._joined.get(number)
        if found is not None and not found.paused:
            found.paused = True
            self._send(encode(Frame.UNSUBSCRIBE, number))

    def resume(self) -> None:
        """There is news of trust again."""
        for joined in self._joined.values():
            if joined.paused:
                joined.paused = False
                self._send(_subscribe(joined))

    def judge(self, snapshot: Snapshot) -> None:
        """Another policy is in force: those that it does not allow end, with the rule that does not."""
        for joined in list(self._joined.values()):
            one = joined.subscription
            rule = why_not(snapshot, one, dead=joined.hears.dead)
            if rule is not None:
                self._end(joined, NotPermittedError(one.agent, f"subscribe to {one.pattern}", rule))
            elif one.durable:
                self._judge_class(joined, snapshot)

    def _judge_class(self, joined: _Joined, snapshot: Snapshot) -> None:
        try:
            class_within(snapshot.policy, joined.subscription.pattern)
        except BackboneError as error:
            self._end(joined, error)


def _not_kept(one: Subscription, code: str, snapshot: Snapshot) -> BusError:
    """What the broker's word means: policy says as much here, and the rest is in its log."""
    try:
        class_within(snapshot.policy, one.pattern)
    except BackboneError as error:
        return error
    if code == "busy":
        text = "the broker keeps nothing, somebody else has it open, or its disk does not give it: its log says which"
        return BackboneError("busy", f"the durable subscription {one.durable!r} of {one.agent}: {text}")
    text = f"it exists with another pattern than {one.pattern!r} or another start (`tpmbus consumers list` shows both):"
    text = f"{text} subscribe with these, or choose another name"
    return BackboneError("consumer_differs", f"the durable subscription {one.durable!r} of {one.group or one.agent}: {text}")


def why_not(snapshot: Snapshot, one: Subscription, *, dead: bool) -> str | None:
    """The rule that does not let this agent subscribe; None if it may."""
    policy = snapshot.policy
    if dead:
        return None if snapshot.may_hear(one.agent, one.pattern, dead=True) else "it does not stand in the rule's dead_readers"
    if one.pattern.startswith(AUDIT):
        return _why_not_audit(one, policy)
    decision = policy.decide(one.agent, "subscribe", one.pattern)
    if not decision.allowed:
        return f"{decision.rule} ({decision.place})"
    if one.group and not policy.role_of(one.agent).may_join(one.group, one.pattern):
        return f"role {decision.role} may not join the group {one.group}"
    return None


def _why_not_audit(one: Subscription, policy: Policy) -> str | None:
    """As the broker judges it. What is no pattern at all would not even be a frame there, and cost the link of all agents here."""
    if one.agent not in policy.named(policy.audit_readers):
        return "it does not stand in audit_readers"
    whom = one.pattern.removeprefix(AUDIT)
    if whom != "*" and not is_agent_name(whom):
        return f"after {AUDIT!r} comes the name of one agent, or '*' for all of them"
    return "what agents are audited by goes to all who may read it, in no group" if one.group else None


def _subscribe(joined: _Joined) -> bytes:
    one, hears = joined.subscription, joined.hears
    pattern = DEAD + hears.pattern if hears.dead else hears.pattern
    return encode(Frame.SUBSCRIBE, one.number, one.agent, pattern, one.group, one.durable, joined.start, one.limit, one.overflow)

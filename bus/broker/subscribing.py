"""Subscriptions of a link: judged by policy when they begin and whenever policy changes, counted, and ended in one place."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bus.backbone.interface import DEAD
from bus.broker.counts import Counts
from bus.broker.groups import Groups
from bus.broker.holding import Holding
from bus.broker.host_link import BLOCK, OVERFLOWS, HostLink, Subscription
from bus.broker.interest import Interest
from bus.broker.lanes import Lanes
from bus.broker.moment import Moment
from bus.broker.router import Router
from bus.errors import NotPermittedError
from bus.identity.envelopes.reserved import AUDIT, may_read_dead
from bus.identity.envelopes.snapshot import Snapshot
from bus.policy import Policy
from bus.protocol.codec import malformed
from bus.protocol.frames import ALL_DELIVERIES, Frame, sub_ref
from bus.protocol.handshake import Limits
from bus.protocol.names import is_agent_name, is_share_name
from bus.transport.soon import soon

if TYPE_CHECKING:
    from bus.broker.durable import Durable

UNLIMITED: Final = 1 << 32
"""The credit of a durable subscription whose host drops what is too much."""
AT_ONCE: Final = 128
"""Subscriptions that are judged anew, or let go of, in one turn of the loop: a pattern new to policy takes 0.1 ms."""


class Subscribing:
    def __init__(
        self,
        snapshot: Snapshot,
        limits: Limits,
        *,
        counts: Counts,
        groups: Groups,
        holding: Holding,
        interest: Interest,
        lanes: Lanes,
        router: Router,
    ) -> None:
        self._snapshot, self._limits = snapshot, limits
        self._counts, self._groups, self._holding = counts, groups, holding
        self._interest, self._lanes, self._router = interest, lanes, router
        self._unjudged: list[Subscription] | None = []
        self.durable: Durable

    # ---- beginning -----------------------------------------------------------------------------------------------------------

    def begin(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        """A SUBSCRIBE. Raises RemoteProtocolError("malformed") for a number by which it cannot be refused.

        Whatever else is wrong with it costs that subscription alone: who shares the link has not asked for it, and a host that is
        told no reason would ask for it again on its next link, and be cut again, for ever.
        """
        _, number, agent, pattern, group, durable, start, limit, overflow = fields
        if number == ALL_DELIVERIES or number in host.subscriptions:
            raise malformed("a subscription has a new number, from 1 on")
        if not limit or overflow not in OVERFLOWS or not _are_names(group, durable):
            code: str | None = "malformed"
        else:
            code = self.refusal(host, agent, pattern, group)
        if code is None and len(host.subscriptions) >= self._limits.subscriptions:
            code = "busy"
        if code is not None:
            host.refuse(code, sub_ref(number))
            return
        is_kept = durable or pattern.startswith(DEAD)
        credit = limit if overflow == BLOCK else UNLIMITED if is_kept else 0
        one = Subscription(host, number, agent, pattern, group, overflow, limit, credit)
        if is_kept:
            self._begin_kept(one, durable, start)
            return
        self.accept(one, moment)

    def accept(self, one: Subscription, moment: Moment) -> None:
        """A live one that may be: it is said when all who publish know."""
        one.host.subscriptions[one.number] = one
        self._router.add(one)
        self._interest.add(one, now=moment.now)
        if one.group:
            self.refresh_units(one.pattern)

    def refusal(self, host: HostLink, agent: str, pattern: str, group: str) -> str | None:
        """Why not. Raises RemoteProtocolError("malformed")."""
        if not _are_names(group):
            raise malformed("a group has a name of a-z 0-9 _ -")
        if agent not in host.agents or not may_subscribe(self._snapshot.policy, agent, pattern, group):
            return "not_permitted"
        return None

    @property
    def policy(self) -> Policy:
        return self._snapshot.policy

    def may_listen(self, agent: str, pattern: str) -> bool:
        """Whether this agent may have a durable subscription, also of what could not be delivered; in a group or not."""
        policy = self._snapshot.policy
        return may_subscribe(policy, agent, pattern, "") or may_read_dead(policy, agent, pattern)

    def _begin_kept(self, one: Subscription, durable: str, start: str) -> None:
        """It is live when its consumer is open; until then it may still be refused."""
        code = self.durable.begin(one, durable=durable, start=start)
        if code is None:
            one.host.subscriptions[one.number] = one
        else:
            one.host.refuse(code, sub_ref(one.number))

    # ---- ending --------------------------------------------------------------------------------------------------------------

    def end(self, one: Subscription, code: str, moment: Moment) -> None:
        """The broker ends it, and says why."""
        if one.is_live:
            self._counts.ended[code] += 1
            one.host.send(Frame.REFUSE, code, sub_ref(one.number))
            one.host.put_aside(one)
            self.drop(one, moment)

    def drop(self, one: Subscription, moment: Moment) -> None:
        """It has ended. What was held back for it alone is dropped, and what waited for it goes on."""
        if not one.is_live:
            return
        one.is_live = False
        del one.host.subscriptions[one.number]
        if one.taker is not None:
            self.durable.leave(one)
            return
        self._router.remove(one)
        self._interest.remove(one)
        self._holding.release(one, now=moment.now, now_ms=moment.now_ms)
        if one.group:
            self._groups.go_on(now=moment.now, now_ms=moment.now_ms)
            self.refresh_units(one.pattern)

    def let_go(self, host: HostLink, moment: Moment) -> None:
        """The link to a neighbour is lost, and it may have had very many: a few are dropped at a time, and none of them counts."""
        self._router.is_lost()
        self._let_go_some([*host.subscriptions.values()], moment)

    def _let_go_some(self, left: list[Subscription], moment: Moment) -> None:
        for one in left[-AT_ONCE:]:
            self.drop(one, moment)
        del left[-AT_ONCE:]
        if left:
            soon(partial(self._let_go_some, left, moment))

    # ---- following -----------------------------------------------------------------------------------------------------------

    def follow(self, snapshot: Snapshot) -> None:
        """Another policy: all subscriptions are judged anew, by `judge`. By another trust alone none would be judged otherwise."""
        if snapshot.policy is not self._snapshot.policy:
            self._unjudged = None
        self._snapshot = snapshot

    def judge(self, hosts: Iterable[HostLink], moment: Moment) -> bool:
        """End what policy does not allow any more, of a few at a time; True when all were judged.

        Until then nobody gets what it may not hear: that is asked for each topic, when its route is worked out.
        """
        if self._unjudged is None:
            self._unjudged = [one for host in hosts for one in host.subscriptions.values()]
        for _ in range(min(AT_ONCE, len(self._unjudged))):
            one = self._unjudged.pop()
            if one.is_live and not may_subscribe(self._snapshot.policy, one.agent, one.pattern, one.group):
                self.end(one, "not_permitted", moment)
        return not self._unjudged

    def refresh_units(self, pattern: str) -> None:
        """Tell the lanes that this pattern reaches, if the unit of their topic is another now."""
        for lane in self._lanes.reached(pattern):
            unit = self._router.unit(lane.topic)
            if unit != lane.unit:
                lane.unit = unit
                lane.say()


def _are_names(*texts: str) -> bool:
    """Of groups and of durable subscriptions; an empty text stands for none."""
    return all(not text or is_share_name(text) for text in texts)


def may_subscribe(policy: Policy, agent: str, pattern: str, group: str) -> bool:
    if pattern.startswith(DEAD):
        return not group and may_read_dead(policy, agent, pattern.removeprefix(DEAD))
    if pattern.startswith(AUDIT):
        whom = pattern.removeprefix(AUDIT)
        return not group and (whom == "*" or is_agent_name(whom)) and agent in policy.named(policy.audit_readers)
    if not policy.decide(agent, "subscribe", pattern).allowed:
        return False
    try:
        return not group or policy.role_of(agent).may_join(group, pattern)
    except NotPermittedError:
        return False

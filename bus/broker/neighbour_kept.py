"""Durable subscriptions of which neighbours tell, by INTEREST: their agents listen while they are away, and publishers hear so.

judged       as one of a host here: by a pattern that is one, an agent that policy knows, and what policy lets it hear (or read of
             what could not be delivered). Where the agent is live does not matter: brokers on one backbone all know of the same
set aside    what policy does not let be; it is judged again when policy changes. Of many the oldest go
counted      by the name of the broker, see `neighbour_shares`
a few        at a time is all this done, what a neighbour tells and what it takes back, what is judged again, and what is let go of
             when the link is lost; others go on between. Publishers hear of those few in one frame
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from bus.broker.interest import SEEN_SECONDS, Barrier, Interest, Key
from bus.broker.moment import Moment
from bus.broker.neighbour import MAX_ASIDE, Neighbour
from bus.broker.neighbour_shares import Shares, name_of
from bus.broker.offences import Offences
from bus.broker.subscribing import Subscribing
from bus.identity.envelopes.reserved import AUDIT
from bus.policy import Policy
from bus.policy.decide import fault
from bus.protocol.codec import malformed
from bus.protocol.frames import DURABLE, GONE, LISTENS, Frame
from bus.transport.soon import soon

AT_ONCE: Final = 64
"""In one turn of the loop."""


@dataclass(slots=True, eq=False)
class _Told:
    """By one neighbour."""

    policy: Policy = field(repr=False)
    """By which it was judged."""
    aside: dict[Key, None] = field(default_factory=dict, repr=False)


@dataclass(slots=True, eq=False)
class _Changes:
    """Of one turn of the loop."""

    begun: list[Key] = field(default_factory=list)
    ended: list[Key] = field(default_factory=list)


class NeighbourKept:
    def __init__(self, interest: Interest, subscribing: Subscribing, offences: Offences) -> None:
        self._interest, self._subscribing, self._offences = interest, subscribing, offences
        self._shares = Shares()
        self._told: dict[Neighbour, _Told] = {}
        self._unjudged: dict[Neighbour, list[Key]] = {}
        self._leaving: deque[tuple[str, list[Key]]] = deque()
        """Of brokers whose link is lost."""

    def __len__(self) -> int:
        """With those that are let go of."""
        return len(self._shares)

    # ---- hearing -------------------------------------------------------------------------------------------------------------

    def hear(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """An INTEREST. Raises RemoteProtocolError("malformed")."""
        _, serial, rows = fields
        if serial in neighbour.unseen or len(neighbour.unseen) >= MAX_ASIDE:
            raise malformed("a serial that is not answered yet, or too many of these")
        for _, pattern, how in rows:
            if how == LISTENS:
                raise malformed("a neighbour tells of live subscriptions one by one")
            if not _is_pattern(pattern):
                raise malformed("a durable subscription of what no topic can be")
        neighbour.unseen[serial] = False
        barrier = Barrier(partial(_seen, neighbour, serial), moment.now + SEEN_SECONDS, waits_for=1)
        piece = partial(self._hear_some, neighbour, deque(rows), barrier, moment)
        if not piece():
            neighbour.intake.do_first(piece)

    def _hear_some(self, neighbour: Neighbour, rows: deque[Any], barrier: Barrier, moment: Moment) -> bool:
        """True when all of them are heard. Raises RemoteProtocolError("malformed")."""
        if neighbour.is_gone:
            return True
        changes = _Changes()
        try:
            for _ in range(min(AT_ONCE, len(rows))):
                self._hear_one(neighbour, rows.popleft(), changes, moment)
        finally:
            self._tell(changes, barrier)
        if not rows:
            barrier.one_less()
        return not rows

    def _hear_one(self, neighbour: Neighbour, row: Sequence[Any], changes: _Changes, moment: Moment) -> None:
        agent, pattern, how = row
        told, key = self._of(neighbour), (agent, pattern, DURABLE)
        if how == GONE:
            told.aside.pop(key, None)
            if key in neighbour.kept:
                self._let_go_of(neighbour, key)
                changes.ended.append(key)
        elif key in neighbour.kept or key in told.aside:
            return
        elif not self._may(key):
            self._set_aside(told, key)
            what = f"{name_of(neighbour)} tells of a durable subscription that policy does not allow"
            self._offences.note(neighbour.link.peer, what, f"{agent} {pattern}", now=moment.now)
        elif self._keep(neighbour, key):
            changes.begun.append(key)
        else:
            raise malformed("more durable subscriptions than a broker can have")

    def _tell(self, changes: _Changes, barrier: Barrier | None) -> None:
        self._interest.keep_far(changes.begun, barrier)
        self._interest.keep_far_no_more(changes.ended)

    def lost(self, neighbour: Neighbour) -> None:
        self._told.pop(neighbour, None)
        self._unjudged.pop(neighbour, None)
        kept, neighbour.kept = neighbour.kept, {}
        if kept:
            self._leaving.append((name_of(neighbour), [*kept]))
            if len(self._leaving) == 1:
                soon(self._leave)

    def _leave(self) -> None:
        name, keys = self._leaving[0]
        some = keys[-AT_ONCE:]
        del keys[-AT_ONCE:]
        for key in some:
            self._shares.release(name, *key[:2])
        self._interest.keep_far_no_more(some)
        if not keys:
            self._leaving.popleft()
        if self._leaving:
            soon(self._leave)

    # ---- judging -------------------------------------------------------------------------------------------------------------

    def judge(self, neighbour: Neighbour) -> None:
        """By another policy."""
        told = self._told.get(neighbour)
        if told is None or told.policy is self._subscribing.policy:
            return
        told.policy = self._subscribing.policy
        is_idle = not self._unjudged
        self._unjudged[neighbour] = [*neighbour.kept, *told.aside]
        if is_idle:
            soon(self._judge_some)

    def _judge_some(self) -> None:
        neighbour = next(iter(self._unjudged), None)
        if neighbour is None:
            return
        keys = self._unjudged[neighbour]
        some = keys[-AT_ONCE:]
        del keys[-AT_ONCE:]
        if not keys:
            del self._unjudged[neighbour]
        self._judge(neighbour, some)
        if self._unjudged:
            soon(self._judge_some)

    def _judge(self, neighbour: Neighbour, keys: Sequence[Key]) -> None:
        told, changes = self._told[neighbour], _Changes()
        for key in keys:
            if key in told.aside and self._may(key):
                if self._keep(neighbour, key):
                    del told.aside[key]
                    changes.begun.append(key)
            elif key in neighbour.kept and not self._may(key):
                self._let_go_of(neighbour, key)
                self._set_aside(told, key)
                changes.ended.append(key)
        self._tell(changes, None)

    def _may(self, key: Key) -> bool:
        return self._subscribing.may_listen(key[0], key[1])

    # ---- one of them ---------------------------------------------------------------------------------------------------------

    def _of(self, neighbour: Neighbour) -> _Told:
        found = self._told.get(neighbour)
        if found is None:
            found = self._told[neighbour] = _Told(self._subscribing.policy)
        return found

    def _keep(self, neighbour: Neighbour, key: Key) -> bool:
        if not self._shares.take(name_of(neighbour), *key[:2]):
            return False
        neighbour.kept[key] = None
        return True

    def _let_go_of(self, neighbour: Neighbour, key: Key) -> None:
        del neighbour.kept[key]
        self._shares.release(name_of(neighbour), *key[:2])

    @staticmethod
    def _set_aside(told: _Told, key: Key) -> None:
        told.aside[key] = None
        if len(told.aside) > MAX_ASIDE:
            del told.aside[next(iter(told.aside))]


def _is_pattern(pattern: str) -> bool:
    return fault("subscribe", pattern.removeprefix(AUDIT)) is None


def _seen(neighbour: Neighbour, serial: int) -> None:
    """To see one is to have seen all before it: so those are waited for."""
    unseen = neighbour.unseen
    unseen[serial] = True
    last = 0
    while unseen and unseen[next(iter(unseen))]:
        last = next(iter(unseen))
        del unseen[last]
    if last and not neighbour.is_gone:
        neighbour.send(Frame.INTEREST_SEEN, last)

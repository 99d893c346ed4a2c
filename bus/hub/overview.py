"""What the desk of a hub answers: who is here, what they say and hear, what is kept, and each envelope as it passes.

It looks at the broker, the backbone and the policy in force, and changes nothing but what an operator asks it to: a consumer that
nobody needs is removed, a dead letter is handed out again or dropped. None of this can read a message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from bus.backbone.interface import Backbone, ConsumerFacts, ConsumerName, DeadLetter
from bus.broker.listing import Listing
from bus.errors import BackboneError, NotPermittedError
from bus.hub.admin import Desk
from bus.policy import Policy
from bus.protocol.names import is_agent_name, pattern_fault

UNITS = ("envelope", "record")
VERBS = (
    "agents", "topics", "subscriptions", "consumers", "remove_consumer", "dead_letters", "show_dead", "requeue_dead", "drop_dead",
)  # fmt: skip
WATCHED = ("trace",)
"""Verbs, beside `status`: those that answer once, and those that go on."""
MAX_DEAD = 10_000
"""Dead letters in one answer."""
_LAST_DATE = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class Overview:
    """`status` gives what the hub says of itself; `policy` the one in force now."""

    def __init__(
        self,
        listing: Listing,
        backbone: Backbone | None,
        *,
        policy: Callable[[], Policy],
        status: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._listing, self._backbone, self._policy, self._status = listing, backbone, policy, status

    def register(self, desk: Desk) -> None:
        for name in ("status", *VERBS, *WATCHED):
            desk.register(name, getattr(self, name))

    # ---- the broker ----------------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        return dict(await self._status())

    def agents(self, names: list[str] | None = None) -> list[dict[str, Any]]:
        """All of the policy and all that are live, or these. Raises NotPermittedError for one that policy does not know."""
        policy, live = self._policy(), {one.agent: one for one in self._listing.live()}
        found = []
        for name in names or sorted({*policy.agents, *live}):
            role, here = policy.role_of(name).name, live.get(name)
            row: dict[str, Any] = {"agent": name, "role": role, "live": here is not None}
            row |= {"process": here and here.process, "link": here and here.kind, "address": here and here.address}
            found.append(row | {"subscriptions": here.subscriptions if here else 0, "until": here and _date(here.until_ms)})
        return found

    def topics(self, pattern: str = ">") -> list[dict[str, Any]]:
        """Those that were published on since policy last changed."""
        _check_pattern(pattern)
        policy = self._policy()
        return [
            {
                "topic": one.topic,
                "class": policy.topic_rule(one.topic).class_,
                "unit": UNITS[one.unit],
                "publishers": one.publishers,
                "readers": one.readers,
            }
            for one in self._listing.spoken(pattern)
        ]

    def subscriptions(self, agent: str | None = None) -> list[dict[str, Any]]:
        return [
            {
                "agent": one.agent,
                "pattern": one.pattern,
                "group": one.group,
                "durable": one.durable,
                "overflow": one.overflow,
                "credit": one.credit,
                "held_bytes": one.held_bytes,
                "neighbour": one.host.where.address if one.host.is_neighbour else "",
            }
            for one in self._listing.subscriptions()
            if agent is None or one.agent == agent
        ]

    async def trace(self, pattern: str = ">") -> AsyncGenerator[dict[str, Any], None]:
        _check_pattern(pattern)
        async for sight in self._listing.watch(pattern):
            yield sight._asdict()

    # ---- what is kept ----------------------------------------------------------------------------------------------------------

    async def consumers(self) -> list[dict[str, Any]]:
        return [_consumer(one) for one in await self._kept().consumers()]

    async def remove_consumer(self, owner: str, name: str) -> None:
        await self._kept().remove_consumer(ConsumerName(owner, name))

    async def dead_letters(self, class_: str = "", after: int = 0, most: int = 100) -> list[dict[str, Any]]:
        return [_dead(one) for one in await self._kept().dead_letters(class_=class_, after=after, most=min(most, MAX_DEAD))]

    async def show_dead(self, class_: str, position: int) -> dict[str, Any]:
        """What is known of one, and how many bytes its frame has; its content is for those who may read it on the bus."""
        listed = await self._kept().dead_letters(class_=class_, after=position - 1, most=1)
        if not listed or listed[0].position != position:
            raise BackboneError("unknown_dead", f"there is no dead letter {position} of {class_}: `tpmbus dead list` has all")
        return _dead(listed[0]) | {"bytes": len(await self._kept().show_dead(class_, position))}

    async def requeue_dead(self, class_: str, position: int) -> None:
        await self._kept().requeue_dead(class_, position)

    async def drop_dead(self, class_: str, position: int) -> None:
        await self._kept().drop_dead(class_, position)

    def _kept(self) -> Backbone:
        if self._backbone is None:
            raise BackboneError("unknown_class", "this hub keeps nothing: open it with a state folder")
        return self._backbone


def _consumer(one: ConsumerFacts) -> dict[str, Any]:
    return {
        "owner": one.name.owner,
        "name": one.name.name,
        "kind": "agent" if is_agent_name(one.name.owner) else "group",
        "class": one.class_,
        "pattern": one.pattern,
        "start": one.start,
        "open": one.is_open,
        "settled": one.floor,
        "behind": one.behind,
        "outstanding": one.outstanding,
        "waiting": one.waiting,
        "made": _date(one.made_ms),
        "used": _date(one.used_ms),
    }


def _dead(one: DeadLetter) -> dict[str, Any]:
    return {
        "class": one.class_,
        "position": one.position,
        "topic": one.topic,
        "sender": one.sender,
        "id": one.id.hex(),
        "consumer": str(one.consumer),
        "original": one.original,
        "reason": one.reason,
        "deliveries": one.deliveries,
        "died": _date(one.died_ms),
    }


def _check_pattern(pattern: str) -> None:
    fault = pattern_fault(pattern)
    if fault:
        raise NotPermittedError("operator", f"look at {pattern[:60]!r}", f"the pattern {fault}")


def _date(ms: int) -> str:
    """Of what others wrote the nearest that there is: one that is no date must not hide the rest of a list."""
    return datetime.fromtimestamp(min(max(ms, 0) / 1000, _LAST_DATE), UTC).isoformat(timespec="seconds")

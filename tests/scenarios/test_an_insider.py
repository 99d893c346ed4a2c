"""An agent with good papers and a host that was changed, against an honest broker and everybody else's hosts.

The insider's host is one behind a seam of `lying_broker`: what it says beside the truth is said there in its name. All others are
linked to the broker itself.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from lying_broker import Liar, Seam, bodies, header_of, inside, lying, refused, soon

from bus.identity.host.host_keys import HostKeys
from bus.protocol import envelope as envelopes
from bus.protocol.frames import BY_ITS_TOPIC, KEPT_GRANT, Frame, column
from bus.protocol.header import GRANT, Header

pytestmark = pytest.mark.anyio
WORK = "work.build"


class Insider:
    """What a changed host says in the name of its agent."""

    def __init__(self, liar: Liar, agent: Any) -> None:
        self.liar, self.agent, self.name = liar, agent, agent.name
        self.seam: Seam = liar.seam_of(agent)
        self._turn = 1_000_000

    def header(self, topic: str, epoch: bytes, **changes: Any) -> Header:
        now_ms, host = self.liar.hub.clock.now_ms(), inside(self.agent)
        session = host.sessions.held[self.name].id
        plain = Header(1, 1, 0, topic, self.name, session, epoch, 0, now_ms, now_ms + 60_000, 3, 1, os.urandom(16), b"", 0)
        return plain._replace(**changes)

    def grant_of(self, reader: str, epoch: bytes) -> bytes:
        """One that nobody can open."""
        header = self.header(f"_grant.{reader}", epoch, kind=GRANT, priority=0, ref=os.urandom(16))
        return envelopes.join(header.encode(), os.urandom(100))

    def junk(self, topic: str, epoch: bytes, **changes: Any) -> bytes:
        """An envelope that is right as far as a broker can tell."""
        return envelopes.join(self.header(topic, epoch, **changes).encode(), os.urandom(100))

    async def publishes(self, *sent: bytes, alias: int = BY_ITS_TOPIC, topic: str = "") -> list[str]:
        """In a turn of its own; what the broker says of those that it refuses."""
        if topic:
            alias = self._turn
            self.seam.say(Frame.OPEN, alias, topic)
        before = len(self.seam.told)
        self._turn += 1
        self.seam.say(Frame.PUBLISH, self._turn, column([alias] * len(sent)), [*sent])
        await self.liar.hub.settle()
        ids = {header_of(one).id for one in sent}
        return [frame[1] for frame in self.seam.told[before:] if frame[0] == Frame.REFUSE and frame[2] in ids]


def shelf_of(agent: str) -> bytes:
    """Under which a broker keeps the inbox papers of an agent."""
    return hashlib.sha256(b"inbox " + agent.encode()).digest()


# ---- what it has kept -----------------------------------------------------------------------------------------------------------


async def test_nothing_that_an_insider_has_kept_stands_where_a_broker_looks_for_inboxes():
    async with lying() as liar, liar.host().agent("GUEST") as guest:
        insider = Insider(liar, guest)
        await insider.publishes(insider.grant_of("MASON", shelf_of("MASON")), alias=KEPT_GRANT)
        async with (
            liar.hub.host().agent("LEAD") as lead,
            liar.hub.host().agent("PAINTER") as painter,
            painter.subscribe("work.>", group="crew", durable="all") as work,
        ):  # the broker looks up the inboxes of all who may be in the group; MASON was never here
            await liar.hub.settle()
            assert await soon(lead.publish(WORK, b"the wall")) is not None
            assert await bodies(liar, work) == [b"the wall"]


async def test_an_envelope_whose_epoch_is_named_like_an_inbox_ends_nobodys_durable_subscription():
    async with lying() as liar, liar.host().agent("SECOND") as second:
        insider = Insider(liar, second)
        async with (
            liar.hub.host().agent("LEAD") as lead,
            liar.hub.host().agent("PAINTER") as painter,
            painter.subscribe("work.>", durable="mine") as work,
        ):
            assert not await insider.publishes(insider.junk(WORK, shelf_of("PAINTER")), topic=WORK)
            assert await soon(lead.publish(WORK, b"the wall")) is not None
            await liar.hub.advance(5)
            assert await bodies(liar, work) == [b"the wall"]
            assert work.is_open


async def test_who_names_anothers_epoch_first_keeps_nobody_from_its_messages():
    """A broker that starts again knows nobody's epochs. Here it only forgets them."""
    async with lying() as liar, liar.host().agent("SECOND") as second:
        insider, asking = Insider(liar, second), liar.hub.broker._asking
        async with liar.hub.host().agent("MASON") as mason, mason.subscribe("work.>", durable="mine"):
            pass
        async with (
            liar.hub.host().agent("LEAD") as lead,
            liar.hub.host().agent("PAINTER") as painter,
            painter.subscribe("work.>", durable="mine"),
        ):
            await soon(lead.publish(WORK, b"one"))
            (epoch,) = inside(painter).keyring.held.epochs
            asking._senders_of.clear()
            asking._of_sender.clear()
            assert not await insider.publishes(insider.junk(WORK, epoch), topic=WORK)
            assert await soon(lead.publish(WORK, b"two")) is not None
            assert not await insider.publishes(*[insider.grant_of("MASON", epoch) for _ in range(9)], alias=KEPT_GRANT)
        async with liar.hub.host().agent("MASON") as mason, mason.subscribe("work.>", durable="mine") as work:
            await liar.hub.advance(5)
            assert await bodies(liar, work) == [b"one", b"two"]


# ---- keys that are not its own --------------------------------------------------------------------------------------------------


async def test_who_certifies_another_agents_kem_key_does_not_keep_it_from_being_granted(monkeypatch: pytest.MonkeyPatch):
    async with lying() as liar, liar.hub.host().agent("LEAD") as lead, liar.hub.host().agent("PAINTER") as painter:
        theirs = inside(painter).sessions.held["PAINTER"].keys
        made = HostKeys.make

        def stolen(kem: int, random: Any) -> HostKeys:
            keys = made(kem, random)
            keys.kem_key, keys.kem_key_id = theirs.kem_key, theirs.kem_key_id
            return keys

        monkeypatch.setattr(HostKeys, "make", stolen)
        async with liar.host().agent("MASON") as mason, mason.subscribe("tasks.>"):
            monkeypatch.setattr(HostKeys, "make", made)
            assert inside(mason).sessions.held["MASON"].keys.kem_key_id == theirs.kem_key_id
            await lead.publish("tasks.a", b"for MASON, who cannot open it")
            await liar.hub.settle()
            async with painter.subscribe("tasks.>") as tasks:
                await lead.publish("tasks.a", b"for both")
                assert (await bodies(liar, tasks))[-1:] == [b"for both"]
                assert refused(painter) == {}

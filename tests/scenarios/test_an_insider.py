"""An agent with good papers and a host that was changed, against an honest broker and everybody else's hosts.

The insider's host is one behind a seam of `seams`: what it says beside the truth is said there in its name. All others are
linked to the broker itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from lying_broker import LiarInMemory, bodies, inside, lying, refused, soon
from seams import Seam, header_of

from bus.agent.connection import REFUSED_TOO_MUCH
from bus.agent.events import Connected, Disconnected
from bus.broker import publishing
from bus.identity.envelopes.seal import given_id
from bus.identity.host.host_keys import HostKeys
from bus.protocol import envelope as envelopes
from bus.protocol.frames import BY_ITS_TOPIC, KEPT_GRANT, Frame, column
from bus.protocol.header import GRANT, Header

pytestmark = pytest.mark.anyio
WORK = "work.build"


class Insider:
    """What a changed host says in the name of its agent."""

    def __init__(self, liar: LiarInMemory, agent: Any) -> None:
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
            await liar.hub.settle()
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


@asynccontextmanager
async def together() -> AsyncIterator[tuple[LiarInMemory, Insider, Any, Any]]:
    """SECOND is the insider; LEAD says something on a durable topic and on a live one, and PAINTER hears both."""
    async with (
        lying() as liar,
        liar.host().agent("SECOND") as second,
        liar.hub.host().agent("LEAD") as lead,
        liar.hub.host().agent("PAINTER") as painter,
    ):
        yield liar, Insider(liar, second), lead, painter


async def test_papers_of_others_do_not_let_an_insider_in_as_them():
    async with together() as (liar, insider, lead, painter), painter.subscribe("tasks.>") as tasks:
        victim = inside(lead).sessions.held["LEAD"]
        for signature in (b"", os.urandom(64), inside(insider.agent).sessions.held["SECOND"].keys.sign(b"something")):
            insider.seam.say(Frame.PAPERS, [victim.papers], signature)
        await liar.hub.settle()
        assert [frame[1] for frame in insider.seam.told if frame[0] == Frame.DRAIN] == ["unverified LEAD"] * 3
        assert lead.error is None
        await lead.publish("tasks.a", b"LEAD is who it was")
        assert await bodies(liar, tasks) == [b"LEAD is who it was"]


async def test_what_is_said_in_the_name_of_others_is_not_passed_on():
    async with together() as (liar, insider, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.a", b"one")
        await liar.hub.settle()
        (epoch,) = inside(painter).keyring.held.epochs
        session = inside(lead).sessions.held["LEAD"].id
        mine = inside(insider.agent).sessions.held["SECOND"].id
        for changes in ({"sender": "LEAD"}, {"sender": "LEAD", "session": session}, {"session": session}):
            said = await insider.publishes(insider.junk("tasks.a", epoch, **{"session": mine, **changes}), topic="tasks.a")
            assert said == ["unverified"]
        assert not await insider.publishes(insider.junk("tasks.a", epoch), topic="tasks.a"), "its own junk a broker cannot tell"
        await liar.hub.advance(5)
        assert await bodies(liar, tasks) == [b"one"]
        assert refused(painter) == {"wrong_epoch": 1}
        await lead.publish("tasks.a", b"two")
        assert await bodies(liar, tasks) == [b"two"]


async def test_ids_and_numbers_of_others_suppress_nothing_of_theirs():
    """The id that LEAD will give is known before: duplicates are told by sender and id."""
    async with together() as (liar, insider, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        id_ = given_id("LEAD", "job-1")
        await soon(insider.agent.publish(WORK, b"SECOND is here"))
        (epoch,) = inside(insider.agent).keyring._sealing._by_id
        assert not await insider.publishes(insider.junk(WORK, epoch, id=id_), topic=WORK)
        assert await soon(lead.publish(WORK, b"LEAD's", id="job-1")) is not None
        await liar.hub.advance(5)
        assert await bodies(liar, work) == [b"SECOND is here", b"LEAD's"]


@pytest.mark.parametrize(
    "pattern",
    [
        "_reply.>",
        "_reply.LEAD.>",
        "_grant.*",
        "_grant.LEAD",
        "_audit.LEAD",
        "_audit.*",
        "_dead.work.>",
        "_dead.>",
        "*.LEAD.*",
        "_.>",
        ">.>",
    ],
)
async def test_no_pattern_reaches_what_is_the_buses_own(pattern: str):
    async with together() as (liar, insider, lead, painter), painter.subscribe("ask.>") as asked:
        before = len(insider.seam.told)
        insider.seam.say(Frame.SUBSCRIBE, 900, "SECOND", pattern, "", "", "", 100, "block")
        await liar.hub.settle()
        answers = [frame for frame in insider.seam.told[before:] if frame[0] in (Frame.SUBSCRIBED, Frame.REFUSE)]
        assert answers == [[Frame.REFUSE, "not_permitted", (900).to_bytes(4, "big")]]
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                await (await anext(asked)).reply(b"for LEAD")

            tasks.start_soon(answer)
            assert (await soon(lead.request("ask.it", b"?"))).body == b"for LEAD"
        got = insider.seam.deliveries() if not insider.seam.is_over else []
        assert not [one for one in got if header_of(one[5]).topic.startswith("_")]


@pytest.mark.parametrize("topic", ["_grant.PAINTER", "_reply.LEAD." + "0" * 32, "_audit.LEAD", "_dead.work.a", "_x.y"])
async def test_nothing_is_published_where_only_the_bus_speaks(topic: str):
    async with together() as (_, insider, _lead, _painter):
        assert await insider.publishes(insider.junk(topic, os.urandom(32)), topic=topic) in (["not_permitted"], ["malformed"])
        assert await insider.publishes(insider.junk(topic, os.urandom(32))) in (["not_permitted"], ["malformed"])


async def test_who_was_not_asked_does_not_answer():
    async with together() as (_, insider, lead, painter), painter.subscribe("ask.>") as asked:
        async with anyio.create_task_group() as tasks:
            found: list[Any] = []

            async def ask() -> None:
                found.append((await lead.request("ask.it", b"?", timeout=30)).body)

            tasks.start_soon(ask)
            message = await soon(anext(asked))
            topic = f"_reply.LEAD.{message.header.session.hex()}"
            reply = insider.junk(topic, os.urandom(32), flags=2, ref=message.header.id)
            assert await insider.publishes(reply) == ["not_permitted"]
            await message.reply(b"the answer")
        assert found == [b"the answer"]


async def test_a_group_that_policy_does_not_name_is_closed_to_it():
    async with together() as (liar, insider, _lead, _painter):
        insider.seam.say(Frame.SUBSCRIBE, 900, "SECOND", "work.>", "crew", "all", "", 100, "block")
        insider.seam.say(Frame.SUBSCRIBE, 901, "PAINTER", "tasks.>", "", "", "", 100, "block")
        await liar.hub.settle()
        assert [frame[1:] for frame in insider.seam.told if frame[0] == Frame.REFUSE] == [
            ["not_permitted", (number).to_bytes(4, "big")] for number in (900, 901)
        ]


async def test_nobody_settles_what_another_member_of_its_group_was_given():
    async with (
        lying() as liar,
        liar.hub.host().agent("LEAD") as lead,
        liar.hub.host().agent("PAINTER") as painter,
        painter.subscribe("work.>", group="crew", durable="all", limit=1) as work,
        liar.host().agent("MASON") as mason,
    ):
        await soon(lead.publish(WORK, b"PAINTER's"))
        assert (await soon(anext(work))).body == b"PAINTER's"
        async with mason.subscribe("work.>", group="crew", durable="all", limit=1) as theirs:
            seam = liar.seam_of(mason)
            for verb in (1, 3):
                seam.say(Frame.SETTLE, seam.subs("work.>")[0], verb, [[0, (1 << 64) - 1]], 0, "mine")
            await liar.hub.advance(31)
            assert await bodies(liar, theirs) == [b"PAINTER's"], "it was not settled, so when its time is over it comes again"


async def test_credit_beyond_everything_is_a_limit_and_no_more():
    async with together() as (liar, insider, lead, painter), insider.agent.subscribe("tasks.>", limit=8) as mine:
        async with painter.subscribe("tasks.>") as tasks:
            number = insider.seam.subs("tasks.>")[0]
            for _ in range(20):
                insider.seam.say(Frame.CREDIT, number, 0xFFFFFFFF)
            await lead.publish_many("tasks.a", [b"%d" % one for one in range(600)])
            await liar.hub.settle()
            assert insider.seam.inside.buffered < 1 << 20
            assert len(await bodies(liar, tasks)) == 600
            assert mine.is_open


async def test_more_deliveries_taken_in_than_were_made_end_its_link_alone():
    async with together() as (liar, insider, lead, painter), painter.subscribe("tasks.>") as tasks:
        seam = insider.seam
        seam.say(Frame.CREDIT, 0, 0xFFFFFFFF)
        await liar.hub.settle()
        assert seam.is_over
        await lead.publish("tasks.a", b"on")
        assert await bodies(liar, tasks) == [b"on"]


async def test_a_reader_that_takes_nothing_in_holds_up_its_topic_for_a_moment_and_others_not_at_all():
    async with together() as (liar, insider, lead, painter):
        async with (
            insider.agent.subscribe("tasks.slow", limit=1),
            painter.subscribe("tasks.>", limit=10_000) as tasks,
        ):
            liar.up = lambda _, frame: [] if frame[0] == Frame.CREDIT else None
            for number in range(50):
                await lead.publish("tasks.slow", b"s%d" % number)
                await lead.publish("tasks.quick", b"q%d" % number)
                await liar.hub.advance(0.01)
            found = await bodies(liar, tasks)
            assert [one for one in found if one[:1] == b"q"] == [b"q%d" % number for number in range(50)]
            await liar.hub.advance(3)
            found += await bodies(liar, tasks)
            assert [one for one in found if one[:1] == b"s"] == [b"s%d" % number for number in range(50)]
            liar.be_honest()


async def test_answers_without_end_are_taken_as_long_as_somebody_wants_them():
    """Whoever was asked may answer; how often is bounded by who asked."""
    async with (
        lying() as liar,
        liar.hub.host().agent("LEAD") as lead,
        liar.host().agent("MASON") as mason,
        mason.subscribe("ask.>") as asked,
    ):
        answers = lead.request_many("ask.it", b"?", most=5, timeout=60)
        async with anyio.create_task_group() as tasks:
            first: list[Any] = []

            async def ask() -> None:
                first.append(await anext(answers))

            tasks.start_soon(ask)
            message = await soon(anext(asked))
            for number in range(2_000):
                await message.reply(b"%d" % number)
                if number % 200 == 0:
                    await liar.hub.settle()
        await liar.hub.settle()
        (pending,) = inside(lead).requests._pending.values()
        assert len(pending.replies) <= 5
        answers.close()


async def test_whose_host_is_cut_over_what_was_refused_hears_why_and_comes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(publishing, "MAX_JUNK", 20)
    async with together() as (liar, insider, lead, painter), painter.subscribe("tasks.>") as tasks:
        forged = insider.junk("tasks.a", os.urandom(32), sender="LEAD")
        insider.seam.say(Frame.OPEN, 900, "tasks.a")
        insider.seam.say(Frame.PUBLISH, 1_000_000, column([900] * 21), [forged] * 21)
        await liar.hub.advance(1)
        assert await soon(anext(insider.agent.events())) == Disconnected(REFUSED_TOO_MUCH)
        assert await soon(anext(insider.agent.events())) == Connected()
        await lead.publish("tasks.a", b"on")
        assert await bodies(liar, tasks) == [b"on"]

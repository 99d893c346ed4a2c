"""A dishonest broker against honest hosts: what the threat model promises (docs/spec, part 1), one attack after the other.

Each test tells one lie, sees that nothing forged, replayed or meant for others is handed to anybody, that the refusal has its name,
and that what is honest beside it goes on.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from lying_broker import POLICY, LiarInMemory, bodies, inside, lying, refused, secrets_of, soon
from random_frames import FIELDS
from seams import POSES, Seam, changed, header_of, sealed_with, withheld

from bus.agent.connection import FIRST_TRIES
from bus.errors import (
    BusError,
    ConnectError,
    ConnectionLostError,
    NoRespondersError,
    RemoteProtocolError,
    RequestTimeoutError,
    SessionReplacedError,
    TrustStaleError,
    VerificationError,
)
from bus.flow.trie import Trie
from bus.protocol import envelope as envelopes
from bus.protocol.frames import BUNDLE, CRL, DURABLE, LISTENS, MAX_FRAME_BYTES, STATEMENT, Frame, encode
from bus.protocol.header import GRANT

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TOPIC = "tasks.build"


class Scene:
    """LEAD publishes and PAINTER reads, each in a process of its own; the broker between them lies."""

    def __init__(self, liar: LiarInMemory, lead: Any, painter: Any, tasks: Any) -> None:
        self.liar, self.lead, self.painter, self.tasks = liar, lead, painter, tasks
        self._said = 0

    @property
    def to_painter(self) -> Seam:
        return self.liar.seam_of(self.painter)

    @property
    def to_lead(self) -> Seam:
        return self.liar.seam_of(self.lead)

    @property
    def sub(self) -> int:
        return self.to_painter.subs("tasks.>")[0]

    async def say(self, body: bytes = b"hello", topic: str = TOPIC) -> bytes:
        """LEAD says it, and it is the last envelope that PAINTER's broker hears: that envelope."""
        await self.lead.publish(topic, body)
        await self.liar.hub.settle()
        return self.to_lead.envelopes(topic=topic)[-1]

    async def heard(self) -> list[Any]:
        return await bodies(self.liar, self.tasks)

    async def goes_on(self) -> None:
        """What is honest arrives, whatever was before."""
        self.liar.be_honest()
        self._said += 1
        body = b"honest %d" % self._said
        await self.lead.publish("tasks.honest", body)
        assert (await self.heard())[-1:] == [body]

    async def refuses(self, reason: str, times: int = 1) -> None:
        """Nothing was handed over, this was why, and it is told."""
        assert await self.heard() == []
        assert refused(self.painter) == {reason: times}
        told = self.painter.refusals()
        assert [(await soon(anext(told))).reason for _ in range(times)] == [reason] * times
        await self.goes_on()


@asynccontextmanager
async def scene(policy: str = POLICY, **options: Any) -> AsyncIterator[Scene]:
    async with (
        lying(policy, **options) as liar,
        liar.host().agent("LEAD") as lead,
        liar.host().agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        yield Scene(liar, lead, painter, tasks)


# ---- it cannot read -------------------------------------------------------------------------------------------------------------


async def test_nothing_secret_ever_leaves_a_host():
    """Neither what was said nor any key, in none of the ways in which something is said; over renewals and reconnects too."""
    words = [f"the secret word is {word}, and nobody else knows it".encode() for word in "abcdefgh"]
    async with scene() as one, one.liar.host().agent("WATCH") as watch:
        liar, lead, painter = one.liar, one.lead, one.painter
        secrets: set[bytes] = set()
        async with (
            painter.subscribe("work.>", durable="mine") as work,
            painter.subscribe("control.>") as control,
            painter.subscribe("ask.>") as asked,
            watch.subscribe(">", limit=10_000) as everything,
        ):
            for number in range(2):
                await lead.publish(TOPIC, words[0], headers={"key": words[1].decode()})
                await lead.publish_many(TOPIC, [words[2]] * 100)
                await soon(lead.publish("work.a", words[3], id=f"job-{number}"))
                await soon(lead.publish("control.stop", words[4]))
                async with anyio.create_task_group() as tasks:

                    async def answer() -> None:
                        await (await anext(asked)).reply(words[6])

                    tasks.start_soon(answer)
                    assert (await soon(lead.request("ask.it", words[5]))).body == words[6]
                await (await soon(anext(work))).ack(confirmed=True)
                assert (await soon(anext(control))).body == words[4]
                secrets.update(secrets_of(lead, painter, watch))
                await liar.hub.advance(15 * 60)
            assert await bodies(liar, everything)
        secrets.update(secrets_of(lead, painter, watch))
    assert len(secrets) > 10
    assert liar.seen(TOPIC.encode()), "what is in the clear was seen, so this would see the rest"
    assert liar.seen(*words, *secrets) == []


# ---- it cannot forge, or change -------------------------------------------------------------------------------------------------


async def test_bits_that_are_flipped_on_the_way_are_refused_wherever_they_are():
    async with scene() as one:
        envelope = await one.say()
        assert await one.heard() == [b"hello"]
        await one.lead.publish(TOPIC, b"next")
        flips = range(0, len(envelope) * 8, 11)
        for bit in flips:
            flipped = bytearray(envelope)
            flipped[bit // 8] ^= 1 << bit % 8
            one.to_painter.deliver(bytes(flipped), subs=[one.sub])
        await one.liar.hub.advance(5)  # what names keys or papers that nobody has waits for them, and in vain
        assert await one.heard() == [b"next"]
        assert sum(refused(one.painter).values()) == len(flips)
        assert refused(one.painter).keys() <= {
            "malformed", "unsolicited", "from_future", "expired", "ttl_too_long", "missing_key", "wrong_epoch", "before_session",
            "replayed", "bad_seal", "missing_papers", "untrusted", "no_granter", "not_granted", "busy",
        }  # fmt: skip
        await one.goes_on()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"topic": "tasks.deploy"}, "bad_seal"),
        ({"topic": "plans.build"}, "unsolicited"),
        ({"sender": "SECOND"}, "wrong_epoch"),
        ({"sender": "PAINTER"}, "wrong_epoch"),
        ({"seq": 1_000}, "bad_seal"),
        ({"priority": 1}, "wrong_epoch"),
        ({"records": 2}, "bad_seal"),
        ({"before": 7}, "bad_seal"),
        ({"flags": 1}, "bad_seal"),
        ({"id": bytes(16)}, "bad_seal"),
        ({"sent_ms": 1_800_000_000_001}, "bad_seal"),
        ({"sent_ms": 1_799_999_999_000, "expires_ms": 1_800_000_000_000}, "before_session"),
        ({"expires_ms": 1_800_000_000_001}, "bad_seal"),
        ({"expires_ms": 1_900_000_000_000}, "ttl_too_long"),
        ({"flags": 2, "ref": bytes(16), "topic": "_reply.PAINTER." + "0" * 32}, "unsolicited"),
        ({"kind": 2, "topic": "_grant.PAINTER", "priority": 0, "ref": bytes(16)}, "malformed"),
    ],
)
async def test_what_the_header_says_cannot_be_changed(change: dict[str, Any], reason: str):
    async with scene() as one:
        one.liar.down = withheld(Frame.DELIVER)
        await one.say()
        one.liar.be_honest()
        grants = one.to_lead.envelopes(kind=GRANT)
        one.to_painter.deliver(grants[0])
        one.to_painter.deliver(changed(one.to_lead.envelopes(topic=TOPIC)[0], **change), subs=[one.sub])
        await one.refuses(reason)


async def test_what_an_insider_forges_for_the_broker_is_refused():
    """MASON reads what LEAD says: it has the key of the epoch, and the broker passes on whatever it seals with it."""
    async with scene() as one, one.liar.host().agent("MASON") as mason, mason.subscribe("tasks.>"):
        envelope = await one.say()
        assert await one.heard() == [b"hello"]
        header = header_of(envelope)
        opened = inside(mason).keyring.held.epochs[header.epoch]
        data, sealed = envelopes.split(envelope)
        plaintext = opened.open(sealed, seq=header.seq, header=data)
        forged = header._replace(seq=header.seq + 1, id=os.urandom(16)).encode()
        one.to_painter.deliver(envelopes.join(forged, sealed_with(opened, header.seq + 1, forged, plaintext)), subs=[one.sub])
        await one.refuses("bad_proof")


# ---- it cannot replay -----------------------------------------------------------------------------------------------------------


async def test_a_live_message_comes_once_however_often_it_is_brought():
    async with scene() as one:
        envelope = await one.say()
        assert await one.heard() == [b"hello"]
        for _ in range(3):
            one.to_painter.deliver(envelope, subs=[one.sub])
        await one.refuses("replayed", 3)


async def test_nor_is_it_taken_again_on_another_link_or_by_another_subscription():
    async with scene() as one:
        envelope = await one.say()
        assert await one.heard() == [b"hello"]
        await one.tasks.aclose()
        one.to_painter.outside.close(flush=False)
        await one.liar.hub.advance(1)
        async with one.painter.subscribe("tasks.*") as one.tasks:
            for grant in one.to_lead.envelopes(kind=GRANT):
                one.to_painter.deliver(grant)
            one.to_painter.deliver(envelope, subs=one.to_painter.subs("tasks.*"))
            await one.refuses("replayed")


async def test_who_starts_again_is_not_brought_what_was_said_before():
    """With all that the broker ever had: papers, grants, envelopes."""
    async with lying() as liar, liar.host().agent("LEAD") as lead:
        old = liar.host()
        async with old.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish(TOPIC, b"hello")
            assert await bodies(liar, tasks) == [b"hello"]
            kept = [frame for frame in liar.seam_of(painter).told if frame[0] in (Frame.PAPERS, Frame.DELIVER)]
        await liar.hub.advance(1)
        async with liar.host().agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            for kind, *fields in kept:
                liar.seam_of(painter).tell(kind, *fields)
            await liar.hub.advance(5)
            one = Scene(liar, lead, painter, tasks)
            assert await one.heard() == []
            assert refused(painter) == {"unsolicited": 1, "before_session": 1}, (
                "of the grant, which is for a key that is gone; and of it"
            )
            await one.goes_on()


async def test_and_where_it_has_the_key_it_is_still_from_before():
    """PAINTER comes to a process that heard it already."""
    async with lying() as liar, liar.host().agent("LEAD") as lead:
        host = liar.host()
        async with host.agent("MASON") as mason, mason.subscribe("tasks.>") as others:
            await lead.publish(TOPIC, b"hello")
            assert await bodies(liar, others) == [b"hello"]
            envelope = liar.seam_of(lead).envelopes(topic=TOPIC)[-1]
            await liar.hub.advance(1)
            async with host.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
                seam = liar.seam_of(painter)
                seam.deliver(envelope, subs=[*range(10)])
                assert await bodies(liar, tasks) == await bodies(liar, others) == []
                assert refused(painter) == {"replayed": 1, "before_session": 1} or refused(painter) == {"replayed": 1}
                await Scene(liar, lead, painter, tasks).goes_on()


async def test_what_is_reordered_and_doubled_is_all_there_once():
    async with scene() as one:
        one.liar.down = withheld(Frame.DELIVER)
        for number in range(20):
            await one.say(b"%d" % number)
        one.liar.be_honest()
        for grant in one.to_lead.envelopes(kind=GRANT):
            one.to_painter.deliver(grant)
        for envelope in [*reversed(one.to_lead.envelopes(topic=TOPIC)), *one.to_lead.envelopes(topic=TOPIC)]:
            one.to_painter.deliver(envelope, subs=[one.sub])
        assert sorted(await one.heard(), key=int) == [b"%d" % number for number in range(20)]
        assert refused(one.painter) == {"replayed": 20}
        await one.goes_on()


async def test_what_is_withheld_until_it_has_expired_is_not_handed_over():
    async with scene() as one:
        await one.say(b"first")
        await one.heard()
        one.liar.down = withheld(Frame.DELIVER)
        envelope = await one.say(b"late")
        one.liar.be_honest()
        await one.liar.hub.advance(61)
        one.to_painter.deliver(envelope, subs=[one.sub])
        await one.refuses("expired")


async def test_what_is_withheld_shows_as_a_gap():
    async with scene() as one:
        await one.say(b"first")
        one.liar.down = withheld(Frame.DELIVER)
        await one.say(b"second")
        one.liar.be_honest()
        await one.say(b"third")
        assert [((message := await anext(one.tasks)).body, message.missed) for _ in range(2)] == [(b"first", 0), (b"third", 1)]


# ---- whom it is handed to -------------------------------------------------------------------------------------------------------


async def test_a_message_reaches_the_subscription_of_its_topic_whatever_the_broker_names():
    async with scene() as one, one.painter.subscribe("ask.>") as asked:
        one.liar.down = withheld(Frame.DELIVER)
        envelope = await one.say()
        one.liar.be_honest()
        for grant in one.to_lead.envelopes(kind=GRANT):
            one.to_painter.deliver(grant)
        one.to_painter.deliver(envelope, subs=one.to_painter.subs("ask.>"))
        assert await bodies(one.liar, asked) == []
        await one.refuses("unsolicited")


async def test_a_message_that_names_nobody_reaches_nobody():
    async with scene() as one:
        one.liar.down = withheld(Frame.DELIVER)
        envelope = await one.say()
        one.liar.be_honest()
        for grant in one.to_lead.envelopes(kind=GRANT):
            one.to_painter.deliver(grant)
        one.to_painter.deliver(envelope)
        await one.refuses("unsolicited")


async def test_whom_policy_does_not_let_hear_it_gets_neither_message_nor_key():
    """The broker hands CLERK everything that PAINTER gets, and tells LEAD that CLERK listens."""
    async with scene() as one, one.liar.host().agent("CLERK") as clerk, clerk.subscribe("plans.>") as plans:
        to_clerk = one.liar.seam_of(clerk)
        papers = inside(clerk).sessions.held["CLERK"].papers
        one.to_lead.tell(Frame.PAPERS, [papers], b"")
        one.to_lead.tell(Frame.INTEREST, 1_000, [["CLERK", "tasks.>", LISTENS], ["CLERK", ">", DURABLE]])
        envelope = await one.say()
        grants = one.to_lead.envelopes(kind=GRANT)
        assert {header_of(grant).topic for grant in grants} == {"_grant.PAINTER"}
        left_out = inside(one.lead).statistics()["keyring"]["left_out"]
        assert left_out["LEAD", "not_permitted"] >= 1
        for grant in grants:
            to_clerk.deliver(grant)
        to_clerk.deliver(envelope, subs=to_clerk.subs("plans.>"))
        await one.liar.hub.advance(5)
        assert await bodies(one.liar, plans) == []
        assert refused(clerk) == {"unsolicited": 2}
        assert await one.heard() == [b"hello"]
        await one.goes_on()


async def test_in_one_process_policy_still_tells_its_agents_apart():
    """WATCH has not the right to hear what PAINTER beside it hears, and its subscription would match."""
    policy = POLICY.replace("subscribe: ['>'],", "subscribe: ['>'], deny: {subscribe: [tasks.hidden]},")
    async with lying(policy) as liar, liar.host().agent("LEAD") as lead:
        host = liar.host()
        async with (
            host.agent("PAINTER") as painter,
            host.agent("WATCH") as watch,
            painter.subscribe("tasks.>") as tasks,
            watch.subscribe(">") as everything,
        ):
            seam = liar.seam_of(painter)
            liar.down = lambda _, frame: None if frame[0] != Frame.DELIVER or not frame[2] else []
            await lead.publish("tasks.hidden", b"for PAINTER")
            await liar.hub.settle()
            seam.deliver(liar.seam_of(lead).envelopes(topic="tasks.hidden")[0], subs=[*seam.subs("tasks.>"), *seam.subs(">")])
            assert await bodies(liar, tasks) == [b"for PAINTER"]
            assert await bodies(liar, everything) == []
            assert refused(painter) == {"not_permitted": 1}


async def test_the_broker_cannot_become_a_reader():
    """It names itself, with its own papers and a certificate that is good."""
    async with scene() as one:
        own = one.liar.hub.broker._links.own.papers
        one.to_lead.tell(Frame.PAPERS, [own], b"")
        one.to_lead.tell(Frame.INTEREST, 1_000, [["BROKER", "tasks.>", LISTENS]])
        await one.say()
        assert {header_of(grant).topic for grant in one.to_lead.envelopes(kind=GRANT)} == {"_grant.PAINTER"}
        assert refused(one.lead) == {"untrusted": 1}
        assert await one.heard() == [b"hello"]


async def test_grants_that_are_swapped_or_brought_to_others_open_nothing():
    async with scene() as one, one.liar.host().agent("MASON") as mason, mason.subscribe("tasks.>") as others:
        one.liar.down = lambda _, frame: [] if frame[0] == Frame.DELIVER else None
        envelope = await one.say()
        one.liar.be_honest()
        grants = {header_of(grant).topic: grant for grant in one.to_lead.envelopes(kind=GRANT)}
        one.to_painter.deliver(grants["_grant.MASON"])
        renamed = changed(grants["_grant.MASON"], topic="_grant.PAINTER")
        one.to_painter.deliver(renamed)
        keyed = changed(grants["_grant.MASON"], topic="_grant.PAINTER", ref=header_of(grants["_grant.PAINTER"]).ref)
        one.to_painter.deliver(keyed)
        assert await one.heard() == []
        assert refused(one.painter) == {"unsolicited": 2, "bad_seal": 1}
        one.to_painter.deliver(grants["_grant.PAINTER"])
        one.to_painter.deliver(envelope, subs=[one.sub])
        assert await one.heard() == [b"hello"]
        assert await bodies(one.liar, others) == []
        await one.goes_on()


# ---- requests and replies -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(liar: LiarInMemory, lead: Any, topic: str = "ask.it") -> AsyncIterator[dict[str, Any]]:
    """A request of LEAD's that waits. What became of it is in what is yielded, afterwards."""
    found: dict[str, Any] = {}
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            try:
                found["reply"] = (await lead.request(topic, b"what?", timeout=10)).body
            except (RequestTimeoutError, NoRespondersError) as error:
                found["error"] = type(error)

        tasks.start_soon(ask)
        await liar.hub.settle()
        yield found


async def test_a_reply_answers_the_request_that_it_was_made_for_and_no_other():
    async with scene() as one, one.painter.subscribe("ask.>") as asked:
        async with asking(one.liar, one.lead) as first:
            message = await soon(anext(asked))
            await message.reply(b"the first answer")
            await one.liar.hub.settle()
        assert first == {"reply": b"the first answer"}
        reply = one.to_painter.envelopes(topic="_reply.")[-1]
        one.liar.up = lambda seam, frame: [] if frame[0] == Frame.PUBLISH and seam is one.to_painter else None
        async with asking(one.liar, one.lead) as second:
            await soon(anext(asked))
            one.to_lead.deliver(reply)
            request = header_of(one.to_lead.envelopes(topic="ask.")[-1])
            one.to_lead.deliver(changed(reply, ref=request.id))
            await one.liar.hub.advance(11)
        assert second == {"error": RequestTimeoutError}
        assert refused(one.lead) == {"unsolicited": 1, "replayed": 1} or refused(one.lead) == {"unsolicited": 1, "bad_seal": 1}
        one.liar.be_honest()


async def test_a_request_in_the_hands_of_who_may_not_answer_is_not_answered():
    async with scene() as one, one.liar.host().agent("CLERK") as clerk, clerk.subscribe("plans.>") as plans:
        async with one.painter.subscribe("ask.>") as asked, asking(one.liar, one.lead) as found:
            await soon(anext(asked))
            request = one.to_lead.envelopes(topic="ask.")[-1]
            to_clerk = one.liar.seam_of(clerk)
            to_clerk.deliver(request, subs=to_clerk.subs("plans.>"))
            assert await bodies(one.liar, plans) == []
            assert refused(clerk) == {"unsolicited": 1}
            await one.liar.hub.advance(11)
        assert found == {"error": RequestTimeoutError}


async def test_that_nobody_answers_is_the_brokers_word_and_harms_nothing_else():
    async with scene() as one, one.painter.subscribe("ask.>"):
        one.liar.down = lambda seam, frame: [] if frame[0] == Frame.INTEREST and seam is one.to_lead else None
        async with asking(one.liar, one.lead) as found:
            pass
        assert found == {"error": NoRespondersError}


# ---- who gets how much ----------------------------------------------------------------------------------------------------------


async def test_what_is_brought_beyond_all_credit_is_not_taken():
    """A durable message that nobody finishes may be brought again and again, under whatever position."""
    async with scene() as one, one.painter.subscribe("work.>", durable="mine", limit=4) as work:
        await soon(one.lead.publish("work.a", b"hello"))
        await one.liar.hub.settle()
        delivery = one.to_painter.deliveries(topic="work.a")[0]
        for position in range(6_000):
            one.to_painter.deliver(delivery[5], subs=one.to_painter.subs("work.>"), position=1 + position % 7)
        await one.liar.hub.settle()
        assert work.pending <= 5_000
        assert refused(one.painter) == {"busy": 6_001 - work.pending}
        await one.goes_on()


async def test_readers_that_nobody_can_have_are_not_remembered_without_end():
    async with scene() as one:
        seam = one.to_lead
        for number in range(300):
            seam.tell(Frame.INTEREST, 1_000 + number, [["PAINTER", f"tasks.{number}.{other}", LISTENS] for other in range(1_024)])
            await one.liar.hub.settle()
        assert isinstance(seam.error, ConnectionLostError), "the host ended it"
        await one.liar.hub.advance(5)
        assert len(inside(one.lead).outbox.topics._told) < 10
        await one.goes_on()


async def test_a_reader_of_many_patterns_costs_little_however_many_topics_are_open(monkeypatch: pytest.MonkeyPatch):
    async with scene() as one:
        for number in range(1_000):
            await one.lead.publish(f"tasks.t{number}", b"")
        await one.liar.hub.settle()
        looked_at, match = 0, Trie.match

        def counting(trie: Any, topic: str) -> list[Any]:
            nonlocal looked_at
            looked_at += 1
            return match(trie, topic)

        monkeypatch.setattr(Trie, "match", counting)
        one.to_lead.tell(Frame.INTEREST, 1_000, [["PAINTER", f"tasks.{number}.x", LISTENS] for number in range(1_024)])
        await one.liar.hub.settle()
        assert looked_at <= 1_001, "once for each topic, and not for each topic and pattern"


async def test_turns_that_are_not_out_are_credited_in_no_time():
    async with scene() as one:
        one.liar.down = withheld(Frame.CREDIT)
        await one.say()
        for first, count in ((0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (1, 0), (77, 1)):
            one.to_lead.tell(Frame.CREDIT, first, count)
        await soon(one.lead.drain())
        assert inside(one.lead).statistics()["turns"]["out"] == 0
        await one.goes_on()


async def test_who_is_asked_without_end_answers_as_much_as_one_reader_can_use():
    async with scene() as one:
        await one.say()
        one.liar.down = lambda seam, frame: [] if frame[0] == Frame.CREDIT and seam is one.to_lead else None
        (epoch,) = inside(one.painter).keyring.held.epochs
        papers = inside(one.painter).sessions.held["PAINTER"].papers
        before = len(one.to_lead.envelopes(kind=GRANT))
        for _ in range(5_000):
            one.to_lead.tell(Frame.ASK, epoch, papers)
        await one.liar.hub.settle()
        given = len(one.to_lead.envelopes(kind=GRANT)) - before + len(inside(one.lead).outbox._live._grants)
        assert given <= 100
        assert inside(one.lead).statistics()["keyring"]["answers"] == {"granted": given, "busy": 5_000 - given}
        one.to_lead.tell(Frame.CREDIT, 0, 0xFFFFFFFF)
        await one.goes_on()


async def test_papers_that_are_none_are_not_kept_for_who_shows_them():
    async with scene() as one:
        for number in range(300):
            one.to_lead.tell(Frame.ASK, number.to_bytes(32, "big"), os.urandom(100_000))
        await one.liar.hub.settle()
        assert not inside(one.lead).acquaintance._owed
        await one.goes_on()


async def test_columns_of_made_up_subscriptions_are_not_remembered():
    async with scene() as one:
        for _ in range(200):
            one.to_painter.tell(Frame.DELIVER, 0, os.urandom(65_536), 1, 1, b"nothing")
        await one.liar.hub.settle()
        assert len(inside(one.painter).inbox._named) <= 2
        assert inside(one.painter).statistics()["received"]["late"] == 200
        await one.goes_on()


async def test_grants_to_keys_that_nobody_has_are_looked_up_a_few_at_a_time():
    async with scene() as one, one.liar.host().agent("MASON") as mason:
        await one.say()
        grant = one.to_lead.envelopes(kind=GRANT)[0]
        inboxes = inside(mason).own_inboxes
        asked: list[bytes] = []

        class Slow:
            certificate = b""

            async def private(self, key_id: bytes) -> None:
                asked.append(key_id)
                await anyio.sleep_forever()

        inboxes.add("MASON", Slow(), b"")
        seam = one.liar.seam_of(mason)
        for _ in range(500):
            seam.deliver(changed(grant, topic="_grant.MASON", ref=os.urandom(16)))
        for name in ("SECOND", "CLERK"):
            seam.deliver(changed(grant, topic="_grant.MASON", sender=name, ref=os.urandom(16)))
        await one.liar.hub.settle()
        assert len(asked) == 8 + 2, "one sender's do not keep out another's"
        assert refused(mason) == {"unsolicited": 492}
        await one.goes_on()


# ---- lies about the link --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "busy"])
async def test_a_broker_that_is_busy_or_gone_in_the_handshake_is_tried_again(how: str):
    async with scene() as one:
        host = inside(one.lead)
        liar, tried = one.liar, []

        def turn_away(link: Any) -> None:
            tried.append(link)
            link.start(lambda _: None, lambda _: None, lambda: None)
            if how == "busy":
                link.send(encode(Frame.REFUSE, "busy", b""))
            link.close()

        take, liar.take = liar.take, turn_away
        one.to_lead.outside.close()
        for _ in range(3):
            await liar.hub.advance(1)
        assert len(tried) == 3
        assert one.lead.error is None
        liar.take = take
        await liar.hub.advance(5)
        assert host.is_connected
        await one.goes_on()


async def test_what_was_on_its_way_to_a_broker_that_was_away_for_longer_than_its_ttl_is_told_to_have_expired():
    """Whoever said it is not told that it must not: that is a broker's word for all that it does not believe."""
    async with scene() as one:
        await one.say(b"first")
        assert await one.heard() == [b"first"]
        one.liar.up = withheld(Frame.PUBLISH)
        await one.lead.publish(TOPIC, b"late", ttl=2)
        await one.lead.publish(TOPIC, b"in time")
        await one.liar.hub.settle()

        def hang_up(link: Any) -> None:
            link.start(lambda _: None, lambda _: None, lambda: None)
            link.close()

        take, one.liar.take = one.liar.take, hang_up
        one.to_lead.outside.close()
        for _ in range(3):
            await one.liar.hub.advance(1)
        one.liar.take = take
        one.liar.be_honest()
        await one.liar.hub.advance(5)
        refusal = await soon(anext(one.lead.refusals()))
        assert (refusal.direction, refusal.topic, refusal.reason) == ("out", TOPIC, "expired")
        assert await one.heard() == [b"in time"]
        with pytest.raises(VerificationError, match="within its TTL of 2 s"):
            await one.lead.drain()
        await one.goes_on()


async def test_lies_about_units_and_lanes_change_how_much_comes_at_once_and_nothing_else():
    policy = POLICY.replace("{match: tasks.>,", "{match: tasks.alone.>, unit: record}\n  - {match: tasks.>,")
    async with scene(policy) as one:
        one.liar.down = lambda _, frame: [[*frame[:3], 0, frame[4]]] if frame[0] == Frame.OPENED else None
        await one.lead.publish_many("tasks.alone.a", [b"1", b"2", b"3"])
        assert await one.heard() == [b"1", b"2", b"3"]
        assert [header_of(envelope).records for envelope in one.to_lead.envelopes(topic="tasks.alone")] == [1, 1, 1]
        one.liar.down = lambda _, frame: [[*frame[:2], 0, *frame[3:]]] if frame[0] == Frame.OPENED else None
        await one.lead.publish("tasks.stopped", b"late")
        assert await one.heard() == []
        await one.goes_on()
        (alias,) = [frame[1] for frame in one.to_lead.of(Frame.OPEN) if frame[2] == "tasks.stopped"]
        one.to_lead.tell(Frame.OPENED, alias, 1, 0, 1)
        assert await one.heard() == [b"late"]


async def test_an_agent_that_is_drained_by_a_lie_ends_alone():
    async with lying() as liar:
        host = liar.host()
        async with host.agent("LEAD") as lead, host.agent("SECOND") as second, liar.host().agent("PAINTER") as painter:
            async with painter.subscribe("tasks.>") as tasks:
                seam = liar.seam_of(lead)
                for reason in ("session_replaced SECOND", "revoked NOBODY", "shutdown", "", "revoked"):
                    seam.tell(Frame.DRAIN, reason)
                await liar.hub.settle()
                assert isinstance(second.error, SessionReplacedError)
                await lead.publish(TOPIC, b"LEAD is still here")
                assert await bodies(liar, tasks) == [b"LEAD is still here"]


async def test_random_frames_end_the_link_at_most():
    """Frames of the broker's with fields that are right in form and wrong in all else, and some that are neither."""
    random = Random(7)
    async with scene() as one:
        await one.say()
        await one.heard()
        kinds = sorted(FIELDS)
        for round_ in range(300):
            seam = one.to_painter
            kind = Frame(kinds[round_ % len(kinds)])
            seam.tell(kind, *FIELDS[kind](random))
            await one.liar.hub.settle()
            if one.painter.error is not None or not inside(one.painter).is_connected:
                assert one.painter.error is None, (kind, one.painter.error)
                await one.liar.hub.advance(3)
        await one.goes_on()


# ---- policy, revocations, statements --------------------------------------------------------------------------------------------


def documents_told(seam: Seam) -> list[list[Any]]:
    return [frame for frame in seam.told if frame[0] == Frame.TRUST]


def trust_counts(agent: Any) -> dict[str, int]:
    counts: dict[str, int] = inside(agent).statistics()["trust"]
    return counts


async def test_an_older_policy_does_not_come_back():
    """PAINTER lost a right; the broker brings the policy, list and statement of before."""
    narrower = POLICY.replace("subscribe: [tasks.>, work.>, control.>, ask.>]", "subscribe: [work.>, control.>, ask.>]")
    async with scene() as one:
        one.liar.hub.state_trust()
        await one.liar.hub.settle()
        older = documents_told(one.to_lead)[-3:]
        await one.liar.hub.change_policy(narrower)
        await one.liar.hub.settle()
        version = inside(one.lead).keyring.snapshot.policy
        for _, *fields in older:
            one.to_lead.tell(Frame.TRUST, *fields)
        await one.liar.hub.settle()
        assert trust_counts(one.lead)["policy_rollback"] == 1
        assert inside(one.lead).keyring.snapshot.policy is version
        one.to_lead.tell(Frame.INTEREST, 1_000, [["PAINTER", "tasks.>", LISTENS]])
        before = len(one.to_lead.envelopes(kind=GRANT))
        await one.lead.publish(TOPIC, b"not for PAINTER")
        await one.liar.hub.settle()
        assert len(one.to_lead.envelopes(kind=GRANT)) == before


async def test_two_statements_of_one_number_are_a_fork():
    async with scene() as one:
        world = one.liar.hub._world
        one.liar.hub.state_trust()
        await one.liar.hub.settle()
        trust = world._trust
        other = world.authority.statement(
            trust.statement.number, issued_ms=trust.statement.issued_ms, lasts_ms=200_000, bundle=trust.bundle, crl=trust.crl,
            agents={}, ml_dsa={},
        )  # fmt: skip
        one.to_lead.tell(Frame.TRUST, STATEMENT, len(other.raw), 0, other.raw)
        await one.liar.hub.settle()
        assert trust_counts(one.lead)["trust_fork"] == 1
        await one.goes_on()


async def test_nonsense_in_place_of_trust_changes_nothing():
    async with scene() as one:
        held = inside(one.lead).keyring.snapshot
        for what in (CRL, BUNDLE, STATEMENT):
            for data in (b"", b"nonsense", os.urandom(2_000)):
                one.to_lead.tell(Frame.TRUST, what, len(data), 0, data)
        await one.liar.hub.settle()
        assert inside(one.lead).keyring.snapshot is held
        assert "accepted" not in trust_counts(one.lead)
        await one.goes_on()


async def test_trust_that_is_frozen_ends():
    """The broker passes on no news: past the end of the last statement nothing is sealed and nothing handed over."""
    async with scene() as one:
        one.liar.down = withheld(Frame.TRUST)
        await one.liar.hub.advance(5 * 60 - 5)
        await one.say(b"still")
        assert await one.heard() == [b"still"]
        held = inside(one.painter).keyring.snapshot
        await one.liar.hub.advance(10)
        assert held is inside(one.painter).keyring.snapshot
        sent = len(one.to_lead.envelopes(topic=TOPIC))
        with suppress(TrustStaleError):
            await one.lead.publish(TOPIC, b"too late")
        await one.liar.hub.settle()
        with pytest.raises(TrustStaleError):
            await one.lead.publish(TOPIC, b"too late")
        assert len(one.to_lead.envelopes(topic=TOPIC)) == sent
        one.to_painter.deliver(one.to_lead.envelopes(topic=TOPIC)[-1], subs=[one.sub])
        assert await one.heard() == []
        assert refused(one.painter) == {"trust_stale": 1}
        with suppress(TrustStaleError):
            await one.lead.drain()


async def test_nor_does_an_older_statement():
    async with scene() as one:
        for _ in range(2):
            await one.liar.hub.advance(1)
            one.liar.hub.state_trust()
            await one.liar.hub.settle()
        statements = [frame for frame in documents_told(one.to_lead) if frame[1] == STATEMENT]
        one.to_lead.tell(Frame.TRUST, *statements[-2][1:])
        await one.liar.hub.settle()
        assert trust_counts(one.lead)["trust_rollback"] == 1
        await one.goes_on()


async def test_who_was_revoked_is_heard_no_more_whatever_the_broker_goes_on_delivering():
    async with scene() as one, one.liar.host().agent("SECOND") as second:
        await second.publish("tasks.b", b"before")
        assert await one.heard() == [b"before"]
        seam = one.liar.seam_of(second)
        one.liar.down = lambda _, frame: [] if frame[0] == Frame.DELIVER else None
        await second.publish("tasks.b", b"sent before, and kept back")
        await one.liar.hub.settle()
        envelope = seam.envelopes(topic="tasks.b")[-1]
        one.liar.be_honest()
        one.liar.hub.revoke("SECOND")
        await one.liar.hub.settle()
        one.to_painter.deliver(envelope, subs=[one.sub])
        await one.refuses("revoked")


# ---- it is no other broker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", POSES)
async def test_who_is_not_a_pinned_broker_learns_nothing_and_hears_no_proof(lie: str):
    async with lying() as liar:
        host = liar.host()
        liar.pose(lie)
        if lie == "unpinned":
            host._host().connection._brokers = ("SOMEBODY",)
        opening: list[BaseException] = []

        async def open_it() -> None:
            try:
                async with host.agent("LEAD"):
                    pass
            except BusError as error:
                opening.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_it)
            for _ in range(FIRST_TRIES):  # one that says too little may be busy
                await liar.hub.settle()
                await liar.hub.advance(6)
        assert [type(error) for error in opening] in (
            [[VerificationError], [ConnectError]] if lie != "open_at_once" else [[RemoteProtocolError]]
        )
        assert {frame[0] for frame in liar.posed_to} == {Frame.HELLO_A}


# ---- over sockets of the kernel's -----------------------------------------------------------------------------------------------


async def test_over_a_socket_it_is_the_same(runtime: Path):
    """Two processes' worth of hosts on a Unix socket: forged, replayed, re-addressed and flipped, and all goes on."""
    async with (
        lying(url=f"unix://{runtime}/bus.sock") as liar,
        liar.host().agent("LEAD") as lead,
        liar.host().agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await lead.publish(TOPIC, b"first")
        assert (await soon(anext(tasks))).body == b"first"
        seam, told = liar.seam_of(painter), painter.refusals()
        envelope = liar.seam_of(lead).envelopes(topic=TOPIC)[0]
        for data, reason in ((envelope, "replayed"), (changed(envelope, seq=9), "bad_seal"), (b"junk", "malformed")):
            seam.deliver(data, subs=seam.subs("tasks.>"))
            assert (await soon(anext(told))).reason == reason
        seam.deliver(changed(envelope, seq=10))
        assert (await soon(anext(told))).reason == "unsolicited"
        await lead.publish(TOPIC, b"second")
        assert (await soon(anext(tasks))).body == b"second"


async def test_a_frame_that_claims_to_be_endless_ends_the_link_before_memory_is_taken(runtime: Path):
    async with lying(url=f"unix://{runtime}/bus.sock") as liar, liar.host().agent("LEAD") as lead:
        seam = liar.seam_of(lead)
        raw = seam.outside._transport.get_extra_info("socket") if hasattr(seam.outside, "_transport") else None
        if raw is None:
            seam.outside.send(bytes(MAX_FRAME_BYTES + 1))
        else:
            seam.outside._transport.write(b"\xff\xff\xff\xff" + bytes(100))
        with anyio.fail_after(60):
            while not seam.is_over:
                await anyio.lowlevel.checkpoint()
        assert lead.error is None

"""What a host hears before it can prove itself: a newer statement of its own authority, from its own broker; no other helps."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from agent_scenes import inside, scene

from bus.agent.catching_up import helps, newest_statement
from bus.agent.greeting import Greeting
from bus.errors import BusError, ConnectError, RemoteProtocolError, VerificationError
from bus.protocol.frames import STATEMENT, Frame, encode, parse
from bus.protocol.handshake import HelloB
from bus.protocol.papers import Papers
from bus.transport.dialing import dial
from bus.transport.memory import memory_pair

pytestmark = pytest.mark.anyio
Change = Callable[[list[Any]], list[Any]]


def listening(host: Any, peer: Any, **changes: Any) -> Greeting:
    (session,) = host.sessions.held.values()
    facts = {
        "brokers": ("BROKER",), "snapshot": host.keyring.snapshot, "verifier": host.keyring.held.verifier,
        "now_ms": host.keyring.now_ms(), "random": os.urandom,
    }  # fmt: skip
    return Greeting([session.papers], None, peer=peer, **(facts | changes))


async def between(hub: Any, change: Change) -> Any:
    """A link to the broker with somebody in between, who changes what the broker says."""
    far, (near, own) = await dial(hub.url), memory_pair()

    def pass_on(frames: list[bytes]) -> None:
        for data in frames:
            own.send(encode(*change(parse(data))))

    far.start(pass_on, lambda _: own.close(), lambda: None)
    own.start(lambda frames: [far.send(data) for data in frames], lambda _: far.close(), lambda: None)
    return near


def with_statement(of: Callable[[bytes], bytes]) -> Change:
    def change(frame: list[Any]) -> list[Any]:
        if frame[0] != Frame.HELLO_B:
            return frame
        hello = HelloB.parse(frame[1])
        papers = Papers.parse(hello.papers)
        forged = papers._replace(statement=of(papers.statement)).encode()
        return [Frame.HELLO_B, hello._replace(papers=forged).encode()]

    return change


async def test_a_broker_tells_its_statement_to_who_only_listens():
    async with scene("LEAD") as (hub, lead):
        host = inside(lead)
        link = await dial(hub.url)
        assert (await newest_statement(link, listening(host, link.peer), hub.clock)).number == 1
        await hub.settle()
        counted = (await hub.statistics())["broker"]
        assert (counted["links_open"], counted["links_half_open"], counted["offences"]) == (1, 0, {})


@pytest.mark.parametrize("forgery", ["changed", "another's", "none"])
async def test_a_statement_that_was_changed_on_its_way_is_not_heard(forgery: str):
    async with scene("LEAD") as (hub, lead):
        host = inside(lead)
        hub.state_trust()
        await hub.settle()
        of = {"changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]), "another's": lambda _: host.trusting.documents.statement}
        link = await between(hub, with_statement(of.get(forgery, lambda _: b"none")))
        with pytest.raises((VerificationError, RemoteProtocolError)) as caught:
            await newest_statement(link, listening(host, link.peer), hub.clock)
        assert caught.value.reason in ("untrusted", "malformed")


async def test_a_broker_that_says_what_is_not_believed_fills_no_log(caplog: pytest.LogCaptureFixture):
    async with scene("LEAD") as (hub, lead):
        host = inside(lead)
        for number in range(50):
            junk = b"none %d" % number
            host.trusting.part(STATEMENT, len(junk), 0, junk)
            await hub.settle()
        assert host.trusting.counts["malformed"] == 50
        assert len(caplog.records) == 1
        await hub.advance(61)
        host.trusting.part(STATEMENT, 4, 0, b"none")
        await hub.settle()
        assert len([record for record in caplog.records if "trust" in record.getMessage()]) == 2


async def test_what_a_broker_said_to_somebody_else_is_not_heard():
    async with scene("LEAD") as (hub, lead):
        host, said = inside(lead), []
        link = await between(hub, lambda frame: said.append(frame) or frame)
        await newest_statement(link, listening(host, link.peer), hub.clock)
        near, far = memory_pair()
        far.start(lambda _: [far.send(encode(*frame)) for frame in said], lambda _: None, lambda: None)
        with pytest.raises(VerificationError) as caught:
            await newest_statement(near, listening(host, near.peer), hub.clock)
        assert caught.value.reason == "bad_proof"


async def test_a_broker_that_is_not_pinned_and_one_that_says_nothing_are_not_heard():
    async with scene("LEAD") as (hub, lead):
        host, link = inside(lead), await dial(hub.url)
        with pytest.raises(VerificationError) as caught:
            await newest_statement(link, listening(host, link.peer, brokers=("ANOTHER",)), hub.clock)
        assert caught.value.reason == "untrusted"
        near, _far = memory_pair()
        errors: list[BusError] = []

        async def listen() -> None:
            try:
                await newest_statement(near, listening(host, near.peer), hub.clock)
            except BusError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await hub.advance(6)
        assert isinstance(errors[0], ConnectError)


async def test_only_a_newer_statement_that_counts_now_helps():
    async with scene("LEAD") as (_, lead):
        own = inside(lead).keyring.snapshot.trust.statement
        now_ms = own.next_update_ms + 1
        newer = replace(own, number=own.number + 1, issued_ms=now_ms - 300_000, next_update_ms=now_ms + 3_300_000)
        assert helps(newer, own, now_ms=now_ms)
        assert not helps(replace(newer, number=own.number), own, now_ms=now_ms), "its own"
        assert not helps(replace(newer, number=own.number - 1), own, now_ms=now_ms), "an old one"
        assert not helps(replace(newer, next_update_ms=now_ms - 1), own, now_ms=now_ms), "one that has ended"
        assert not helps(replace(newer, issued_ms=now_ms + 61_000), own, now_ms=now_ms), "one of tomorrow"

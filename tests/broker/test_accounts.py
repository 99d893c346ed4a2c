"""What an agent may have done for it: whoever is refused all the time is read ever more slowly, and nobody else notices."""

from __future__ import annotations

import os
from typing import Any

import pytest
from played import Played, Stage, settle

from bus.broker import accounts, publishing
from bus.broker.accounts import Account, Accounts
from bus.broker.intake import NEW_EPOCH, REFUSED
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import JUNK, MAX_ROWS, Frame

REFUSALS, EPOCHS = 20, 20
"""That a small stock is good for."""
FORGED = {"sender": "BUILDER"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock that is soon used up, and grows by one refusal in a tenth of a second."""
    monkeypatch.setattr(accounts, "STOCK", 20 + REFUSALS * REFUSED)
    monkeypatch.setattr(accounts, "RATE", 10 * REFUSED)
    monkeypatch.setattr(accounts, "MOST_OWED_SECONDS", 1)


def changed(envelope: bytes, **changes: Any) -> bytes:
    parts = envelopes.split(envelope)
    header = headers.parse(parts[0])
    return envelopes.join(header._replace(**changes).encode(), *parts[1:])


async def speaker(stage: Stage, *names: str) -> Played:
    host = await stage.host(*(names or ("DIRECTOR",)))
    await host.open("tasks.build")
    return host


def floods(host: Played, count: int, **changes: Any) -> None:
    """Each envelope in a turn of its own, as a host sends what it has at once."""
    good = host.seal("tasks.build")
    for _ in range(count):
        host.publish(changed(good, id=os.urandom(16), **(changes or FORGED)), topic="tasks.build")


def refused(stage: Stage) -> int:
    return sum(stage.counted["refused"].values())


async def until_nothing_moves(stage: Stage) -> None:
    for _ in range(10):
        await settle()


# ---- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_who_is_refused_all_the_time_is_read_ever_more_slowly(stage: Stage):
    async with stage.running():
        hostile, other = await speaker(stage), await stage.host("MONITOR")
        floods(hostile, 200)
        await until_nothing_moves(stage)
        first = refused(stage)
        assert first <= REFUSALS + 1
        assert [Frame.PONG, 5] in await other.say(Frame.PING, 5)
        await stage.later(2)
        assert first < refused(stage) <= first + 21
        assert not hostile.lost
        assert any(what.endswith("asks for too much") for what in stage.counted["offences"])


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_another_link_finds_what_the_last_one_left(stage: Stage):
    async with stage.running():
        for _ in range(5):
            hostile = await speaker(stage)
            floods(hostile, 40)
            await until_nothing_moves(stage)
            hostile.link.close()
            await settle()
        assert refused(stage) <= REFUSALS + 5


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_many_links_that_one_agent_has_taken_over_have_one_account_together(stage: Stage):
    async with stage.running():
        hosts = [await speaker(stage) for _ in range(5)]
        for host in hosts:
            floods(host, 40)
        await until_nothing_moves(stage)
        assert refused(stage) <= REFUSALS + 5


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_it_costs_those_of_its_link_and_nobody_else(stage: Stage):
    async with stage.running():
        hostile, honest, reader = await speaker(stage), await speaker(stage, "DEPUTY"), await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>")
        floods(hostile, 100)
        await until_nothing_moves(stage)
        sent = [honest.seal("tasks.build") for _ in range(200)]
        for one in sent:
            honest.publish(one, topic="tasks.build")
        await until_nothing_moves(stage)
        assert [envelope for _, envelope in await reader.delivered()] == sent


@pytest.mark.anyio
async def test_a_host_with_some_refusals_does_not_notice(stage: Stage):
    """A policy that changed while a whole turn was on its way, several times over."""
    async with stage.running():
        host = await speaker(stage)
        good = host.seal("tasks.build")
        stray = changed(good, priority=3, topic="results.a")
        for _ in range(3):
            host.publish(*[stray] * MAX_ROWS, topic="tasks.build")
        host.publish(good, topic="tasks.build")
        await until_nothing_moves(stage)
        assert refused(stage) == 3 * MAX_ROWS
        assert stage.counted["admitted"] == 1
        assert not host.lost


@pytest.mark.anyio
async def test_who_is_cut_hears_why(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(publishing, "MAX_JUNK", 20)
    hostile = await speaker(stage)
    floods(hostile, 30)
    await until_nothing_moves(stage)
    assert [Frame.DRAIN, JUNK] in await hostile.hears()
    assert hostile.lost
    assert stage.counted["cut"] == {"junk": 1}
    assert any(what.endswith("link cut: junk") for what in stage.counted["offences"])


@pytest.mark.anyio
async def test_who_is_not_read_is_not_taken_for_gone(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accounts, "STOCK", 500)
    monkeypatch.setattr(accounts, "RATE", 1)
    monkeypatch.setattr(accounts, "MOST_OWED_SECONDS", 60)
    async with stage.running():
        hostile = await speaker(stage)
        forged = changed(hostile.seal("tasks.build"), **FORGED)
        for _ in range(2):
            hostile.publish(*[forged] * 20, topic="tasks.build")
        await stage.later(45, step=1)
        assert refused(stage) == 20, "for the second turn there is nothing left"
        assert not hostile.lost


# ---- epochs that nobody has heard of ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_new_epochs_without_end_are_let_through_ever_more_slowly(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accounts, "STOCK", 20 + EPOCHS * NEW_EPOCH)
    monkeypatch.setattr(accounts, "RATE", 10 * NEW_EPOCH)
    async with stage.running():
        hostile, reader = await speaker(stage), await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>")
        good = hostile.seal("tasks.build")
        for _ in range(100):
            hostile.publish(changed(good, epoch=os.urandom(32), id=os.urandom(16)), topic="tasks.build")
        await until_nothing_moves(stage)
        first = len(await reader.delivered())
        assert 0 < first <= EPOCHS + 2
        await stage.later(1)
        assert 0 < len(await reader.delivered()) <= 12
        assert not hostile.lost


@pytest.mark.anyio
@pytest.mark.usefixtures("small")
async def test_a_sender_whose_grant_has_not_come_is_not_slowed_down(stage: Stage):
    """All that it says is in two epochs, of which its readers have no key yet."""
    async with stage.running():
        honest, reader = await speaker(stage), await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>", limit=10_000)
        good = honest.seal("tasks.build")
        other = changed(good, epoch=os.urandom(32))
        for _ in range(20):
            honest.publish(*[good, other] * 50, topic="tasks.build")
        await until_nothing_moves(stage)
        assert len(await reader.delivered()) == 2_000


@pytest.mark.anyio
async def test_a_reader_that_asks_for_its_key_all_the_time_is_not_slowed_down(stage: Stage):
    """As hosts do: at most 64 epochs at a time, each again after a second. Nobody answers."""
    async with stage.running():
        sender, reader = await speaker(stage), await stage.host("BUILDER")
        papers = reader.agents["BUILDER"].papers
        good = sender.seal("tasks.build")
        epochs = [os.urandom(32) for _ in range(64)]
        for epoch in epochs:
            sender.publish(changed(good, epoch=epoch, id=os.urandom(16)), topic="tasks.build")
        for _ in range(33):
            for epoch in epochs:
                reader.send(Frame.ASK, epoch, papers)
            await stage.later(1, step=1)
        assert [Frame.PONG, 5] in await reader.say(Frame.PING, 5)
        assert stage.broker._accounts._of["BUILDER"].stock > accounts.STOCK - 1_000


# ---- accounts --------------------------------------------------------------------------------------------------------------------


def test_an_account_grows_up_to_its_stock_and_owes_a_few_seconds_at_most():
    account = Account(now=10.0)
    account.pay(accounts.STOCK + 1)
    assert account.is_empty
    account.pay(1 << 40)
    assert account.stock == -accounts.MOST_OWED_SECONDS * accounts.RATE
    account.grow(10.0 + accounts.MOST_OWED_SECONDS)
    assert not account.is_empty
    assert not account.is_full
    account.grow(9.0)
    assert account.stock == 0
    account.grow(1_000.0)
    assert account.stock == accounts.STOCK


def test_an_account_that_is_full_is_forgotten_when_no_link_answers_to_it():
    known = Accounts()
    account = known.of("EVE", now=0.0)
    account.pay(accounts.STOCK)
    account.links -= 1
    known.forget(1.0)
    assert known.of("EVE", now=1.0) is account
    known.forget(1_000.0)
    assert known.of("EVE", now=1_000.0) is account, "a link answers to it: two accounts would be one too many"
    account.links = 0
    known.forget(1_000.0)
    assert len(known) == 0

"""The engine without a thread is an engine like the others, and as slow, or as broken, as a test says."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import anyio
import pytest

from bus.errors import ClosedError, TpmRefusedError, TpmUnavailableError, VerificationError
from bus.protocol import signatures
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock, check_tpm
from bus.testing.inline_engine import InlineEngine
from bus.testing.inline_keys import InlineKeys, ready
from bus.tpm.interface import Priority

pytestmark = pytest.mark.anyio

SUITE = IDENTITY_SUITES["ecc256/sha3-256"]
CONTENT = bytes(32)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def engine(clock):
    engine = InlineEngine(clock, seconds=1.0)
    engine.seconds = 0.0
    for name in ("A", "B", "C"):
        await engine.create(name, SUITE)
    engine.seconds = 1.0
    yield engine
    await engine.aclose()


class Callers:
    """Tasks that sign, each for one name, and the order in which they were done."""

    def __init__(self, engine, tasks) -> None:
        self.engine, self.tasks, self.done, self.proofs = engine, tasks, [], []

    async def sign(self, name: str, **options) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def one() -> None:
            with scope:
                self.proofs += await self.engine.sign_many(name, Purpose.ENVELOPE, [CONTENT], **options)
                self.done.append(name)

        self.tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        return scope


@asynccontextmanager
async def callers(engine):
    async with anyio.create_task_group() as tasks:
        yield Callers(engine, tasks)
        tasks.cancel_scope.cancel()


async def passes(clock, seconds: float) -> None:
    clock.advance(seconds)
    await anyio.wait_all_tasks_blocked()


async def test_it_passes_the_check_of_every_engine():
    before = {*threading.enumerate()}

    @asynccontextmanager
    async def make():
        engine = InlineEngine(ManualClock())
        yield engine
        await engine.aclose()

    await check_tpm(make)
    assert {*threading.enumerate()} <= before, "some may end meanwhile: trio keeps those of tests before this one for ten seconds"


async def test_an_operation_takes_the_time_of_the_clock(engine, clock):
    async with callers(engine) as some:
        await some.sign("A")
        await passes(clock, 0.9)
        assert some.done == []
        await passes(clock, 0.2)
        assert some.done == ["A"]


async def test_who_comes_while_the_tpm_works_is_in_the_same_signature_or_in_the_next(engine, clock):
    async with callers(engine) as some:
        for name in ("A", "B", "A", "B"):
            await some.sign(name)
        await passes(clock, 1)
        assert some.done == ["A", "A"]
        assert len({proof.signature for proof in some.proofs}) == 1
        await passes(clock, 1)
        assert sorted(some.done) == ["A", "A", "B", "B"]
    assert (await engine.statistics()).batch_sizes == {2: 2}


async def test_what_is_urgent_goes_first(engine, clock):
    async with callers(engine) as some:
        await some.sign("A")
        await some.sign("B", priority=Priority.RENEWAL)
        await some.sign("C", priority=Priority.CRITICAL)
        for _ in range(3):
            await passes(clock, 1)
        assert some.done == ["A", "C", "B"]


async def test_a_caller_that_is_cancelled_holds_nobody_up(engine, clock):
    async with callers(engine) as some:
        first, waiting = await some.sign("A"), await some.sign("B")
        await some.sign("C")
        first.cancel()
        waiting.cancel()
        await anyio.wait_all_tasks_blocked()
        await passes(clock, 1)
        assert some.done == ["C"]
        assert (await engine.statistics()).waiting == 0
        assert (await engine.statistics()).signatures == 1


async def test_the_next_operation_fails_as_it_is_told_to_and_those_after_it_do_not(engine, clock):
    engine.seconds = 0.0
    engine.fail_next(TpmUnavailableError("hung", "it does not answer"), TpmRefusedError("refused", "no"))
    with pytest.raises(TpmUnavailableError) as caught:
        await engine.sign_many("A", Purpose.ENVELOPE, [CONTENT])
    assert caught.value.code == "hung"
    with pytest.raises(TpmRefusedError):
        await engine.seal(b"secret")
    assert await engine.sign_many("A", Purpose.ENVELOPE, [CONTENT])
    assert (await engine.statistics()).failures == {"hung": 1, "refused": 1}


async def test_all_that_waited_for_what_failed_hear_of_it(engine, clock):
    errors = []

    async def one() -> None:
        with pytest.raises(TpmUnavailableError) as caught:
            await engine.sign_many("A", Purpose.ENVELOPE, [CONTENT])
        errors.append(caught.value)

    engine.fail_next(TpmUnavailableError("hung", "it does not answer"))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        clock.advance(1)
    assert len({id(error) for error in errors}) == 3


async def test_a_closed_engine_lets_its_callers_go(engine):
    async with anyio.create_task_group() as tasks:

        async def one(name: str) -> None:
            with pytest.raises(ClosedError):
                await engine.sign_many(name, Purpose.ENVELOPE, [CONTENT])

        for name in ("A", "A", "B"):
            tasks.start_soon(one, name)
        await anyio.wait_all_tasks_blocked()
        await engine.aclose()
    with pytest.raises(ClosedError):
        await engine.seal(b"secret")
    assert (await engine.statistics()).waiting == 0


@pytest.mark.parametrize("suite", IDENTITY_SUITES.values(), ids=str)
async def test_ready_made_keys_sign_at_once_and_are_the_same_each_time(suite, clock):
    first, again = (InlineEngine(clock, InlineKeys(clock, ready)) for _ in range(2))
    key = await first.create("DIRECTOR", suite)
    assert key.spki == (await again.create("DIRECTOR", suite)).spki
    content = bytes(suite.digest_bytes)
    (proof,) = await first.sign_many("DIRECTOR", Purpose.ENVELOPE, [content])
    public = signatures.load_public(key.spki)
    signatures.verify(suite, public, proof.tbs(Purpose.ENVELOPE, content), proof.signature)
    with pytest.raises(VerificationError):
        signatures.verify(suite, public, proof.tbs(Purpose.SESSION, content), proof.signature)
    rotated = await first.rotate("DIRECTOR", keep_until_ms=clock.ms + 1)
    assert suite.kind == "rsa3072" or rotated.spki != key.spki

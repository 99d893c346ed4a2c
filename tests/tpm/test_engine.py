"""One TPM, many callers: what they share, what they must not feel of each other, and what happens when things break."""

from __future__ import annotations

import math
import random
import threading
import traceback
from hashlib import sha256

import anyio
import anyio.lowlevel
import pytest

from bus.errors import ClosedError, OverloadedError, TpmRefusedError, TpmUnavailableError, VerificationError
from bus.protocol.contexts import Purpose
from bus.protocol.proof import MAX_BATCH
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock, SlowTpm
from bus.testing.tpm_check import check_proof
from bus.tpm.engine import Engine
from bus.tpm.executor import REOPEN_TRIES_SECONDS
from bus.tpm.interface import Priority
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.anyio
QUICK = IDENTITY_SUITES["ecc256/sha256"]


def content(number) -> bytes:
    return sha256(f"content {number}".encode()).digest()


async def sign(engine, key="ALPHA", number=0, **options):
    return await engine.sign_many(key, Purpose.ENVELOPE, [content(number)], **options)


class Outcomes:
    """Callers in tasks of their own, and what became of each."""

    def __init__(self, tasks) -> None:
        self.tasks, self.results, self.errors, self.order, self.scopes = tasks, {}, {}, [], {}

    def start(self, name, call, *arguments):
        self.scopes[name] = anyio.CancelScope()
        self.tasks.start_soon(self._run, name, call, arguments)

    def cancel(self, *names):
        for name in names:
            self.scopes[name].cancel()

    async def _run(self, name, call, arguments):
        with self.scopes[name]:
            try:
                self.results[name] = await call(*arguments)
            except Exception as error:  # noqa: BLE001  every outcome is looked at
                self.errors[name] = error
            self.order.append(name)


# ---- group commit --------------------------------------------------------------------------------------------------------------


async def test_what_gathers_while_the_chip_is_busy_gets_one_signature(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        key = await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()
        for number in range(100):
            callers.start(number, sign, engine, "ALPHA", number)
        await anyio.wait_all_tasks_blocked()
        assert (await engine.statistics()).waiting == 100
        before = chip.operations
        gate.open()
        await until(lambda: len(callers.order) == 101)
        assert chip.operations - before == 1
        assert len({callers.results[number][0].signature for number in range(100)}) == 1
        assert callers.results["first"][0].signature != callers.results[0][0].signature
        for number in range(100):
            (proof,) = callers.results[number]
            assert proof.count == 100
            check_proof(proof, key, Purpose.ENVELOPE, content(number))
            with pytest.raises(VerificationError):
                check_proof(proof, key, Purpose.ENVELOPE, content(number + 1))
        statistics = await engine.statistics()
        assert (statistics.signatures, statistics.signed_contents, statistics.largest_batch) == (2, 101, 100)
        assert statistics.batch_sizes == {1: 1, 128: 1}


async def test_other_keys_and_other_signers_have_signatures_of_their_own(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        for name in ("ALPHA", "BETA"):
            await engine.create(name, QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()
        certificate = sha256(b"a certificate").digest()

        async def certified(number):
            return await sign(engine, number=number, signer=certificate)

        for number in range(5):
            callers.start(f"alpha {number}", sign, engine, "ALPHA", number)
            callers.start(f"beta {number}", sign, engine, "BETA", number)
            callers.start(f"certified {number}", certified, number)
        await anyio.wait_all_tasks_blocked()
        gate.open()
        await until(lambda: len(callers.order) == 16)
        by_signature = {}
        for name, (proof,) in callers.results.items():
            by_signature.setdefault((proof.signature, proof.signer), set()).add(str(name).split()[0])
        assert sorted(map(sorted, by_signature.values())) == [["alpha"], ["beta"], ["certified"], ["first"]]
        assert {proof.signer for name, (proof,) in callers.results.items() if str(name).startswith("certified")} == {certificate}


async def test_a_caller_with_a_content_that_is_none_harms_nobody_else(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        key = await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()

        async def wrong():
            return await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content(0), bytes(48)])

        for number in range(5):
            callers.start(number, sign, engine, "ALPHA", number)
            callers.start(f"wrong {number}", wrong)
        await anyio.wait_all_tasks_blocked()
        gate.open()
        await until(lambda: len(callers.order) == 11)
        assert {name: type(error) for name, error in callers.errors.items()} == {f"wrong {n}": ValueError for n in range(5)}
        for number in range(5):
            check_proof(callers.results[number][0], key, Purpose.ENVELOPE, content(number))
        assert chip.operations == 3  # create, the first, all the others


async def test_more_than_one_batch_can_hold_is_signed_in_two(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()

        async def many():
            return await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content(0)] * (MAX_BATCH // 2 + 1))

        callers.start("one", many)
        callers.start("two", many)
        await anyio.wait_all_tasks_blocked()
        gate.open()
        await until(lambda: len(callers.order) == 3)
        assert callers.results["one"][0].signature != callers.results["two"][0].signature


@pytest.mark.parametrize(
    ("contents", "options"),
    [([], {}), ([bytes(32)] * (MAX_BATCH + 1), {}), ([bytes(32)], {"signer": b""}), ([bytes(32)], {"signer": bytes(33)})],
    ids=["none", "too many", "empty signer", "long signer"],
)
async def test_misuse_is_a_value_error_before_anything_waits(engine, contents, options):
    async with engine:
        await engine.create("ALPHA", QUICK)
        with pytest.raises(ValueError, match=r"\d"):
            await engine.sign_many("ALPHA", Purpose.ENVELOPE, contents, **options)
        with pytest.raises(ValueError, match="7"):
            await engine.sign_many("ALPHA", 77, [bytes(32)])


@pytest.mark.parametrize(
    "contents", [[32], bytes(32), ["x" * 32], [None], [[0] * 32]], ids=["int", "bytes", "text", "none", "ints"]
)
async def test_what_is_no_bytes_is_not_taken_for_a_digest(engine, contents):
    """`bytes(32)` is 32 zeros, and nobody meant to sign those."""
    async with engine:
        await engine.create("ALPHA", QUICK)
        with pytest.raises(TypeError):
            await engine.sign_many("ALPHA", Purpose.ENVELOPE, contents)
        for content_type in (bytes, bytearray, memoryview):
            assert len(await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content_type(content(0))])) == 1


# ---- who goes first ------------------------------------------------------------------------------------------------------------


async def test_a_critical_signature_overtakes_what_can_wait(gate):
    served, chip = [], None

    class Recording(FakeTpm):
        def sign(self, key, *arguments, **options):
            served.append(key.spki)
            return super().sign(key, *arguments, **options)

    def open_tpm():
        nonlocal chip
        chip = Recording()
        return chip

    async with Engine(open_tpm, MemoryVault()) as engine, anyio.create_task_group() as tasks:
        keys = {name: (await engine.create(name, QUICK)).spki for name in ["ALPHA", *(f"AGENT{n}" for n in range(20))]}
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()

        async def renew(name):
            await sign(engine, name, priority=Priority.RENEWAL)

        async def command():
            await sign(engine, "AGENT19", priority=Priority.CRITICAL)

        for number in range(20):
            callers.start(number, renew, f"AGENT{number}")
        await anyio.wait_all_tasks_blocked()
        callers.start("critical", command)
        await anyio.wait_all_tasks_blocked()
        gate.open()
        await until(lambda: len(callers.order) == 22)
    assert served[:2] == [keys["ALPHA"], keys["AGENT19"]]
    assert len(served) == 21, "what waited for the same key went along"


async def test_none_of_76_keys_that_always_have_work_starves():
    """A chip of 40 ms an operation, by a clock that the chip itself moves."""
    clock, rounds, most_behind = ManualClock(), 4, 0
    done = {f"AGENT{number}": 0 for number in range(76)}

    class Steady(FakeTpm):
        def sign(self, *arguments, **options):
            clock.advance(0.040)
            return super().sign(*arguments, **options)

    async with Engine(Steady, MemoryVault(), clock=clock) as engine:
        for name in done:
            await engine.create(name, QUICK)

        async def agent(name):
            nonlocal most_behind
            for number in range(rounds):
                await sign(engine, name, number)
                done[name] += 1
                most_behind = max(most_behind, done[name] - min(done.values()))

        async with anyio.create_task_group() as tasks:
            for name in done:
                tasks.start_soon(agent, name)
        statistics = await engine.statistics()
    assert set(done.values()) == {rounds}
    assert most_behind <= 2, "somebody was served three times while another one waited for its first"
    assert statistics.longest_wait <= 77 * 0.040
    assert statistics.signatures == statistics.signed_contents == 76 * rounds


async def test_76_keys_that_wait_at_once_at_a_slow_tpm_have_one_turn_each(gate):
    chip, slow = FakeTpm(), None

    def open_slow():
        nonlocal slow
        slow = SlowTpm(chip, ecc_seconds=0.002)
        return slow

    async with Engine(open_slow, MemoryVault()) as engine, anyio.create_task_group() as tasks:
        names = [f"AGENT{number}" for number in range(76)]
        for name in names:
            await engine.create(name, QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine, "AGENT0")
        await gate.reached()
        for number in range(760):
            callers.start(number, sign, engine, names[number % 76], number)
        await anyio.wait_all_tasks_blocked()
        before = slow.operations
        gate.open()
        await until(lambda: len(callers.order) == 761)
        assert slow.operations - before == 76
        assert callers.errors == {}
        assert {callers.results[number][0].count for number in range(760)} == {10}


# ---- cancellation --------------------------------------------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_before_it_begins_leaves_nothing_behind(engine, chip):
    async with engine:
        await engine.create("ALPHA", QUICK)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sign(engine)
        assert scope.cancelled_caught
        await engine.facts()  # the thread has seen all that was asked before
        assert engine._worker.waiting == engine._worker._size == 0
        assert (await engine.statistics()).signatures <= 1  # the thread may have been quicker; nobody gets it


async def test_a_caller_that_is_cancelled_while_it_waits_takes_its_wish_back(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()
        for number in range(10):
            callers.start(f"impatient {number}", sign, engine, "ALPHA", number)
            callers.start(f"patient {number}", sign, engine, "ALPHA", number)
        await anyio.wait_all_tasks_blocked()
        callers.cancel(*(f"impatient {number}" for number in range(10)))
        await anyio.wait_all_tasks_blocked()
        assert engine._worker.waiting == 10
        gate.open()
        await until(lambda: len(callers.order) == 11)
        assert {name for name in callers.results if name != "first"} == {f"patient {number}" for number in range(10)}
        assert {callers.results[f"patient {number}"][0].count for number in range(10)} == {10}
        assert engine._worker._size == 0


async def test_a_caller_that_is_cancelled_while_it_is_served_leaves_at_once(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        key = await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("served", sign, engine)
        await gate.reached()
        callers.cancel("served")
        await anyio.wait_all_tasks_blocked()
        assert callers.order == []
        assert callers.scopes["served"].cancelled_caught, "it waits for the chip"
        gate.open()
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))
        assert (await engine.statistics()).signatures == 2


async def test_callers_who_give_up_at_random_instants_disturb_nobody(engine):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, served = random.Random(seed), 0
    async with engine:
        key = await engine.create("ALPHA", QUICK)

        async def caller(number, checkpoints):
            nonlocal served
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(give_up, scope, checkpoints)
                    proofs = await sign(engine, number=number)
                    check_proof(proofs[0], key, Purpose.ENVELOPE, content(number))
                    served += 1
                    tasks.cancel_scope.cancel()

        async def give_up(scope, checkpoints):
            for _ in range(checkpoints):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(caller, number, dice.choice([0, 1, 2, 5, 20, 100, 100_000]))
        await engine.facts()
        assert engine._worker.waiting == engine._worker._size == 0
        statistics = await engine.statistics()
        assert served <= statistics.signed_contents <= 300
    assert served >= 300 / 7 * 0.5


# ---- limits --------------------------------------------------------------------------------------------------------------------


async def test_a_queue_that_is_full_says_so_and_takes_more_when_it_has_emptied(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()
        contents = [content(0)] * MAX_BATCH

        async def many():
            return await engine.sign_many("ALPHA", Purpose.ENVELOPE, contents)

        for number in range(15):
            callers.start(number, many)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(OverloadedError) as caught:
            await many()
        assert caught.value.pending == 15 * MAX_BATCH
        assert caught.value.pending + MAX_BATCH > caught.value.limit
        callers.cancel(*range(15))
        await anyio.wait_all_tasks_blocked()
        assert engine._worker.waiting == 0
        gate.open()
        await sign(engine)


# ---- the end -------------------------------------------------------------------------------------------------------------------


async def test_who_waits_when_the_engine_closes_is_told_so(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("served", sign, engine)
        await gate.reached()
        for number in range(10):
            callers.start(number, sign, engine, "ALPHA", number)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(engine.aclose)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ClosedError):
            await sign(engine)
        gate.open()
        await until(lambda: len(callers.order) == 11)
        assert {name: type(error) for name, error in callers.errors.items()} == dict.fromkeys(range(10), ClosedError)
        assert len(callers.results["served"]) == 1  # what ran was finished


async def test_an_engine_may_be_closed_twice_and_refuses_what_comes_after(engine):
    async with engine:
        await engine.aclose()
        await engine.aclose()
        with pytest.raises(ClosedError):
            await engine.facts()


async def test_closing_does_not_wait_for_a_chip_that_hangs(engine, chip, gate, monkeypatch):
    monkeypatch.setattr("bus.tpm.engine.CLOSE_SECONDS", 0.05)
    async with anyio.create_task_group() as tasks:
        async with engine:
            await engine.create("ALPHA", QUICK)
            callers = Outcomes(tasks)
            chip.faults.append(gate)
            callers.start("hangs", sign, engine)
            await gate.reached()
            with anyio.fail_after(10):
                await engine.aclose()
        callers.cancel("hangs")


async def test_a_chip_is_opened_used_and_closed_in_one_thread():
    """The TPM library's context belongs to one thread, and closing a slow chip must not hold up an event loop."""
    threads = []

    class Watched(FakeTpm):
        def facts(self):
            threads.append(threading.current_thread())
            return super().facts()

        def close(self):
            threads.append(threading.current_thread())
            super().close()

    async with Engine(Watched, MemoryVault()) as engine:
        await engine.create("ALPHA", QUICK)
    assert len(threads) >= 2
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


async def test_a_chip_that_hung_while_the_engine_closed_is_closed_when_it_comes_back_and_not_opened_again(gate, monkeypatch):
    monkeypatch.setattr("bus.tpm.engine.CLOSE_SECONDS", 0.05)
    opened, closed = [], threading.Event()

    class Hanging(FakeTpm):
        def close(self):
            closed.set()
            super().close()

    def open_tpm():
        opened.append(Hanging())
        return opened[-1]

    engine = Engine(open_tpm, MemoryVault())
    async with anyio.create_task_group() as tasks:
        async with engine:
            await engine.create("ALPHA", QUICK)
            callers = Outcomes(tasks)

            def hang_then_die():
                gate()
                raise TpmUnavailableError("no_tpm", "killed")

            opened[0].faults.append(hang_then_die)
            callers.start("hangs", sign, engine)
            await gate.reached()
            await engine.aclose()
        callers.cancel("hangs")
        gate.open()
        assert await anyio.to_thread.run_sync(engine._worker.join, 10)
    assert closed.is_set()
    assert len(opened) == 1, "a TPM was opened for an engine that is closed"


# ---- errors --------------------------------------------------------------------------------------------------------------------


class NoOrdinaryError(BaseException):
    """What `except Exception` does not see."""


@pytest.mark.parametrize(
    "error",
    [
        TpmRefusedError("refused", "no", rc=0x2A2),
        TpmUnavailableError("tpm_memory", "full", rc=0x902),
        ValueError("value"),
        MemoryError(),
        ZeroDivisionError(),
        RecursionError(),
        StopIteration(),
        NoOrdinaryError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_thread_survives_every_exception_and_each_caller_hears_of_it(engine, chip, gate, error):
    async with engine, anyio.create_task_group() as tasks:
        key = await engine.create("ALPHA", QUICK)
        heard = []

        async def caller():
            try:
                await sign(engine)
            except BaseException as found:  # noqa: BLE001  every outcome is looked at
                heard.append(found)

        def fail():
            raise error

        chip.faults.append(gate)
        tasks.start_soon(caller)
        await gate.reached()
        for _ in range(3):
            tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        chip.faults.append(fail)
        gate.open()
        await until(lambda: len(heard) == 3)
        for found in heard:
            assert vars(found) == vars(error)
            assert isinstance(found, type(error) if type(error) is not StopIteration else Exception)
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))


async def test_callers_of_one_batch_do_not_share_one_exception(engine, chip, gate):
    """Else each would see the tracebacks of all."""
    async with engine, anyio.create_task_group() as tasks:
        await engine.create("ALPHA", QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()
        for number in range(20):
            callers.start(number, sign, engine)
        await anyio.wait_all_tasks_blocked()

        def fail():
            raise TpmRefusedError("lockout", "locked", rc=0x921)

        chip.faults.append(fail)
        gate.open()
        await until(lambda: len(callers.order) == 21)
        assert len({id(error) for error in callers.errors.values()}) == 20
        assert {(error.code, error.rc) for error in callers.errors.values()} == {("lockout", 0x921)}
        assert len(traceback.format_exception(callers.errors[19])) < 60


async def test_a_wrong_signature_is_not_let_out(engine, chip):
    async with engine:
        key = await engine.create("ALPHA", QUICK)
        chip.corrupt_signatures = 1
        with pytest.raises(TpmRefusedError) as caught:
            await sign(engine)
        assert caught.value.code == "bad_signature"
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))
        statistics = await engine.statistics()
        assert statistics.failures == {"bad_signature": 1}
        assert (statistics.signatures, statistics.signed_contents) == (1, 1)


async def test_an_exception_of_one_key_is_not_heard_by_callers_of_another(engine, chip, gate):
    async with engine, anyio.create_task_group() as tasks:
        for name in ("ALPHA", "BETA"):
            await engine.create(name, QUICK)
        callers = Outcomes(tasks)
        chip.faults.append(gate)
        callers.start("first", sign, engine)
        await gate.reached()
        callers.start("unknown", sign, engine, "GAMMA")
        callers.start("beta", sign, engine, "BETA")
        await anyio.wait_all_tasks_blocked()
        gate.open()
        await until(lambda: len(callers.order) == 3)
        assert {name: error.code for name, error in callers.errors.items()} == {"unknown": "unknown_key"}


# ---- a TPM that dies -----------------------------------------------------------------------------------------------------------


class Dying:
    """Chips that are opened one after the other; `outcomes` says what each opening does."""

    def __init__(self) -> None:
        self.chips, self.refuse = [], []

    def open(self):
        if self.refuse:
            raise self.refuse.pop(0)
        self.chips.append(FakeTpm())
        return self.chips[-1]

    def kill(self):
        def gone():
            raise TpmUnavailableError("no_tpm", "gone", rc=0xA000A)

        self.chips[-1].faults.append(gone)


async def test_a_tpm_that_died_is_opened_again_and_nobody_notices():
    dying = Dying()
    async with Engine(dying.open, MemoryVault()) as engine:
        key = await engine.create("ALPHA", QUICK)
        dying.kill()
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))
        statistics = await engine.statistics()
        assert (statistics.restarts, dict(statistics.failures), len(dying.chips)) == (1, {}, 2)


async def test_a_tpm_that_does_not_open_at_once_is_tried_again():
    """One that was killed still takes calls a moment before it is gone, and its successor comes when it is."""
    dying = Dying()
    async with Engine(dying.open, MemoryVault()) as engine:
        key = await engine.create("ALPHA", QUICK)
        dying.kill()
        dying.refuse = [TpmUnavailableError("no_tpm", "not yet") for _ in REOPEN_TRIES_SECONDS]
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))
        assert (await engine.statistics()).restarts == 1


async def test_a_tpm_that_refuses_to_be_opened_again_is_asked_once():
    dying = Dying()
    async with Engine(dying.open, MemoryVault()) as engine:
        await engine.create("ALPHA", QUICK)
        dying.kill()
        dying.refuse = [TpmRefusedError("foreign_primary", "another one") for _ in range(2)]
        with pytest.raises(TpmRefusedError) as caught:
            await sign(engine)
        assert (caught.value.code, len(dying.refuse)) == ("foreign_primary", 1)


async def test_a_tpm_that_cannot_be_opened_again_is_not_tried_by_every_caller():
    dying, clock = Dying(), ManualClock()
    async with Engine(dying.open, MemoryVault(), clock=clock) as engine:
        key = await engine.create("ALPHA", QUICK)
        dying.kill()
        tries = len(REOPEN_TRIES_SECONDS) + 1
        dying.refuse = [TpmUnavailableError("no_tpm", "still gone") for _ in range(2 * tries)]
        for _ in range(5):
            with pytest.raises(TpmUnavailableError) as caught:
                await sign(engine)
            assert caught.value.code == "no_tpm"
        assert len(dying.refuse) == tries, "each caller tried for itself"
        clock.advance(1.1)
        with pytest.raises(TpmUnavailableError):
            await sign(engine)
        clock.advance(1.1)
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))
        assert (await engine.statistics()).restarts == 1


async def test_a_tpm_that_dies_again_while_it_is_opened_is_opened_once_more():
    """Opening worked and the first question did not: what is half open must not pass for open."""
    clock, chips = ManualClock(), []

    class HalfOpen(FakeTpm):
        closed = False
        mute = False

        def facts(self):
            if self.mute:
                raise TpmUnavailableError("no_tpm", "it died again")
            return super().facts()

        def sign(self, *arguments, **options):
            assert not self.closed, "a closed TPM is asked to sign"
            return super().sign(*arguments, **options)

        def close(self):
            self.closed = True
            super().close()

    def open_tpm():
        chips.append(HalfOpen())
        chips[-1].mute = len(chips) == 2
        return chips[-1]

    def gone():
        raise TpmUnavailableError("no_tpm", "gone")

    async with Engine(open_tpm, MemoryVault(), clock=clock) as engine:
        key = await engine.create("ALPHA", QUICK)
        chips[0].faults.append(gone)
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))
    assert [chip.closed for chip in chips] == [True, True, True]


async def test_an_error_that_is_no_death_does_not_open_the_tpm_again():
    dying = Dying()
    async with Engine(dying.open, MemoryVault()) as engine:
        await engine.create("ALPHA", QUICK)

        def full():
            raise TpmUnavailableError("tpm_memory", "full", rc=0x902)

        dying.chips[0].faults.append(full)
        with pytest.raises(TpmUnavailableError) as caught:
            await sign(engine)
        assert (caught.value.code, caught.value.rc, len(dying.chips)) == ("tpm_memory", 0x902, 1)


async def test_an_engine_whose_tpm_does_not_open_does_not_start():
    def refuse():
        raise TpmRefusedError("foreign_primary", "not ours")

    engine = Engine(refuse, MemoryVault())
    with pytest.raises(TpmRefusedError) as caught:
        async with engine:
            pass
    assert caught.value.code == "foreign_primary"
    assert await anyio.to_thread.run_sync(engine._worker.join, 10), "its thread lives on"


# ---- several event loops -------------------------------------------------------------------------------------------------------


async def test_event_loops_of_both_kinds_use_one_engine_at_once(engine):
    outcomes = {}

    async def in_a_loop_of_its_own(name):
        done = []

        async def caller(number):
            proofs = await sign(engine, number=f"{name} {number}")
            check_proof(proofs[0], key, Purpose.ENVELOPE, content(f"{name} {number}"))
            done.append(number)

        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(caller, number)
        return len(done)

    def thread(name, backend):
        outcomes[name] = anyio.run(in_a_loop_of_its_own, name, backend=backend)

    async with engine:
        key = await engine.create("ALPHA", QUICK)
        async with anyio.create_task_group() as tasks:
            for name, backend in {"one": "asyncio", "two": "trio", "three": "asyncio"}.items():
                tasks.start_soon(anyio.to_thread.run_sync, thread, name, backend)
            outcomes["here"] = await in_a_loop_of_its_own("here")
        statistics = await engine.statistics()
    assert outcomes == {"one": 100, "two": 100, "three": 100, "here": 100}
    assert statistics.signed_contents == 400
    assert statistics.signatures < 400


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_a_loop_that_ends_while_its_caller_is_served_harms_nobody(engine, chip, gate, backend):
    ended = threading.Event()

    async def ask_and_leave():
        with anyio.move_on_after(0.02):
            await sign(engine)

    def thread():
        anyio.run(ask_and_leave, backend=backend)
        ended.set()

    async with engine:
        key = await engine.create("ALPHA", QUICK)
        chip.faults.append(gate)
        await anyio.to_thread.run_sync(thread)
        assert ended.is_set()
        gate.open()
        check_proof((await sign(engine))[0], key, Purpose.ENVELOPE, content(0))


# ---- what it counts ------------------------------------------------------------------------------------------------------------


async def test_statistics_add_up(engine, chip):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, expected = random.Random(seed), 0
    async with engine:
        await engine.create("ALPHA", QUICK)
        await engine.create("BETA", IDENTITY_SUITES["ecc384/sha3-256"])
        for _ in range(20):
            sizes = [dice.randrange(1, 40) for _ in range(dice.randrange(1, 6))]
            async with anyio.create_task_group() as tasks:
                for size in sizes:
                    expected += size
                    key = dice.choice(["ALPHA", "BETA"])
                    tasks.start_soon(engine.sign_many, key, Purpose.SESSION, [content(n) for n in range(size)])
        statistics = await engine.statistics()
    assert statistics.signed_contents == expected
    assert sum(statistics.algorithms.values()) == sum(statistics.batch_sizes.values()) == statistics.signatures
    assert statistics.operations["sign"] == statistics.signatures
    assert statistics.operations["create"] == 2
    assert set(statistics.algorithms) <= {"ecc256/sha256", "ecc384/sha3-256"}
    lower = sum((size // 2 + 1 if size > 1 else 1) * count for size, count in statistics.batch_sizes.items())
    assert lower <= expected <= sum(size * count for size, count in statistics.batch_sizes.items())
    assert max(statistics.batch_sizes) == 1 << math.ceil(math.log2(statistics.largest_batch))
    assert chip.operations == 2 + statistics.signatures
    assert statistics.waiting == 0
    assert 0 < statistics.longest_wait <= statistics.total_wait
    assert statistics.failures == {}


async def until(condition) -> None:
    """Give way until it holds; what it waits for happens in the engine's thread."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.lowlevel.checkpoint()

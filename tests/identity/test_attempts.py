"""Asking a TPM for many: what is tried again, what is final, how long anybody waits."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel
import pytest

from bus.errors import (
    ClosedError,
    ConnectionLostError,
    NotPermittedError,
    OverloadedError,
    TpmRefusedError,
    TpmUnavailableError,
    VaultError,
    VerificationError,
)
from bus.identity.host.attempts import AT_A_TIME, Pauses, attempt, is_passing, part, reason_of, within
from bus.testing import ManualClock

ERRORS = {
    "no_tpm": (TpmUnavailableError("no_tpm", "gone"), True),
    "key_ended": (TpmRefusedError("key_ended", "ended"), False),
    "damaged": (VaultError("damaged", "broken", path="x"), False),
    "overloaded": (OverloadedError("q", pending=1, limit=1), True),
    "closed": (ClosedError("closed"), True),
    "unreachable": (ConnectionLostError("lost"), True),
    "not_permitted": (NotPermittedError("ALPHA", "sign", "rule"), False),
    "trust_stale": (VerificationError("trust_stale"), True),
    "clock_behind": (VerificationError("clock_behind"), True),
    "identity_ended": (VerificationError("identity_ended"), False),
    "bad_proof": (VerificationError("bad_proof"), False),
}


@pytest.mark.parametrize("reason", ERRORS)
def test_every_error_has_a_word_and_passes_or_not(reason):
    error, passing = ERRORS[reason]
    assert (reason_of(error), is_passing(error)) == (reason, passing)


def test_pauses_double_up_to_their_limit_and_differ():
    pauses = Pauses(os.urandom, longest=10.0)
    taken = [pauses.take() for _ in range(6)]
    for pause, full in zip(taken, [1, 2, 4, 8, 10, 10], strict=True):
        assert 0.75 * full <= pause <= full
    pauses.reset()
    assert pauses.take() <= 1
    assert len({Pauses(os.urandom).take() for _ in range(20)}) > 10
    assert part(bytes) == 0.0
    assert 0.999 < part(lambda size: b"\xff" * size) <= 1.0


@pytest.mark.anyio
async def test_a_few_are_asked_at_a_time_and_the_first_trouble_ends_the_attempt():
    asked, at_once, most = [], 0, 0

    async def ask(name):
        nonlocal at_once, most
        asked.append(name)
        at_once += 1
        most = max(most, at_once)
        await anyio.lowlevel.checkpoint()
        at_once -= 1
        if name == "8":
            raise TpmUnavailableError("busy", "later")
        if name == "3":
            raise TpmRefusedError("unknown_key", "none")
        return int(name)

    outcome = await attempt(ask, [str(number) for number in range(40)], ManualClock())
    assert most == AT_A_TIME
    assert outcome.trouble.code == "busy"
    assert outcome.troubled == {"8"}
    assert {name: error.code for name, error in outcome.refused.items()} == {"3": "unknown_key"}
    assert outcome.made == {name: int(name) for name in asked if name not in "38"}
    assert len(asked) < 8 + 2 * AT_A_TIME
    assert outcome.error is outcome.refused["3"]


@pytest.mark.anyio
async def test_nothing_goes_wrong_if_nobody_is_asked():
    outcome = await attempt(int, [], ManualClock())
    assert (outcome.made, outcome.error) == ({}, None)


@pytest.mark.anyio
async def test_a_call_is_cancelled_when_the_clock_says_so():
    clock, ended = ManualClock(), []

    async def never():
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(clock.seconds)

    async def waiter():
        with pytest.raises(TimeoutError):
            await within(5.0, clock, never)
        ended.append("told")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiter)
        await anyio.wait_all_tasks_blocked()
        clock.advance(4.9)
        await anyio.wait_all_tasks_blocked()
        assert ended == []
        clock.advance(0.2)
        await anyio.wait_all_tasks_blocked()
        assert ended == [pytest.approx(5.1), "told"]


@pytest.mark.anyio
async def test_what_a_call_gives_or_raises_comes_through_bare():
    async def gives():
        await anyio.lowlevel.checkpoint()

    async def raises():
        raise KeyError("x")

    assert await within(5.0, ManualClock(), gives) is None
    with pytest.raises(KeyError):
        await within(5.0, ManualClock(), raises)

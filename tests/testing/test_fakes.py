"""The fakes that users get: a clock turned by hand, a TPM that breaks on purpose, one that is as slow as a chip."""

from __future__ import annotations

import anyio
import pytest

from bus.errors import TpmRefusedError, TpmUnavailableError, VerificationError
from bus.protocol import signatures
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock, SlowTpm
from bus.tpm.interface import SOFTWARE_TPM

QUICK, SLOW = IDENTITY_SUITES["ecc256/sha256"], IDENTITY_SUITES["rsa3072/sha256"]


def test_a_manual_clock_moves_only_when_it_is_moved():
    clock = ManualClock()
    ms, seconds = clock.now_ms(), clock.monotonic()
    assert (clock.now_ms(), clock.monotonic()) == (ms, seconds)
    clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (ms + 1500, seconds + 1.5)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    clock.ms -= 60_000  # somebody sets the wall clock back
    assert (clock.now_ms(), clock.monotonic()) == (ms - 58_500, seconds + 1.5)


def test_a_fake_calls_its_faults_one_at_each_operation():
    chip, seen = FakeTpm(), []

    def fail():
        raise TpmUnavailableError("no_tpm", "gone")

    chip.faults.extend([lambda: seen.append("looked"), fail])
    key = chip.create(QUICK, auth=b"auth")
    assert seen == ["looked"]
    with pytest.raises(TpmUnavailableError):
        chip.sign(key, QUICK, bytes(32), auth=b"auth")
    chip.sign(key, QUICK, bytes(32), auth=b"auth")
    chip.unseal(chip.seal(b"secret", pcrs=[]))
    assert chip.operations == 5


def test_a_fake_says_it_is_a_software_tpm_and_says_that_it_is_a_fake():
    chip = FakeTpm()
    assert chip.facts().origin == chip.create(QUICK, auth=b"auth").origin == SOFTWARE_TPM
    assert "fake" in chip.facts().description
    assert chip.facts().hashes == {"sha256", "sha384"}


def test_a_fake_gives_as_many_wrong_signatures_as_it_is_told():
    chip = FakeTpm()
    key = chip.create(QUICK, auth=b"auth")
    chip.corrupt_signatures = 2

    def holds():
        try:
            signature = chip.sign(key, QUICK, QUICK.digest(b"signed"), auth=b"auth")
            signatures.verify(QUICK, signatures.load_public(key.spki), b"signed", signature)
        except VerificationError:
            return False
        return True

    assert [holds() for _ in range(4)] == [False, False, True, True]


def test_keys_of_one_fake_open_in_another_as_those_of_one_chip_do_after_a_restart():
    key = FakeTpm().create(QUICK, auth=b"auth")
    FakeTpm().sign(key, QUICK, bytes(32), auth=b"auth")


def test_a_slow_tpm_waits_as_long_as_the_kind_of_its_key_says(monkeypatch):
    waits = []
    monkeypatch.setattr("bus.tpm.slow.time.sleep", waits.append)
    chip = SlowTpm(FakeTpm())
    for suite in (QUICK, SLOW):
        key = chip.create(suite, auth=b"auth")
        chip.sign(key, suite, bytes(32), auth=b"auth")
    chip.unseal(chip.seal(b"secret", pcrs=[]))
    assert waits == [0.040, 0.040, 0.120, 0.120, 0.040, 0.040]
    assert chip.operations == 6


def test_a_slow_tpm_fails_when_it_is_told_to_and_only_then():
    chip = SlowTpm(FakeTpm(), 0, 0)
    first, second = TpmRefusedError("lockout", "locked"), TpmUnavailableError("no_tpm", "gone")
    chip.fail_next(first, second)
    for error in (first, second):
        with pytest.raises(type(error)) as caught:
            chip.seal(b"secret", pcrs=[])
        assert caught.value is error
    assert chip.unseal(chip.seal(b"secret", pcrs=[])) == b"secret"


@pytest.mark.parametrize("name", ["certify", "quote", "activate", "endorsement"])
def test_a_slow_tpm_refuses_to_attest_as_what_is_in_it_does(name):
    chip = SlowTpm(FakeTpm(), 0, 0)
    key = chip.create(QUICK, auth=b"auth")
    arguments = {
        "certify": ((key, key), {"qualifying": b"", "auth": b"", "attester_auth": b""}),
        "quote": (([0], key), {"qualifying": b"", "attester_auth": b""}),
        "activate": ((key,), {"credential": b"", "secret": b"", "attester_auth": b""}),
        "endorsement": ((), {}),
    }
    positional, named = arguments[name]
    with pytest.raises(TpmRefusedError) as caught:
        getattr(chip, name)(*positional, **named)
    assert caught.value.code == "not_a_tpm"
    assert chip.facts() == chip.inner.facts()
    assert chip.statistics() == chip.inner.statistics()
    chip.close()


@pytest.mark.anyio
async def test_who_sleeps_by_a_manual_clock_wakes_when_its_hand_passes_and_not_before():
    clock, awake = ManualClock(), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        awake.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (2.0, 0.0, 1.0, 3.0):
            tasks.start_soon(sleeper, seconds)
        await anyio.wait_all_tasks_blocked()
        assert awake == [0.0]
        clock.ms += 3_600_000  # the wall clock alone wakes nobody
        clock.advance(0.5)
        await anyio.wait_all_tasks_blocked()
        assert awake == [0.0]
        clock.advance(1.5)
        await anyio.wait_all_tasks_blocked()
        assert sorted(awake) == [0.0, 1.0, 2.0]
        tasks.cancel_scope.cancel()
    clock.advance(10)  # nobody is left to wake
    assert sorted(awake) == [0.0, 1.0, 2.0]

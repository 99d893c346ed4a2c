"""The inbox keys of a state folder: what is known of them elsewhere, and what a wrong clock must not destroy."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import anyio
from anyio import to_thread

from bus.hub.inboxes import Inboxes
from bus.hub.state import State
from bus.identity.inbox_record import Why
from bus.identity.public_trust import read_statement
from bus.identity.trust_memory import TrustMemory
from bus.policy import load, open_policy
from bus.protocol.papers import MAX_COUNTER
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))

from inboxes import DAY, NOW, identity  # it lies in the tests of identity


def test_who_took_all_counters_of_a_name_is_revoked_and_the_name_begins_anew(fleet):
    """Somebody used the identity key elsewhere, and this folder has seen what was certified with it."""
    fleet.json("provision", "MONITOR")
    TrustMemory(fleet.state.trust).accept_inboxes({"MONITOR": (0, MAX_COUNTER)})
    done = fleet.run("provision", "MONITOR", "--json")
    assert done.returncode != 0
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["reason"], error["agent"]) == ("VerificationError", "inbox_rollback", "MONITOR")
    fleet.json("trust", "revoke", "MONITOR")
    fleet.json("trust", "enroll", "--uid", str(os.getuid()), "MONITOR")
    (again,) = fleet.json("provision", "MONITOR")["agents"]
    assert (again["certificate"]["issued"], again["inbox"]["counter"]) == (True, 2)


def test_what_has_passed_is_what_trust_has_seen_and_not_what_the_clock_says(fleet):
    fleet.json("provision", "MONITOR")
    state, policy = fleet.state, open_policy()
    statement = read_statement(state.trust / "public")
    year = 365 * 86_400_000

    async def passed(ahead_ms):
        clock = ManualClock(statement.issued_ms + ahead_ms)
        inboxes = await Inboxes.open(state, None, policy, clock=clock)
        return inboxes.passed_ms()

    def at(ahead_ms):
        return anyio.run(passed, ahead_ms)

    assert at(5) == statement.issued_ms + 5
    assert at(year) == statement.next_update_ms
    TrustMemory(state.trust).accept(statement)  # an agent has no other place where it stands
    (state.trust / "public" / "statement.bin").unlink()
    assert at(5) == at(year) == statement.issued_ms


def test_a_clock_that_is_years_ahead_for_a_while_destroys_no_key(fleet):
    state, policy, clock = fleet.state, open_policy(), ManualClock(NOW)
    memory = TrustMemory(state.trust)

    async def keep_twice():
        async with Engine(FakeTpm, MemoryVault(), software=SoftwareTpm(bytes(32))) as engine:
            signer = await identity(engine, ends=NOW + 10 * 365 * DAY)
            inboxes = Inboxes(state, engine, policy, clock, memory, None)
            first = (await inboxes.keep(signer)).record.newest
            clock.ms += 2 * 365 * DAY
            return first, await inboxes.keep(signer)

    first, kept = anyio.run(keep_twice)
    assert (kept.made, kept.destroyed) == (Why.AGE, ())
    assert first in kept.record.keys


BOUND = """
version: 1
domain: tpmbus.local
agents: {MONITOR: bound}
roles: {bound: {key: ecc256/sha256, pcrs: [0, 7]}}
"""


def test_a_key_is_bound_to_the_registers_that_policy_names_and_its_counter_goes_on_from_what_is_published(tmp_path, runtime):
    """The folder of inbox keys was lost, and trust has seen nothing: what others have been shown is still there."""
    sealed = []

    class Noting(FakeTpm):
        def seal(self, secret, *, pcrs):
            sealed.append(tuple(pcrs))
            return super().seal(secret, pcrs=())  # it has no registers

    policy, clock = load({"policy.yaml": BOUND}), ManualClock(NOW)
    states = [State(tmp_path / name, runtime) for name in ("before", "after")]
    memories = [TrustMemory(state.trust) for state in states]
    places = [state.trust / "public" / "inbox" for state in states]

    def lose_all_but_what_is_published() -> None:
        shutil.copytree(*places, dirs_exist_ok=True)

    async def keep_in_both():
        counters = []
        async with Engine(Noting, MemoryVault(), software=SoftwareTpm(bytes(32))) as engine:
            signer = await identity(engine, ends=NOW + 10 * 365 * DAY)
            for state, memory in zip(states, memories, strict=True):
                inboxes = Inboxes(state, engine, policy, clock, memory, None)
                counters += [(await inboxes.keep(signer, anew=anew)).record.newest.counter for anew in (False, True)]
                await to_thread.run_sync(lose_all_but_what_is_published)
        return counters

    first, second, third, fourth = anyio.run(keep_in_both)
    assert first < second < third < fourth
    assert sealed == [(0, 7)] * 4

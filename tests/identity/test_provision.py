"""Every agent's key: what policy forbids is said at once, and what exists is not made again."""

from __future__ import annotations

import pytest

from bus.errors import NotPermittedError, TpmUnavailableError
from bus.identity.provision import Wanted, plan, provision
from bus.policy import load, open_policy
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm
from bus.testing.tpm_check import check_proof
from bus.tpm.engine import Engine
from bus.tpm.interface import HARDWARE, ORIGINS, SOFTWARE, SOFTWARE_TPM
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault

AGENTS = [f"FREE{number}" for number in range(40)]


def policy(*, percent=100, enabled=True):
    agents = "\n".join(f"  {name}: free" for name in AGENTS)
    return load(
        {
            "p.yaml": f"""version: 1
agents:
  CHIP: chip
  CRITICAL: tpm
  CRITICAL2: tpm
{agents}
roles:
  chip: {{key: ecc384/sha384, key_origin: hardware}}
  tpm: {{key: ecc384/sha3-256}}
  free: {{key: ecc256/sha256, key_origin: software, environment: allow}}
rollout: {{tpm_percent: {percent}, enabled: {str(enabled).lower()}}}
"""
        }
    )


# ---- deciding ------------------------------------------------------------------------------------------------------------------


def test_each_agent_is_to_have_its_roles_suite_in_the_tpm_that_is_there():
    wanted = plan(policy(), ["CRITICAL", "FREE0"], origin=SOFTWARE_TPM, environ={})
    assert wanted == [
        Wanted("CRITICAL", "tpm", IDENTITY_SUITES["ecc384/sha3-256"], SOFTWARE_TPM),
        Wanted("FREE0", "free", IDENTITY_SUITES["ecc256/sha256"], SOFTWARE_TPM),
    ]


def test_planning_asks_nothing_but_its_arguments():
    """The same twice, and a later environment changes nothing."""
    environ = {"TPM_ENABLE_PERCENT": "30"}
    first = plan(policy(), AGENTS, origin=SOFTWARE_TPM, environ=environ)
    assert first == plan(policy(), AGENTS, origin=SOFTWARE_TPM, environ=dict(environ))
    environ.clear()
    assert {wanted.origin for wanted in first} == {SOFTWARE, SOFTWARE_TPM}


def test_all_that_policy_forbids_is_said_at_once():
    with pytest.raises(NotPermittedError) as caught:
        plan(policy(), ["CHIP", "CRITICAL", "FREE0", "CRITICAL2"], origin=SOFTWARE, environ={})
    for name in ("CHIP", "CRITICAL", "CRITICAL2"):
        assert name in caught.value.agent
    assert "FREE0" not in caught.value.agent
    assert "hardware" in caught.value.rule
    assert "software-tpm" in caught.value.rule


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("agent", ["CHIP", "CRITICAL", "FREE0"])
def test_a_role_gets_its_place_or_a_better_one_or_nothing(agent, origin):
    least = {"CHIP": HARDWARE, "CRITICAL": SOFTWARE_TPM, "FREE0": SOFTWARE}[agent]
    if ORIGINS.index(origin) >= ORIGINS.index(least):
        (wanted,) = plan(policy(), [agent], origin=origin, environ={})
        assert wanted.origin == origin
        return
    with pytest.raises(NotPermittedError):
        plan(policy(), [agent], origin=origin, environ={})


def test_the_environment_moves_those_to_software_who_may_be_moved_and_nobody_else():
    off = {"TPM_ENABLED": "false"}
    wanted = {wish.agent: wish.origin for wish in plan(policy(), ["CRITICAL", *AGENTS], origin=SOFTWARE_TPM, environ=off)}
    assert wanted == {"CRITICAL": SOFTWARE_TPM} | dict.fromkeys(AGENTS, SOFTWARE)


def test_a_rollout_grows_and_keeps_whom_it_has():
    on = {}
    for percent in (0, 30, 60, 100):
        wanted = plan(policy(percent=percent), AGENTS, origin=SOFTWARE_TPM, environ={})
        on[percent] = {wish.agent for wish in wanted if wish.origin == SOFTWARE_TPM}
    assert on[0] == set()
    assert on[0] < on[30] < on[60] < on[100] == set(AGENTS)


def test_an_agent_of_no_role_has_no_key():
    with pytest.raises(NotPermittedError):
        plan(policy(), ["STRANGER"], origin=SOFTWARE_TPM, environ={})


def test_the_shipped_fleet_is_planned_on_a_software_tpm():
    fleet = open_policy()
    wanted = plan(fleet, fleet.agents, origin=SOFTWARE_TPM, environ={})
    assert len(wanted) == 76
    assert {wish.origin for wish in wanted} == {SOFTWARE_TPM}
    assert len({wish.suite.kind for wish in wanted}) == 3


# ---- doing ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def chip():
    return FakeTpm()


@pytest.fixture
def engine(chip):
    return Engine(lambda: chip, MemoryVault(), software=SoftwareTpm(bytes(32)))


async def everybody(engine, policy, agents=AGENTS[:8], environ=None):
    wanted = plan(policy, agents, origin=SOFTWARE_TPM, environ=environ or {})
    return [done async for done in provision(engine, wanted)]


@pytest.mark.anyio
async def test_what_is_missing_is_made_and_what_exists_is_not(engine, chip):
    async with engine:
        first = await everybody(engine, policy())
        assert [done.wanted.agent for done in first] == AGENTS[:8]
        assert all(done.made and done.seconds >= 0 for done in first)
        assert chip.operations == 8
        second = await everybody(engine, policy())
        assert not any(done.made for done in second)
        assert [done.key for done in second] == [done.key for done in first]
        third = await everybody(engine, policy(), AGENTS[:10])
        assert [done.made for done in third] == [False] * 8 + [True] * 2
        assert chip.operations == 10


@pytest.mark.anyio
async def test_interrupted_in_the_middle_it_goes_on_where_it_stopped(engine, chip):
    async with engine:
        wanted = plan(policy(), AGENTS[:6], origin=SOFTWARE_TPM, environ={})

        def gone():
            raise TpmUnavailableError("tpm_memory", "full", rc=0x902)

        chip.faults.extend([lambda: None] * 3 + [gone])
        done = []
        with pytest.raises(TpmUnavailableError):  # noqa: PT012  a loop is how it is used
            async for one in provision(engine, wanted):
                done.append(one)  # noqa: PERF401  what came before the error counts
        assert len(done) == 3
        again = [one async for one in provision(engine, wanted)]
        assert [one.made for one in again] == [False] * 3 + [True] * 3
        assert {one.key.generation for one in again} == {1}


@pytest.mark.anyio
async def test_a_rollout_that_goes_forth_and_back_uses_the_generations_it_made(engine):
    async with engine:
        made = 0
        for percent in (0, 30, 60, 100, 30, 0, 100):
            here = policy(percent=percent)
            for done in await everybody(engine, here, AGENTS[:12]):
                made += done.made
                assert done.key.origin == done.wanted.origin
                assert done.key.ends_ms is None
                for proof in await engine.sign_many(done.wanted.agent, Purpose.ENROLL, [bytes(32)]):
                    check_proof(proof, done.key, Purpose.ENROLL, bytes(32))
        keys = await engine.keys()
        assert made == len(keys) == 24
        assert {key.generation for key in keys} == {1, 2}
        assert [key.origin for key in keys if key.ends_ms is None] == [SOFTWARE_TPM] * 12


@pytest.mark.anyio
async def test_another_suite_in_the_policy_makes_a_new_generation(engine):
    async with engine:
        await everybody(engine, policy(), ["CRITICAL"])
        other = load({"p.yaml": "version: 1\nagents: {CRITICAL: tpm}\nroles: {tpm: {key: ecc384/sha384}}\n"})
        (done,) = await everybody(engine, other, ["CRITICAL"])
        assert (done.made, done.key.id, done.key.suite) == (True, "CRITICAL.2", "ecc384/sha384")

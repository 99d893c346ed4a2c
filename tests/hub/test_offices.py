"""Provisioning, the enrolment list and the trust signer beside a hub that runs: through its desk, with nothing stopped."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

import bus
from bus.clock import SystemClock
from bus.errors import AttestationError
from bus.hub import admin
from bus.hub.fleet_papers import Fleet, Order, provision_fleet
from bus.hub.tpm_process import open_engine
from bus.identity.public_trust import read_public
from bus.policy import files, load
from bus.testing import ManualClock
from bus.trust.enrolment_list import EnrolmentList

pytestmark = pytest.mark.anyio
CHIP = "ab" * 32


async def provisioned(home, *names: str, joined=None, policy=None, ahead_ms=0) -> Fleet:
    """As `tpmbus provision` does it."""
    texts = await to_thread.run_sync(files.read, policy or home.policy)
    order = Order(load(texts), texts, names, joined or {})
    async with open_engine(home.state, policy=str(home.policy), tpm="software") as engine:
        clock = ManualClock(SystemClock().now_ms() + ahead_ms) if ahead_ms else SystemClock()
        return await provision_fleet(home.state, engine, order, environ={}, clock=clock, tell=lambda _phase, _name: None)


async def asked(home, verb: str, **arguments):
    return await admin.ask(home.state.admin_socket, verb, **arguments)


async def certified(hub) -> int:
    return (await hub.statistics())["host"]["sessions"]["certified"]


async def heard(sender, tasks) -> None:
    """Its reader makes a new session too, and is sealed to when that is known."""

    async def go_on() -> None:
        while True:
            await sender.publish("tasks.paint", b"the door", wait="sent")
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(go_on)
            assert (await anext(tasks)).body == b"the door"
            group.cancel_scope.cancel()


async def to_the_end(subscription) -> None:
    async for _ in subscription:
        pass


def public(home):
    return read_public(home.state.trust / "public")


async def test_an_agent_that_policy_gains_is_provisioned_and_connects_while_the_bus_runs(home):
    async with home.open() as hub, hub.agent("LEAD") as lead:
        await to_thread.run_sync(home.change, "CARPENTER: worker", "CARPENTER: worker, JOINER: worker")
        assert await asked(home, "reload") is True
        fleet = await provisioned(home, "JOINER")
        assert [(one.name, one.enrolled) for one in fleet.members] == [("JOINER", True)]
        async with home.connect(hub.url, agent="JOINER") as joiner, joiner.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.join", b"two boards")
            assert (await anext(tasks)).body == b"two boards"


async def test_the_policy_is_signed_by_the_hub_if_nobody_reloaded_it(home):
    async with home.open():
        await to_thread.run_sync(home.change, "CARPENTER: worker", "CARPENTER: worker, JOINER: worker")
        fleet = await provisioned(home, "JOINER", "PAINTER")
        assert {one.name for one in fleet.members if one.certificate} == {"JOINER", "PAINTER"}
        assert fleet.public.holds(SystemClock().now_ms())
        assert "JOINER" in fleet.public.bundle.policy().agents


async def test_again_it_makes_nothing_twice(home):
    async with home.open():
        await provisioned(home, "PAINTER")
        before = (await to_thread.run_sync(public, home)).statement.number
        fleet = await provisioned(home, "PAINTER")
        assert [one.enrolled for one in fleet.members] == [False]
        assert fleet.public.statement.number == before


async def test_without_a_hub_what_is_stated_is_stated_again_when_half_of_its_time_is_over(home):
    numbers = []
    for ahead_ms in (0, 1, 40 * 60_000):
        fleet = await provisioned(home, "PAINTER", ahead_ms=ahead_ms)
        numbers.append(fleet.public.statement.number)
    assert numbers[0] == numbers[1] < numbers[2]


async def test_who_joins_by_a_roster_is_in_the_hubs_policy(home):
    async with home.open() as hub:
        await provisioned(home, "GUEST", joined={"GUEST": "worker"})
        async with hub.agent("GUEST"):
            pass
        assert (await asked(home, "status"))["policy_version"] == 2


async def test_whom_policy_knows_no_more_gets_no_papers(home):
    async with home.open() as hub:
        await provisioned(home, "PAINTER", "LEAD")
        await to_thread.run_sync(home.change, "PAINTER: worker, ", "")
        await hub.reload()
        for verb, argument in (("issue_tls", {"spki": "30"}), ("vouch", {"digest": "00" * 32})):
            with pytest.raises(bus.NotPermittedError):
                await asked(home, verb, name="PAINTER", **argument)
        assert (await to_thread.run_sync(public, home)).statement.ml_dsa == {}


async def test_another_policy_than_the_hubs_is_refused_and_changes_nothing(home, tmp_path):
    other = tmp_path / "other.yaml"
    await to_thread.run_sync(other.write_text, home.policy.read_text().replace("CARPENTER", "JOINER"))
    async with home.open():
        with pytest.raises(bus.NotPermittedError) as caught:
            await provisioned(home, "JOINER", policy=other)
        assert str(home.policy) in caught.value.rule
        assert "JOINER" not in {one.name for one in (await to_thread.run_sync(public, home)).agents}


async def test_who_was_revoked_gets_no_certificate_until_somebody_lets_it_in(home):
    async with home.open():
        await provisioned(home, "PAINTER", "LEAD")
        await asked(home, "revoke", name="PAINTER", reason="compromised")
        fleet = await provisioned(home, "PAINTER", "LEAD")
        assert {one.name: one.certificate is None for one in fleet.members} == {"PAINTER": True, "LEAD": False}
        await asked(home, "let_in", uid=[0, "PAINTER"])
        fleet = await provisioned(home, "PAINTER", "LEAD")
        assert {one.name: one.enrolled for one in fleet.members} == {"PAINTER": True, "LEAD": False}


async def test_who_was_revoked_gets_none_among_others_who_may_either(home):
    async with home.open() as hub:
        await provisioned(home, "PAINTER", "LEAD")
        await asked(home, "revoke", name="PAINTER", reason="compromised")
        running = hub._open_agent.__self__
        keys = {key.name: key for key in await running.engine.keys()}
        enrolling = running.local.enrolling(running.engine, running.policy, clock=running.clock)
        with pytest.raises(AttestationError) as refused:
            async for _ in enrolling.enroll([keys["LEAD"], keys["PAINTER"]]):
                pass
        assert (refused.value.reason, refused.value.agent) == ("uid_unknown", "PAINTER")


async def test_a_hub_that_has_its_folder_and_no_desk_yet_is_waited_for(home):
    async with anyio.create_task_group() as tasks, home.open():
        fleets = []

        async def provision() -> None:
            fleets.append(await provisioned(home, "PAINTER"))

        place, away = home.state.admin_socket, home.state.admin_socket.with_suffix(".away")
        await to_thread.run_sync(place.rename, away)
        tasks.start_soon(provision)
        with anyio.fail_after(20):
            while not (home.state.vault / "keys.json").exists() and not any(home.state.vault.glob("**/*")):
                await anyio.lowlevel.checkpoint()
        await to_thread.run_sync(away.rename, place)
        with anyio.fail_after(20):
            while not fleets:
                await anyio.lowlevel.checkpoint()
        assert fleets[0].members[0].enrolled


async def test_the_list_is_changed_where_it_is_open_and_counts_at_once(home):
    async with home.open():
        said = await asked(home, "let_in", token="PAINTER", ek=[CHIP, "LEAD"], uid=[1000, "CARPENTER"])
        listed = EnrolmentList.parse(said["listed"].encode())
        assert len(bytes.fromhex(said["token"])) == 16
        assert [one.name for one in listed.tokens.values()] == ["PAINTER"]
        assert listed.chips == {"LEAD": frozenset([bytes.fromhex(CHIP)])}
        said = await asked(home, "let_in", remove="LEAD")
        assert said["token"] is None
        assert EnrolmentList.parse(said["listed"].encode()).chips == {}


@pytest.mark.parametrize(
    "change",
    [{"token": "no name"}, {"ek": ["12", "LEAD"]}, {"ek": "x"}, {"uid": [-1, "LEAD"]}, {"uid": ["me", "LEAD"]}, {"token": 7}],
    ids=str,
)
async def test_a_change_that_is_none_is_refused_and_nothing_of_it_is_done(change, home):
    async with home.open():
        before = (await asked(home, "let_in"))["listed"]
        with pytest.raises(bus.RemoteProtocolError) as caught:
            await asked(home, "let_in", **{"remove": "LEAD", **change})
        assert caught.value.reason == "malformed"
        assert (await asked(home, "let_in"))["listed"] == before


async def test_a_stolen_trust_signer_has_a_successor_at_once_and_the_bus_goes_on(home):
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        home.connect(hub.url, agent="PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        before, sessions = (await to_thread.run_sync(public, home)).statement, await certified(hub)
        said = await asked(home, "revoke", name="TRUST", reason="compromised", profile="trust")
        after = await to_thread.run_sync(public, home)
        assert said["signer"] == after.statement.signer.signer.hex() != before.signer.signer.hex()
        assert before.signer.serial in after.revocations.revoked
        assert (said["statement"], said["crl_number"]) == (after.statement.number, after.revocations.number)
        with anyio.fail_after(20):  # nobody is put off: sessions by the old statement count no more, and there are new ones at once
            while await certified(hub) == sessions:
                await anyio.lowlevel.checkpoint()
        await heard(lead, tasks)
        await asked(home, "revoke", name="PAINTER", reason="compromised")  # believed by who saw the new signer
        with anyio.fail_after(20), pytest.raises(bus.RevokedError):
            await to_the_end(tasks)


async def test_no_other_name_passes_for_the_trust_signer(home):
    async with home.open():
        with pytest.raises(bus.BusError) as caught:
            await asked(home, "revoke", name="LEAD", reason="compromised", profile="trust")
        assert caught.value.reason == "not_enrolled"

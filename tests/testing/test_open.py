"""A bus in memory is the bus: it is opened by a test in milliseconds, and leaves nothing behind."""

from __future__ import annotations

import os
import threading
from contextlib import AsyncExitStack

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import bus.testing
from bus.clock import SystemClock
from bus.errors import NotPermittedError, PolicyError, RevokedError, SessionReplacedError, TpmUnavailableError
from bus.testing import ManualClock, authority, ready_made
from bus.trust.testing_domain import DOMAIN

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
rollout: {sample_rate: 0}
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [tasks.>, control.>], subscribe: [results.>], inbox: hybrid}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [tasks.>, control.>]}
topics:
  - {match: control.>, signed_by: identity, priority: critical, cosign: ml-dsa-65}
"""


async def next_of(subscription):
    with anyio.fail_after(30):
        return await anext(subscription)


async def test_the_first_example_runs_as_it_stands_with_the_default_policy():
    async with (
        bus.testing.open() as hub,
        hub.agent("DIRECTOR") as director,
        hub.agent("MONITOR") as monitor,
        monitor.subscribe("tasks.>") as tasks,
    ):
        await director.publish("tasks.build", {"ref": "main"})
        message = await next_of(tasks)
    assert (message.sender, message.topic, message.body, message.signed_by) == (
        "DIRECTOR",
        "tasks.build",
        {"ref": "main"},
        "session",
    )


async def test_what_policy_forbids_is_refused_as_anywhere():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("PAINTER") as painter:
        with pytest.raises(NotPermittedError):
            await painter.publish("tasks.paint", {})
        with pytest.raises(NotPermittedError):
            async with hub.agent("NOBODY"):
                pass
        assert hub.policy.domain == DOMAIN


async def test_a_policy_that_is_wrong_raises_at_the_door():
    with pytest.raises(PolicyError) as caught:
        async with bus.testing.open(policy="version: 1\nagents: {LEAD: nothing}\n"):
            pass
    assert caught.value.line == 2


async def test_my_own_agents_have_roles_of_the_policy():
    async with bus.testing.open(policy=POLICY, agents={"BILLING": "worker"}) as hub, hub.agent("BILLING") as billing:
        await billing.publish("results.bill", {})


async def test_critical_messages_are_signed_by_the_identity_key_and_co_signed():
    async with (
        bus.testing.open(policy=POLICY) as hub,
        hub.agent("LEAD") as lead,
        hub.host().agent("PAINTER") as painter,
        painter.subscribe("control.>") as orders,
    ):
        await lead.publish("control.stop", {"now": True})
        assert (await next_of(orders)).signed_by == "identity"


async def test_agents_of_another_process_have_keys_and_a_link_of_their_own():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", "blue")
            assert (await next_of(tasks)).body == "blue"
        assert (await hub.statistics())["broker"]["links_open"] == 2


async def test_a_request_that_nobody_answers_in_time_fails_when_the_clock_says_so():
    clock, caught = ManualClock(), []

    async def ask(agent) -> None:
        try:
            await agent.request("tasks.paint", "blue?", timeout=30)
        except TimeoutError as error:
            caught.append(error)

    async with bus.testing.open(policy=POLICY, clock=clock) as hub, hub.agent("LEAD") as lead, hub.agent("PAINTER") as painter:
        assert hub.clock is clock
        async with painter.subscribe("tasks.>"), anyio.create_task_group() as tasks:
            tasks.start_soon(ask, lead)
            await hub.settle()
            await hub.advance(29)
            assert caught == []
            await hub.advance(2)
    assert len(caught) == 1


async def test_a_slow_tpm_is_played_by_the_clock():
    done = []

    async def order(lead) -> None:
        await lead.publish("control.stop", {})
        done.append("sent")

    async with (
        bus.testing.open(policy=POLICY) as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("control.>"),
        anyio.create_task_group() as tasks,
    ):
        hub.tpm.seconds = 1.5
        tasks.start_soon(order, lead)
        await hub.settle()
        await hub.advance(1)
        assert done == []
        await hub.advance(1)
        assert done == ["sent"]


async def test_a_tpm_that_fails_is_played_too():
    async with bus.testing.open(policy=POLICY) as hub:
        hub.tpm.fail_next(TpmUnavailableError("hung", "it does not answer"))
        with pytest.raises(TpmUnavailableError) as caught:
            async with hub.agent("LEAD"):
                pass
        assert caught.value.code == "hung"
        async with hub.agent("LEAD"):
            pass


async def test_trust_and_sessions_are_renewed_while_time_passes():
    async with (
        bus.testing.open(policy=POLICY + "trust: {max_age: 10m}\n") as hub,
        hub.agent("LEAD") as lead,
        hub.host().agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        for quarter in range(2):
            await hub.advance(900)
            await lead.publish("tasks.paint", quarter)
            assert (await next_of(tasks)).body == quarter
        async with hub.host().agent("CARPENTER"):  # it believes the broker's papers of now
            pass


async def test_an_agent_that_is_revoked_is_cut_off_at_once():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks:
            hub.revoke("PAINTER")
            with pytest.raises(RevokedError):
                await next_of(tasks)
        await lead.publish("tasks.paint", "still here")


async def test_another_policy_ends_what_it_does_not_allow():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks:
            await hub.change_policy(POLICY.replace("subscribe: [tasks.>, control.>]", "subscribe: [control.>]"))
            with pytest.raises(NotPermittedError):
                await next_of(tasks)
        with pytest.raises(PolicyError):
            await hub.change_policy("version: 2\n")
        await lead.publish("tasks.paint", "still here")


async def test_a_link_that_is_lost_is_dialled_again():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead:
        host = hub.host()
        async with host.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            host.disconnect()
            await hub.settle()
            await hub.advance(1)
            await lead.publish("tasks.paint", "again")
            assert (await next_of(tasks)).body == "again"


async def test_agents_are_left_in_any_order():
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(bus.testing.open(policy=POLICY))
        first, second = hub.agent("LEAD"), hub.agent("PAINTER")
        lead, painter = await first.__aenter__(), await second.__aenter__()
        await lead.publish("tasks.paint", 1)
        await first.__aexit__(None, None, None)
        await painter.publish("results.paint", 1)
        await second.__aexit__(None, None, None)


async def test_two_of_them_do_not_know_each_other():
    async with bus.testing.open(policy=POLICY) as one, bus.testing.open(policy=POLICY) as other:
        assert one.url != other.url
        async with one.agent("LEAD") as lead, other.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", 1)
            await one.settle()
            with pytest.raises(TimeoutError), anyio.fail_after(0):
                await anext(tasks)


async def test_it_needs_no_disk_no_thread_and_no_child(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr(threading.Thread, "start", None)
    monkeypatch.setattr(os, "fork", None)
    async with (
        bus.testing.open(policy=POLICY) as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await lead.publish("tasks.paint", 1)
        await next_of(tasks)
    assert not list(tmp_path.iterdir())


async def test_it_waits_for_no_key_and_for_no_signature_of_the_root(monkeypatch):
    """What takes longest has been done before; tests/benchmarks/unit_tests.py has the milliseconds."""
    slow = []
    monkeypatch.setattr(ready_made, "_signed", Noted(ready_made._signed, slow))
    monkeypatch.setattr(rsa, "generate_private_key", None)
    for cache in (authority._root, authority._certificate, ready_made.root_signs):
        cache.cache_clear()
    async with bus.testing.open() as hub, hub.agent("DIRECTOR"), hub.agent("MONITOR"):
        assert len(slow) <= 1, "policies were changed: run scripts/ready_made_signatures.py"


class Noted(dict):
    """Signatures by what was signed, which notes what is not in there."""

    def __init__(self, signed, missing) -> None:
        super().__init__(signed)
        self.missing = missing

    def get(self, tag):
        if tag not in self:
            self.missing.append(tag)
        return super().get(tag)


async def test_who_opens_again_elsewhere_takes_over():
    async with (
        bus.testing.open(policy=POLICY) as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
        hub.host().agent("PAINTER") as successor,
    ):
        with pytest.raises(SessionReplacedError):
            await next_of(tasks)
        async with successor.subscribe("tasks.>") as again:
            await lead.publish("tasks.paint", "blue")
            assert (await next_of(again)).body == "blue"


async def test_what_fails_in_another_process_ends_its_agents_alone():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead:
        elsewhere = hub.host()
        async with elsewhere.agent("PAINTER") as painter:
            elsewhere._made.fail(RevokedError("PAINTER"))
            await hub.settle()
            with pytest.raises(RevokedError):
                await painter.publish("results.paint", 1)
        await lead.publish("tasks.paint", "still here")


async def test_the_files_of_its_policy_are_read_again_when_it_is_told_to(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    async with bus.testing.open(policy=tmp_path, agents={"BILLING": "worker"}) as hub, hub.agent("LEAD") as lead:
        assert not await hub.reload()
        file.write_text(POLICY.replace("publish: [tasks.>, control.>]", "publish: [control.>]"))
        assert await hub.reload()
        await hub.settle()
        with pytest.raises(NotPermittedError):
            await lead.publish("tasks.paint", 1)
        assert hub.policy.role_of("BILLING").name == "worker"
        file.write_text("version: 3\n")
        with pytest.raises(PolicyError):
            await hub.reload()
        async with hub.agent("BILLING"):
            pass


@pytest.mark.parametrize("raises", [False, True], ids=["in peace", "in anger"])
@pytest.mark.parametrize("unfinished", ["handler", "signature", "link", "reader"])
async def test_a_test_is_left_with_work_unfinished_though_nobody_turns_its_clock(unfinished, raises):
    handlers = bus.Handlers()

    @handlers.on("tasks.>")
    async def paint(_):
        await anyio.sleep_forever()

    async def test() -> None:
        hub = await stack.enter_async_context(bus.testing.open(policy=POLICY, clock=ManualClock(patience_seconds=0.05)))
        painter = await stack.enter_async_context(hub.host().agent("PAINTER"))
        await stack.enter_async_context(painter.subscribe("control.>", limit=1))
        elsewhere = hub.host()
        lead = await stack.enter_async_context(elsewhere.agent("LEAD"))
        if unfinished == "handler":
            await stack.enter_async_context(painter.serving(handlers))
            await lead.publish("tasks.paint", 1)
        elif unfinished == "reader":
            for number in range(5):
                await lead.publish("control.stop", number)
        else:
            await lead.publish("control.stop", 1)
            hub.tpm.seconds = 1.0
            await lead.publish_soon("control.stop", 2)
        await hub.settle()
        if unfinished == "link":
            elsewhere.disconnect()
        if raises:
            raise LookupError

    try:
        async with AsyncExitStack() as stack:
            await test()
    except LookupError:
        assert raises


async def test_a_clock_that_nobody_turns_cannot_be_turned():
    async with bus.testing.open(policy=POLICY, clock=SystemClock()) as hub, hub.agent("LEAD"):
        with pytest.raises(TypeError):
            await hub.advance(1)

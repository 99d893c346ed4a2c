"""The broker in a process of its own: it holds what it needs and nothing else, dies alone, and comes back to whoever was there."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from homes import POLICY, Home

from bus.errors import ConnectError, RevokedError, VaultError
from bus.hub import admin, broker_apart
from bus.hub.admin import Desk
from bus.hub.broker_apart import BrokerApart
from bus.hub.open import supervise
from bus.hub.petitioning import Petitioning

pytestmark = pytest.mark.anyio


def broker_of(home: Home) -> int:
    """The process that serves at the broker's desk, as the kernel says."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(home.state.broker_desk))
        return struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def status_of(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def supervised(home: Home, **options):
    return supervise(policy=home.policy, state=home.folder, tpm="software", **options)


async def test_agents_talk_through_a_broker_that_is_another_process(home):
    async with supervised(home) as hub, hub.agent("LEAD") as lead, hub.agent("PAINTER") as painter:
        assert broker_of(home) != os.getpid()
        async with painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", {"colour": "red"})
            assert (await anext(tasks)).body == {"colour": "red"}
        told = await admin.ask(home.state.admin_socket, "agents")
        assert {row["agent"] for row in told if row["live"]} == {"LEAD", "PAINTER"}


async def test_a_broker_that_is_killed_costs_no_tpm_operation_and_no_grant(home):
    await to_thread.run_sync(home.policy.write_text, POLICY + "rollout: {sample_rate: 0}\n")  # or one in a hundred is audited
    async with supervised(home) as hub, hub.agent("LEAD") as lead, hub.agent("PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", 1)
            assert (await anext(tasks)).body == 1
            before = await hub.statistics()
            killed = broker_of(home)
            os.kill(killed, signal.SIGKILL)
            with anyio.fail_after(30):
                await lead.publish("tasks.paint", 2)
                message = await anext(tasks)
            assert (message.body, message.missed) == (2, 0)
            after = await hub.statistics()
            assert broker_of(home) != killed
            assert after["broker"]["starts"] == 2
            assert after["tpm"]["signatures"] == before["tpm"]["signatures"]
            assert after["host"]["keyring"]["epochs"] == before["host"]["keyring"]["epochs"]
            assert after["host"]["keyring"]["grants_given"]["made"] == before["host"]["keyring"]["grants_given"]["made"]


async def test_a_revocation_reaches_the_broker_at_once(home):
    async with supervised(home) as hub, hub.agent("LEAD"), hub.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
        await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="compromised")
        with anyio.fail_after(20), pytest.raises(RevokedError):
            await anext(tasks)


async def test_what_the_broker_could_not_take_in_it_takes_in_when_it_can(home):
    """Its disk did not let it remember a revocation; nobody tells it twice."""
    memory = home.state.broker / "memory.json"

    def seen() -> int:
        return json.loads(memory.read_text())["highest"]["number"]

    async with supervised(home) as hub, hub.agent("PAINTER"):
        whole, before = memory.read_bytes(), seen()
        memory.write_bytes(b"half")
        await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="compromised")
        with pytest.raises(VaultError):
            await admin.ask(home.state.broker_desk, "follow")
        memory.write_bytes(whole)
        with anyio.fail_after(20):
            while seen() == before:  # noqa: ASYNC110  another process writes the file, and tells nobody
                await anyio.sleep(0.05)
            while f"trust statement {seen()}" not in (home.folder / "broker.log").read_text():  # noqa: ASYNC110  as above
                await anyio.sleep(0.05)


async def test_what_an_address_cannot_be_is_said_by_who_opened(home, tmp_path):
    (tmp_path / "taken").write_text("a file, no socket")
    with pytest.raises(ConnectError):
        async with supervised(home, listen=[f"unix://{tmp_path}/taken"]):
            pass


async def test_an_address_that_somebody_has_already_is_named(home):
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(ConnectError, match=f"tls://127.0.0.1:{port}: somebody listens there already"):
            async with supervised(home, listen=[f"tls://127.0.0.1:{port}"]):
                pass


async def test_it_ends_with_its_supervisor(home):
    async with supervised(home):
        running = broker_of(home)
    with pytest.raises(ProcessLookupError):
        os.kill(running, 0)


async def test_one_that_does_not_end_is_killed(home, monkeypatch):
    monkeypatch.setattr(broker_apart, "STOP_SECONDS", 0.1)
    with anyio.fail_after(60), suppress(ZeroDivisionError):  # in a hurry
        async with supervised(home):
            os.kill(running := broker_of(home), signal.SIGSTOP)
            raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(running, 0)


async def test_the_broker_itself_is_contained(home):
    async with supervised(home):
        status = status_of(broker_of(home))
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")


NO_PETITIONS = [None, 7, "x", {"a": 1}, [1], [1, 2], [1, "zz"], ["one", "00"], [float("inf"), "00"], [1.5, "00"], [1, "00", 2]]


async def test_what_a_broker_passes_on_is_believed_nothing_not_even_its_form(home):
    """Who got into that process must not end this one, which has the authority."""
    said, enough = iter(NO_PETITIONS), anyio.Event()

    async def petitions():
        try:
            yield next(said)
        except StopIteration:
            enough.set()

    desk = Desk()
    desk.register("petitions", petitions)
    async with home.open() as hub, anyio.create_task_group() as tasks:
        running = hub._open_agent.__self__
        await to_thread.run_sync(home.state.broker_desk.parent.mkdir, 0o700, True, True)
        await tasks.start(desk.serve, home.state.broker_desk)
        apart = BrokerApart(home.state, running.clock, renew=anyio.lowlevel.checkpoint)
        petitioning = Petitioning(running.authority, running.local, running.in_force, running.clock)
        tasks.start_soon(apart.pass_on, petitioning)
        with anyio.fail_after(60):
            await enough.wait()
        tasks.cancel_scope.cancel()

"""An agent on a bus that runs elsewhere: that is waited for, papers are made where they can be, and a refusal is said at once."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys

import anyio
import pytest
from anyio import to_thread

import bus
from bus.errors import ConnectError
from bus.transport.listening_links import listening

pytestmark = pytest.mark.anyio

WORKER = """
import sys, anyio, bus
async def main(url, state):
    async with bus.connect(url, agent="PAINTER", state=state) as painter, painter.subscribe("tasks.>") as tasks:
        print("ready", end="", flush=True)
        async for task in tasks:
            await painter.publish("results.painted", task.body)
            if task.body == "the end":
                break
anyio.run(main, *sys.argv[1:])
"""


async def test_an_agent_that_was_never_opened_gets_its_papers_from_the_hub_that_runs(home):
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        home.connect(hub.url, agent="PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
        lead.subscribe("results.>") as results,
    ):
        await lead.publish("tasks.paint", b"the door")
        message = await anext(tasks)
        await painter.publish("results.painted", message.body)
        assert (await anext(results)).sender == "PAINTER"


async def test_where_policy_has_a_role_for_whoever_comes_a_name_joins_from_elsewhere_too(home):
    await to_thread.run_sync(home.change, "CARPENTER: worker}", "'*': worker}")
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        home.connect(hub.url, agent="ANYBODY") as anybody,
        anybody.subscribe("tasks.>") as tasks,
    ):
        await lead.publish("tasks.sit", b"down")
        assert (await anext(tasks)).body == b"down"


async def test_a_process_of_its_own(home):
    async with home.open() as hub, hub.agent("LEAD") as lead, lead.subscribe("results.>") as results:
        command = [sys.executable, "-c", WORKER, hub.url, str(home.folder)]
        async with await anyio.open_process(command, stderr=None) as worker:
            assert worker.stdout is not None
            with anyio.fail_after(30):
                assert await worker.stdout.receive() == b"ready"
                for what in ("the door", "the wall", "the end"):
                    await lead.publish("tasks.paint", what)
                    assert (await anext(results)).body == what
                assert await worker.wait() == 0


async def test_a_hub_that_is_not_there_yet_is_waited_for(home):
    reached = anyio.Event()

    async def work() -> None:
        async with home.connect(f"unix://{home.state.bus_socket}", agent="PAINTER") as painter:
            await painter.publish("results.x", b"")
            reached.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        async with home.open():
            with anyio.fail_after(20):
                await reached.wait()


async def test_one_that_does_not_come_is_given_up(home):
    with pytest.raises(ConnectError):
        async with home.connect(f"unix://{home.state.bus_socket}", agent="PAINTER", wait=0.05):
            pass


@pytest.mark.parametrize("url", ["unix:relative.sock", "tcp://localhost:1", "tls://localhost", ""])
async def test_what_is_no_address_is_not_waited_for(home, url):
    with pytest.raises(ConnectError):
        async with home.connect(url, agent="PAINTER", wait=1_000):
            pass


@pytest.fixture
def stranger(tmp_path):
    """Where somebody listens whose certificate another root has signed."""
    new_key = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "key", "-out", "pem", "-days", "2"]
    names = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*new_key, *names], cwd=tmp_path, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", "pem", "-key", "key", "-quiet"]
    with subprocess.Popen(serve, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        yield f"tls://127.0.0.1:{port}"
        one.kill()


async def test_who_shows_a_certificate_of_somebody_else_is_not_waited_for(home, stranger):
    async with home.open():
        with anyio.fail_after(60), pytest.raises(ConnectError) as refused:
            async with home.connect(stranger, agent="PAINTER", wait=1_000):
                pass
        assert isinstance(refused.value.__cause__, ssl.SSLError)


async def test_a_name_that_policy_does_not_know_is_refused_at_once(home):
    async with home.open() as hub:
        with pytest.raises(bus.NotPermittedError) as caught:
            async with home.connect(hub.url, agent="BILLING", wait=1_000):
                pass
    assert caught.value.agent == "BILLING"


async def test_without_a_hub_in_this_folder_nobody_makes_papers(home):
    """What listens is somebody else's: it could not certify the keys of this folder."""
    async with listening("memory:elsewhere", lambda link: link.close()):
        with pytest.raises(bus.VaultError) as caught:
            async with home.connect("memory:elsewhere", agent="PAINTER", wait=1_000):
                pass
    assert caught.value.code == "missing"
    assert "tpmbus provision PAINTER" in str(caught.value)


async def test_an_empty_folder_has_nothing_to_connect_with(nothing):
    async with listening("memory:somewhere", lambda link: link.close()):
        with pytest.raises(bus.VaultError) as caught:
            async with nothing.connect("memory:somewhere", agent="PAINTER"):
                pass
    assert caught.value.code == "missing"


async def test_when_the_hub_goes_for_good_the_body_ends_with_that(home):
    async with anyio.create_task_group() as tasks:
        connected, ended = anyio.Event(), anyio.Event()
        url = f"unix://{home.state.bus_socket}"

        async def listen() -> None:
            async with home.connect(url, agent="PAINTER", give_up=0.2) as painter, painter.subscribe("tasks.>") as found:
                connected.set()
                await anext(found)

        async def work() -> None:
            with pytest.raises(bus.ConnectionLostError):
                await listen()
            ended.set()

        tasks.start_soon(work)
        async with home.open():
            with anyio.fail_after(20):
                await connected.wait()
        with anyio.fail_after(20):
            await ended.wait()

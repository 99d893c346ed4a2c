"""The TPM service as the library starts it: once per state folder, by whoever comes first, with its own errors."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from bus.errors import NotPermittedError, PolicyError, StateInUseError, TpmError, TpmRefusedError, TpmUnavailableError
from bus.hub.state import State, holder_of, open_state
from bus.hub.tpm_process import open_engine, stop_service
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing.tpm_check import check_proof

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SUITE = IDENTITY_SUITES["ecc256/sha256"]
CONTENT = hashlib.sha256(b"content").digest()


@pytest.fixture
def state(tmp_path, runtime, swtpm_folder, monkeypatch):
    """A state folder whose software TPM is made already."""
    monkeypatch.delenv("TPMBUS_TPM", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    swtpm_folder.rename(folder / "swtpm")
    opened = open_state(folder)
    yield opened
    anyio.run(stop_service, opened)


async def holder(state: State):
    return await anyio.to_thread.run_sync(holder_of, state.tpm_lock)


async def test_the_first_one_starts_it_and_the_next_one_finds_it(state: State):
    async with open_engine(state) as engine:
        key = await engine.create("FIRST", SUITE)
        [proof] = await engine.sign_many("FIRST", Purpose.ENVELOPE, [CONTENT])
        check_proof(proof, key, Purpose.ENVELOPE, CONTENT)
    first = await holder(state)
    async with open_engine(state) as engine:
        assert [info.id for info in await engine.keys()] == ["FIRST.1"]
    assert await holder(state) == first


async def test_what_it_writes_is_ours_and_it_tells_nobody_that_it_is_ready_in_our_name(state: State, runtime: Path, monkeypatch):
    """Whoever starts us waits for our own word."""
    before = os.umask(0)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(runtime / "notify"))
            systemd.setblocking(False)
            monkeypatch.setenv("NOTIFY_SOCKET", str(runtime / "notify"))
            async with open_engine(state):
                assert os.getsid((await holder(state))["pid"]) != os.getsid(0)
            with pytest.raises(BlockingIOError):
                systemd.recv(100)
    finally:
        os.umask(before)
    assert stat.S_IMODE((state.folder / "tpm-service.log").stat().st_mode) == 0o600


async def test_many_processes_at_once_share_one_service_and_make_no_key_twice(state: State):
    script = (
        "import anyio, sys; from pathlib import Path; from bus.hub.state import open_state;"
        "from bus.hub.tpm_process import open_engine; from bus.protocol.suites import IDENTITY_SUITES as S\n"
        "async def main():\n"
        "    async with open_engine(open_state(Path(sys.argv[1]))) as engine:\n"
        "        for number in range(8): await engine.create(f'KEY{number}', S['ecc256/sha256'])\n"
        "anyio.run(main)"
    )
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(anyio.run_process, [sys.executable, "-c", script, str(state.folder)])
    async with open_engine(state) as engine:
        assert sorted(info.id for info in await engine.keys()) == [f"KEY{number}.1" for number in range(8)]
        assert (await engine.statistics()).operations["create"] == 32


async def test_a_service_that_is_killed_under_load_is_started_again_and_every_caller_gets_its_proof(state: State):
    proofs = []

    async def caller(number: int) -> None:
        content = hashlib.sha256(bytes([number])).digest()
        for _ in range(10):
            [proof] = await engine.sign_many("KILLED", Purpose.ENVELOPE, [content])
            proofs.append((proof, content))

    async with open_engine(state) as engine:
        key = await engine.create("KILLED", SUITE)
        first = (await holder(state))["pid"]
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(caller, number)
            while len(proofs) < 100:
                await anyio.lowlevel.checkpoint()
            os.kill(first, signal.SIGKILL)
        assert (await holder(state))["pid"] != first
    assert len(proofs) == 500
    for proof, content in proofs:
        check_proof(proof, key, Purpose.ENVELOPE, content)


async def test_stopping_it_ends_the_process_and_its_software_tpm(state: State):
    async with open_engine(state):
        process = os.pidfd_open((await holder(state))["pid"])
    assert await stop_service(state)
    assert await holder(state) is None
    assert not await stop_service(state)
    with anyio.fail_after(20):
        await anyio.wait_readable(process)  # it has ended
    os.close(process)
    assert not (state.runtime / "swtpm.sock").exists() or not _anyone_listens(state.runtime / "swtpm.sock")


async def test_what_keeps_it_from_starting_is_raised_as_what_it_is(state: State, tmp_path: Path):
    with pytest.raises(TpmUnavailableError) as unavailable:
        async with open_engine(state, tpm="swtpm:path=/nowhere/at/all"):
            pass
    assert unavailable.value.code == "no_tpm"
    (tmp_path / "policy.yaml").write_text("version: 1\nrols: {}\n")
    with pytest.raises((PolicyError, TpmError)) as wrong:
        async with open_engine(state, policy=str(tmp_path / "policy.yaml")):
            pass
    assert "rols" in str(wrong.value)


async def test_a_foreign_primary_key_is_refused_through_the_service_and_another_handle_helps(state: State, tmp_path: Path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nagents: {ONE: any}\nroles: {any: {key: ecc256/sha256}}\n")
    async with open_engine(state, policy=str(policy)):
        pass
    await stop_service(state)
    await anyio.to_thread.run_sync(_replace_primary, state)
    with pytest.raises(TpmRefusedError) as refused:
        async with open_engine(state, policy=str(policy)):
            pass
    assert refused.value.code == "foreign_primary"
    policy.write_text(policy.read_text() + "tpm: {handle: 0x81000002}\n")
    async with open_engine(state, policy=str(policy)) as engine:
        assert (await engine.facts()).primary_handle == 0x81000002


async def test_naming_another_tpm_than_the_one_in_use_is_refused(state: State):
    async with open_engine(state):
        with pytest.raises(StateInUseError) as refused:
            async with open_engine(state, tpm="software"):
                pass
        assert refused.value.pid == (await holder(state))["pid"]
        async with open_engine(state, tpm="swtpm*1") as same:
            assert list((await same.statistics()).tpms) == ["swtpm"]


async def test_what_names_no_tpm_is_refused_before_anything_starts(state: State):
    with pytest.raises(TpmRefusedError) as refused:
        async with open_engine(state, tpm="swtpm*0"):
            pass
    assert refused.value.code == "tpm_spelling"
    assert await holder(state) is None


async def test_a_service_under_another_policy_is_replaced_and_a_running_engine_goes_on(state: State, tmp_path: Path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("version: 1\nagents: {ONE: any}\nroles: {any: {key: ecc256/sha256}}\n")
    two.write_text("version: 1\nagents: {ONE: any}\nroles: {any: {key: ecc256/sha256, key_origin: hardware}}\n")
    async with open_engine(state, policy=str(one)) as lenient:
        await lenient.create("ONE", SUITE)
        first = (await holder(state))["pid"]
        async with open_engine(state, policy=str(one)):
            assert (await holder(state))["pid"] == first
        async with open_engine(state, policy=str(two)) as strict:
            assert (await holder(state))["pid"] != first
            for engine in (strict, lenient):
                with pytest.raises(NotPermittedError):
                    await engine.sign_many("ONE", Purpose.ENVELOPE, [CONTENT])


async def test_a_service_that_was_started_by_hand_is_not_replaced(state: State, tmp_path: Path):
    (tmp_path / "other.yaml").write_text("version: 1\nagents: {ONE: any}\nroles: {any: {key: ecc256/sha256}}\n")
    command = [sys.executable, "-m", "bus.cli.main", "tpm", "serve", "--state", str(state.folder), "--ready-fd", "1"]
    async with await anyio.open_process(command, stderr=None) as process:
        assert await process.stdout.receive() == b"ready\n"
        with pytest.raises(StateInUseError) as refused:
            async with open_engine(state, policy=str(tmp_path / "other.yaml")):
                pass
        assert refused.value.pid == process.pid
        async with open_engine(state) as engine:
            assert await engine.keys() == []
        await stop_service(state)


async def test_another_runtime_folder_leads_to_the_same_service(state: State, tmp_path: Path, monkeypatch):
    async with open_engine(state):
        first = await holder(state)
    elsewhere = tmp_path / "r"
    elsewhere.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(elsewhere))
    again = await anyio.to_thread.run_sync(open_state, state.folder)
    assert again.runtime != state.runtime
    async with open_engine(again):
        assert await holder(state) == first


def _replace_primary(state: State) -> None:
    """Put an RSA key where ours was, with the real tools."""
    from bus.tpm.swtpm import Swtpm

    swtpm = Swtpm(state.swtpm, socket_path=state.swtpm_socket)
    swtpm.start()
    try:
        environment = os.environ | {"TPM2TOOLS_TCTI": swtpm.tcti}
        context = str(state.runtime / "primary.ctx")
        for command in (
            ["tpm2_evictcontrol", "-C", "o", "-c", "0x81000001"],
            ["tpm2_createprimary", "-C", "o", "-G", "rsa2048", "-c", context],
            ["tpm2_evictcontrol", "-C", "o", "-c", context, "0x81000001"],
            ["tpm2_flushcontext", "-t"],
        ):
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=30)
    finally:
        swtpm.stop()


def _anyone_listens(path: Path) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0

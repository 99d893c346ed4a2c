"""The engine from another process: same values and errors, whatever is cancelled, closed or killed meanwhile."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from bus import errors
from bus.protocol.contexts import Purpose
from bus.testing.tpm_check import check_proof, check_tpm, contents_for
from bus.tpm import pipeline
from bus.tpm.engine import Engine
from bus.tpm.faults import error_from, fault_of
from bus.tpm.interface import HARDWARE, SOFTWARE, Priority
from bus.tpm.lines import LineReader
from bus.tpm.permissions import Permissions
from bus.tpm.remote import RemoteEngine
from bus.tpm.service import TpmService
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault
from bus.transport import unix

sys.path.insert(0, str(Path(__file__).parent))

from served import CONTENT, IS_ROOT, STRANGER, SUITE, process, serving, the_key, until

from bus.policy import Policy
from bus.testing.fake_tpm import FakeTpm

pytestmark = pytest.mark.anyio


async def test_the_remote_engine_passes_the_check_of_every_engine(runtime):
    @asynccontextmanager
    async def make() -> AsyncIterator[RemoteEngine]:
        async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
            yield engine

    await check_tpm(make)


async def test_the_keystore_beside_a_tpm_seals_what_must_open_without_it_here_and_over_the_service(runtime):
    keystore = SoftwareTpm(bytes(32))
    async with serving(runtime, software=keystore) as served, await RemoteEngine.connect(served.path) as remote:
        for engine in (served.engine, remote):
            blob = await engine.seal(b"secret", origin=SOFTWARE)
            assert keystore.unseal(blob) == await engine.unseal(blob, origin=SOFTWARE) == b"secret"
            with pytest.raises(errors.TpmRefusedError):
                await engine.unseal(blob)
            with pytest.raises(errors.TpmRefusedError) as caught:
                await engine.seal(b"secret", origin=HARDWARE)
            assert caught.value.code == "wrong_origin"


async def test_more_contents_than_one_request_holds_come_back_in_order(runtime):
    async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
        key, contents = await the_key(engine), contents_for(SUITE, 5_000)
        proofs = await engine.sign_many("MONITOR", Purpose.AUDIT, contents, signer=bytes(range(32)), priority=Priority.CRITICAL)
        assert len(proofs) == 5_000
        for found, content in list(zip(proofs, contents, strict=True))[::97]:
            check_proof(found, key, Purpose.AUDIT, content)
            assert found.signer == bytes(range(32))


@pytest.mark.parametrize(
    "error",
    [
        errors.TpmUnavailableError("no_tpm", "gone"),
        errors.TpmUnavailableError("tpm_memory", "full", rc=0x902),
        errors.TpmRefusedError("unknown_key", "none"),
        errors.TpmRefusedError("lockout", "locked", rc=0x921),
        errors.VaultError("damaged", "cut short", path="/x/MONITOR.1.pem"),
        errors.NotPermittedError("uid 7", "sign", "no rule"),
        errors.OverloadedError("the TPM's queue", pending=5, limit=4),
        errors.ClosedError("closed"),
        ValueError("0 contents"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_error_is_the_same_at_the_other_end(error):
    fault = fault_of(error)
    assert fault is not None
    arrived = error_from(json.loads(json.dumps(fault.document(brief=False))))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)
    assert type(error_from(fault.document(brief=True))) is type(error)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"code": "x"},
        {"code": 1, "kind": "refused", "message": ""},
        {"code": "x", "kind": "another", "message": ""},
        {"code": "x", "kind": "refused", "message": "", "details": {"rc": "1"}},
        {"code": "x", "kind": "refused", "message": "", "details": 3},
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_error_that_is_none_is_malformed(document):
    with pytest.raises(errors.RemoteProtocolError) as caught:
        error_from(document)
    assert caught.value.reason == "malformed"


# ---- cancellation ----------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_calls_late_answer_is_dropped_and_the_next_call_gets_its_own(runtime, gate):
    async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
        key = await the_key(engine)
        served.tpm.faults.append(gate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.sign_many, "MONITOR", Purpose.ENVELOPE, contents_for(SUITE, 3))
            await gate.reached()
            tasks.cancel_scope.cancel()
        assert not engine._pipeline._pending  # forgotten at once, and not asked again of another service
        gate.open()
        for number in range(20):
            content = contents_for(SUITE, 1, seed=str(number))[0]
            check_proof((await engine.sign_many("MONITOR", Purpose.SESSION, [content]))[0], key, Purpose.SESSION, content)


async def test_a_request_that_is_cancelled_while_half_of_it_is_sent_does_not_break_the_connection(runtime, gate):
    """The service has stopped reading, so requests pile up and some are cut by the kernel in the middle of a line."""
    async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
        key, contents = await the_key(engine), contents_for(SUITE, 1_000)
        served.tpm.faults.append(gate)
        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(engine.sign_many, "MONITOR", Purpose.ENVELOPE, contents)
            await gate.reached()
            await until(lambda: engine._pipeline._backlog)
            tasks.cancel_scope.cancel()
        gate.open()
        check_proof((await engine.sign_many("MONITOR", Purpose.SESSION, CONTENT))[0], key, Purpose.SESSION, CONTENT[0])


async def test_thousands_of_signatures_with_random_cancellation_lose_nothing(runtime):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    signed = cancelled = 0
    async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
        keys = {f"AGENT{number}": await engine.create(f"AGENT{number}", SUITE) for number in range(8)}

        async def caller(number: int) -> None:
            nonlocal signed, cancelled
            for turn in range(50):
                name = dice.choice(list(keys))
                contents = contents_for(SUITE, dice.randint(1, 3), seed=f"{number} {turn}")
                with anyio.move_on_after(0 if dice.random() < 0.2 else 60) as scope:
                    proofs = await engine.sign_many(name, Purpose.ENVELOPE, contents)
                if scope.cancelled_caught:
                    cancelled += 1
                    continue
                for found, content in zip(proofs, contents, strict=True):
                    check_proof(found, keys[name], Purpose.ENVELOPE, content)
                signed += 1

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(caller, number)
        assert signed + cancelled == 2_000
        assert cancelled
        assert not engine._pipeline._pending
        await until(lambda: not served.engine._worker.waiting)


# ---- closing ---------------------------------------------------------------------------------------------------------------------


async def test_what_the_body_raises_comes_out_as_it_is(runtime):
    async with serving(runtime) as served:
        engine = await RemoteEngine.connect(served.path)
        with pytest.raises(KeyError):
            async with engine:
                raise KeyError("the body's own")
        with pytest.raises(errors.ClosedError):
            await engine.keys()


async def test_closing_tells_those_who_wait_and_the_body_goes_on(runtime, gate):
    went_on = False
    async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
        served.tpm.faults.append(gate)
        told: list[Exception] = []

        async def wait() -> None:
            try:
                await engine.sign_many("MONITOR", Purpose.ENVELOPE, CONTENT)
            except errors.ClosedError as error:
                told.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await gate.reached()
            await engine.aclose()
        assert len(told) == 1
        gate.open()
        await anyio.lowlevel.checkpoint()
        went_on = True
    assert went_on


async def test_cancelling_the_body_closes_the_connection(runtime):
    async with serving(runtime) as served:
        async with anyio.create_task_group() as tasks:

            async def use(*, task_status) -> None:
                async with await RemoteEngine.connect(served.path) as engine:
                    await engine.ping()
                    task_status.started()
                    await anyio.sleep_forever()

            await tasks.start(use)
            assert served.service.connected == 1
            tasks.cancel_scope.cancel()
        await until(lambda: not served.service.connected)


# ---- a service that ends, and one that is none -----------------------------------------------------------------------------------


async def test_without_a_service_connecting_says_so(runtime):
    with pytest.raises(errors.ConnectError):
        await RemoteEngine.connect(runtime / "nothing.sock")


class Restartable:
    """A service that can be ended and started again over one engine, each time in a task of its own."""

    def __init__(self, chip: Engine, path: Path, tasks: anyio.abc.TaskGroup) -> None:
        self._chip, self.path, self._tasks = chip, path, tasks
        self._service: TpmService | None = None
        self._ended = anyio.Event()

    async def start(self) -> None:
        await self._tasks.start(self._run)

    async def stop(self) -> None:
        assert self._service is not None
        self._service.stop()
        await self._ended.wait()

    async def _run(self, *, task_status) -> None:
        self._ended = anyio.Event()
        async with unix.listening(self.path) as listener:
            self._service = TpmService(self._chip, listener, Permissions(os.getuid(), Policy()))
            await self._service.run(task_status=task_status)
        self._ended.set()


@asynccontextmanager
async def restartable(runtime: Path) -> AsyncIterator[Restartable]:
    async with Engine(FakeTpm, MemoryVault()) as chip, anyio.create_task_group() as tasks:
        service = Restartable(chip, runtime / "s" / "tpm.sock", tasks)
        await service.start()
        yield service
        tasks.cancel_scope.cancel()


async def test_calls_go_on_when_the_service_was_restarted(runtime):
    async with restartable(runtime) as service, await RemoteEngine.connect(service.path) as engine:
        key = await engine.create("MONITOR", SUITE)
        await service.stop()
        found: list[Any] = []
        async with anyio.create_task_group() as tasks:

            async def sign() -> None:  # asked while there is no service: it waits for the next one
                found.extend(await engine.sign_many("MONITOR", Purpose.SESSION, CONTENT))

            tasks.start_soon(sign)
            await until(lambda: engine._pipeline._pending)
            await service.start()
        check_proof(found[0], key, Purpose.SESSION, CONTENT[0])


async def test_when_no_service_comes_back_calls_fail_and_may_be_tried_again(runtime):
    async with restartable(runtime) as service, await RemoteEngine.connect(service.path, wait_seconds=0.5) as engine:
        await engine.ping()
        await service.stop()
        for _ in range(2):
            with pytest.raises(errors.TpmUnavailableError) as caught:
                await engine.keys()
            assert caught.value.code == "no_service"
        await service.start()
        assert await engine.keys() == []


@asynccontextmanager
async def scripted(path: Path, *turns: Callable[[Any, dict[str, Any]], bytes | None]) -> AsyncIterator[list[dict[str, Any]]]:
    """A service that follows a script: of each connection it reads one request, and a function says what to answer."""
    heard: list[dict[str, Any]] = []

    async def play(listener: unix.UnixListener) -> None:
        for turn in turns:
            stream = await listener.accept()
            reader = LineReader(stream, max_bytes=1_000_000, deadline_seconds=10)
            line = await reader.receive()
            assert line is not None
            heard.append(json.loads(line))
            answer = turn(stream, heard[-1])
            if answer is not None:
                await stream.send(answer)
            stream.close()

    async with unix.listening(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(play, listener)
        yield heard
        tasks.cancel_scope.cancel()


def hang_up(_stream: unix.UnixStream, _request: dict[str, Any]) -> None:
    return None


def pong(_stream: unix.UnixStream, request: dict[str, Any]) -> bytes:
    return json.dumps({"id": request["id"], "version": 1}).encode() + b"\n"


async def test_what_was_not_answered_is_asked_once_more_of_the_next_service(runtime):
    path = runtime / "s" / "x.sock"
    async with scripted(path, hang_up, pong) as heard, await RemoteEngine.connect(path) as engine:
        await engine.ping()
        assert [request["command"] for request in heard] == ["ping", "ping"]


async def test_what_kills_two_services_is_not_asked_of_a_third(runtime, monkeypatch):
    monkeypatch.setattr(pipeline, "_MOST_TIMES", 1)  # here all services are one process
    path = runtime / "s" / "x.sock"
    async with scripted(path, hang_up, hang_up, pong) as heard, await RemoteEngine.connect(path) as engine:
        with pytest.raises(errors.TpmUnavailableError) as caught:
            await engine.ping()
        assert caught.value.code == "no_service"
        assert len(heard) == 2
        await engine.ping()


async def test_a_process_that_hangs_up_is_asked_again_and_not_for_ever(runtime):
    """One that was killed still takes connections, and requests, until the kernel has closed all that it had."""
    path = runtime / "s" / "x.sock"
    async with scripted(path, hang_up, hang_up, hang_up, pong) as heard, await RemoteEngine.connect(path) as engine:
        await engine.ping()
        assert len(heard) == 4
    async with scripted(path, hang_up, hang_up, hang_up, hang_up) as heard, await RemoteEngine.connect(path) as engine:
        with pytest.raises(errors.TpmUnavailableError) as caught:
            await engine.ping()
        assert caught.value.code == "no_service"
        assert len(heard) == 4


async def test_a_rotation_whose_answer_was_lost_is_not_done_twice(runtime):
    path = runtime / "s" / "x.sock"
    async with scripted(path, hang_up, pong) as heard, await RemoteEngine.connect(path) as engine:
        with pytest.raises(errors.TpmUnavailableError) as caught:
            await engine.rotate("MONITOR", keep_until_ms=1)
        assert caught.value.code == "outcome_unknown"
        await engine.ping()
        assert [request["command"] for request in heard] == ["rotate", "ping"]


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\n",
        b"[]\n",
        b'{"id":0}\n',
        b'{"id":0,"version":2}\n',
        b'{"id":0,"version":1,"more":1}\n',
        b'{"id":7,"version":1}\n',
        b'{"id":"0","version":1}\n',
        b'{"version":1}\n',
        b'{"id":0,"error":{"code":"x"}}\n',
        b'{"id":0,"version":1',
        b"A" * 4_000_001,
    ],
    ids=lambda answer: repr(answer[:30]),
)
async def test_a_service_that_speaks_nonsense_is_a_protocol_error_and_no_wait(runtime, answer):
    path = runtime / "s" / "x.sock"
    async with scripted(path, lambda *_: answer, pong) as heard, await RemoteEngine.connect(path) as engine:
        with pytest.raises(errors.RemoteProtocolError) as caught:
            await engine.ping()
        assert caught.value.reason in {"malformed", "line_too_long"}
        await engine.ping()  # on a new connection
        assert len(heard) == 2


async def test_a_busy_service_is_unavailable(runtime):
    async with serving(runtime, callers=1) as served, await RemoteEngine.connect(served.path) as engine:
        await engine.ping()
        async with await RemoteEngine.connect(served.path) as other:
            with pytest.raises(errors.TpmUnavailableError) as caught:
                await other.ping()
            assert caught.value.code == "busy"


@pytest.mark.skipif(not IS_ROOT, reason="only root can start a process of another user")
async def test_another_users_service_gets_nothing_from_us(runtime):
    """Root trusts root; a socket that somebody else has put there is not the service."""
    runtime.chmod(0o777)
    script = f"""
import os, socket, sys
os.setresgid({STRANGER}, {STRANGER}, {STRANGER}); os.setresuid({STRANGER}, {STRANGER}, {STRANGER})
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1]); listener.listen(); print("listening", flush=True)
    while True:
        caller = listener.accept()[0]; print(caller.recv(1), flush=True)
"""
    path = runtime / "false.sock"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as false:  # noqa: ASYNC220  it starts at once
        assert false.stdout is not None
        assert false.stdout.readline() == b"listening\n"
        try:
            with pytest.raises(errors.ConnectError):
                await RemoteEngine.connect(path)
            assert false.stdout.readline() == b"b''\n"
            async with await RemoteEngine.connect(path, server_uids=[STRANGER]):
                pass
        finally:
            false.kill()


async def test_calls_survive_a_service_that_is_killed(runtime, tmp_path):
    """Real processes, and no warning: what was under way is asked of the next one."""
    arguments = ["--state", str(tmp_path / "state"), "--socket", str(runtime / "s" / "t.sock"), "--tpm", "software"]
    with process(*arguments) as first:
        async with await RemoteEngine.connect(runtime / "s" / "t.sock", wait_seconds=60) as engine:
            key = await engine.create("PYTHON", SUITE, origin="software")
            checked = 0

            async def sign() -> None:
                nonlocal checked
                while checked < 500:
                    content = contents_for(SUITE, 1, seed=str(random.random()))[0]
                    found = await engine.sign_many("PYTHON", Purpose.ENVELOPE, [content])
                    check_proof(found[0], key, Purpose.ENVELOPE, content)
                    checked += 1

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(sign)
                await until(lambda: checked > 100)
                first.kill()
                first.wait()
                with process(*arguments):
                    await until(lambda: checked >= 500)
            await engine.aclose()

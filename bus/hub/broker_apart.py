"""The broker in another process, as its supervisor sees it: started, told of changes, asked, and started again when it dies.

Who was connected comes back by itself: sessions, epochs and numbers are the agents' own, so a broker that is killed costs no
operation of a TPM and no grant.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
from anyio import to_thread
from anyio.abc import ByteReceiveStream, Process, TaskGroup

from bus.clock import Clock
from bus.errors import BusError, ConnectError, ConnectionLostError, RemoteProtocolError
from bus.hub import admin
from bus.hub.admin import Desk, raised
from bus.hub.backbones import NatsServers
from bus.hub.broker_here import Status
from bus.hub.doors import REFRESHED_SECONDS
from bus.hub.overview import VERBS, WATCHED
from bus.hub.own_program import own_program
from bus.hub.petitioning import Petitioning
from bus.hub.state import State, open_log
from bus.identity import durable
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.trust_documents import TrustDocuments
from bus.metrics.sources import readable
from bus.transport.dialing import dial
from bus.transport.link import Link

_log = logging.getLogger(__name__)
PROGRAM = "bus.hub.broker_program"
"""What runs in that process."""
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 6.0
ANSWER_SECONDS: Final = 15.0
"""Long lists of a busy broker take a second or two. One that never answers must not keep its hub waiting."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
LIVED_SECONDS: Final = 60.0
"""After so long it counts as started well, and is started again at once."""
MAX_LINE_BYTES: Final = 65_536


class BrokerApart:
    def __init__(
        self, state: State, clock: Clock, *, servers: NatsServers | None = None, is_authority: bool = True,
        renew: Callable[[], Awaitable[object]],
    ) -> None:  # fmt: skip
        """`servers`: of NATS, in place of the journal. `is_authority`: whether this hub has it. `renew`: what is shown over TLS, if
        that is due.
        """
        self._state, self._clock, self._renew = state, clock, renew
        self._servers, self._is_authority = servers, is_authority
        self._urls: list[str] = []
        self._asked: Sequence[str] = ()
        self._tasks: TaskGroup
        self._log_file = state.folder / "broker.log"
        self.starts = 0

    @asynccontextmanager
    async def running(self, tasks: TaskGroup, urls: Sequence[str]) -> AsyncIterator[None]:
        """Raises, for the first start, what keeps it from running."""
        self._tasks, self._asked = tasks, list(urls)
        await to_thread.run_sync(self._make_folders)
        await self._renew()
        scope: anyio.CancelScope = await tasks.start(self._keep)
        tasks.start_soon(self._keep_renewing)
        try:
            yield
        finally:
            scope.cancel()

    def _make_folders(self) -> None:
        for folder in (self._state.journal, self._state.broker, self._state.broker_desk.parent):
            durable.make_folder(folder)

    async def _keep(self, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        pause = FIRST_PAUSE_SECONDS
        with anyio.CancelScope() as scope:
            while True:
                began = self._clock.monotonic()
                try:
                    async with self._started() as process:
                        self.starts += 1
                        if self.starts == 1:
                            task_status.started(scope)
                        why = f"ended ({await process.wait()})"
                except BusError as error:
                    if not self.starts:
                        raise
                    why = f"could not begin ({error})"  # what it needs may be away for as long as it was itself
                _log.error("the broker %s; it is started again. Its log is %s", why, self._log_file)
                pause = (
                    FIRST_PAUSE_SECONDS
                    if self._clock.monotonic() - began > LIVED_SECONDS
                    else min(2 * pause, LONGEST_PAUSE_SECONDS)
                )
                await self._clock.sleep(pause)

    async def _keep_renewing(self) -> None:
        while True:
            await self._clock.sleep(REFRESHED_SECONDS)
            try:
                await self._renew()
            except BusError as error:
                _log.error("what is shown over TLS stays as it is: %s", error)
            await self._tell("follow")

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[Process]:
        """It is ended by the end of its standard input, and killed only if it does not."""
        with open_log(self._log_file) as log:
            command = own_program(PROGRAM)
            process = await anyio.open_process(  # in a session of its own: Ctrl-C is for the supervisor, which ends it in order
                command, stdin=PIPE, stdout=PIPE, stderr=log, start_new_session=True
            )
        try:
            await self._begin(process)
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(process)

    async def _begin(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ConnectError("the broker's process has no pipes")
        order: dict[str, Any] = {"folder": str(self._state.folder), "runtime": str(self._state.runtime), "urls": [*self._asked]}
        if self._servers is not None:  # told over a pipe: there may be a password in it
            order |= {"servers": self._servers.text, "authority": self._is_authority}
        await process.stdin.send(json.dumps(order).encode() + b"\n")
        document = await self._first_word(process.stdout)
        if "error" in document:
            raise raised(document["error"])
        self._urls = document["urls"]
        _log.info("the broker runs, held by: %s", ", ".join(document["held"]) or "nothing this kernel has")

    async def _first_word(self, stdout: ByteReceiveStream) -> dict[str, Any]:
        """Where it listens, or what keeps it from that. What it waits for meanwhile is passed on."""
        said = b""
        with anyio.move_on_after(START_SECONDS):
            while True:
                line, _, said = (await _until_a_line(stdout, said)).partition(b"\n")
                document = _document(line, self._log_file)
                if "waiting" not in document:
                    return document
                _log.warning("%s; what the broker says is in %s", document["waiting"], self._log_file)
        raise ConnectError(f"the broker's process says nothing for {START_SECONDS:g} s; its log is {self._log_file}")

    async def _end(self, process: Process) -> None:
        if process.stdin is not None:
            await process.stdin.aclose()
        with anyio.move_on_after(STOP_SECONDS):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()

    # ---- what a hub asks of it -----------------------------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        return self._urls

    async def dial(self) -> Link:
        return await dial(f"unix://{self._state.bus_socket}")

    async def pass_on(self, petitioning: Petitioning) -> None:
        """What agents ask of the authority, until cancelled. It cannot come to us: we ask it, again when it was started again."""

        async def reply(number: int, answer: bytes) -> None:
            await self._ask("answer_petition", number=number, answer=answer.hex())

        while True:
            try:
                await petitioning.serve(self._petitions(), reply)
            except BusError as error:
                _log.debug("the broker passes on no requests to the authority: %s", error)
            await self._clock.sleep(FIRST_PAUSE_SECONDS)

    async def _petitions(self) -> AsyncGenerator[tuple[int, bytes], None]:
        async with aclosing(admin.watch(self._state.broker_desk, "petitions")) as items:
            async for item in items:
                yield _petition(item)

    def follow(self, _snapshot: Snapshot, _documents: TrustDocuments) -> None:
        """It reads what is public by itself; so that it does at once, it is told."""
        self._tasks.start_soon(self._tell, "follow")

    async def live(self) -> int:
        live = await self._ask("live")
        if not isinstance(live, int):
            raise RemoteProtocolError("malformed", "how many agents are live is a number")
        return live

    async def statistics(self) -> dict[str, Any]:
        return {**readable(await self._ask("statistics")), "starts": self.starts}

    async def drain(self) -> None:
        await self._tell("drain")

    async def _ask(self, verb: str, **arguments: Any) -> Any:
        with anyio.move_on_after(ANSWER_SECONDS):
            return await admin.ask(self._state.broker_desk, verb, **arguments)
        raise ConnectionLostError(f"the broker did not answer {verb} within {ANSWER_SECONDS:g} s; its log is {self._log_file}")

    async def _tell(self, verb: str) -> None:
        """What it does not hear now, it finds when it starts."""
        try:
            await self._ask(verb)
        except BusError as error:
            _log.warning("the broker was not told to %s: %s", verb, error)

    def register(self, desk: Desk, status: Status) -> None:
        desk.register("status", _of_the_hub(status))
        for verb in VERBS:
            desk.register(verb, self._forwarded(verb))
        for verb in WATCHED:
            desk.register(verb, self._watched(verb))

    def _forwarded(self, verb: str) -> Callable[..., Any]:
        async def forward(**arguments: Any) -> Any:
            return await self._ask(verb, **arguments)

        return forward

    def _watched(self, verb: str) -> Callable[..., Any]:
        async def forward(**arguments: Any) -> AsyncGenerator[Any, None]:
            async with aclosing(admin.watch(self._state.broker_desk, verb, **arguments)) as items:
                async for item in items:
                    yield item

        return forward


async def _until_a_line(stdout: ByteReceiveStream, said: bytes) -> bytes:
    """What came, as far as there is a line."""
    while b"\n" not in said and len(said) < MAX_LINE_BYTES:
        try:
            said += await stdout.receive()
        except anyio.EndOfStream:
            break
    return said


def _petition(item: Any) -> tuple[int, bytes]:
    """What strangers talk to is believed nothing, not even its own form."""
    try:
        number, request = item
        if type(number) is int:
            return number, bytes.fromhex(request)
    except (ValueError, TypeError) as error:
        raise RemoteProtocolError("malformed", "a request is a number and bytes in hex") from error
    raise RemoteProtocolError("malformed", "a request is a number and bytes in hex")


def _of_the_hub(status: Status) -> Callable[..., Any]:
    async def ask() -> dict[str, Any]:
        return dict(await status())

    return ask


def _document(said: bytes, log: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(said))
    except (ValueError, TypeError, RecursionError):
        raise ConnectError(f"the broker's process ended without a word; its log is {log}") from None

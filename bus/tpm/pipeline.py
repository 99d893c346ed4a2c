"""Requests to the TPM service and their answers, over one connection at a time.

A request is sent at once by who makes it, and so whole or not at all as far as cancellation goes; what the kernel does not
take follows in a task of its own. A cancelled caller's answer is dropped when it comes. When the service goes away, what it
did not answer is asked once more of the next one, if being done twice does no harm.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from bus.errors import BusError, ClosedError, ConnectError, ConnectionLostError, RemoteProtocolError, TpmUnavailableError, twin
from bus.tpm import wire
from bus.tpm.faults import error_from
from bus.tpm.fields import WrongFieldError
from bus.tpm.lines import LineReader
from bus.transport.unix import UnixStream

_log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.5
_MOST_TIMES: Final = 3
"""How often one process may hang up on a request: one that was killed accepts still for a moment, and answers no more."""


@dataclass(slots=True, eq=False)
class Wish:
    """One request, until it is answered."""

    number: int
    command: str
    line: bytes = field(repr=False)
    """It may hold a secret that is to be sealed."""
    done: anyio.Event = field(default_factory=anyio.Event)
    sent: int = 0
    """How many connections it went out on."""
    asked: set[int] = field(default_factory=set)
    """Which processes."""
    answer: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def settle(self, *, answer: dict[str, Any] | None = None, error: Exception | None = None) -> None:
        self.answer, self.error = answer or {}, error
        self.done.set()


class Pipeline:
    """`reach` makes a connection; ConnectError means "try again". `run` must be running while requests are made."""

    def __init__(self, path: Path, stream: UnixStream, reach: Callable[[], Any], *, wait_seconds: float) -> None:
        self._path, self._first, self._reach, self._wait_seconds = path, stream, reach, wait_seconds
        self._stream: UnixStream | None = None
        self._pending: dict[int, Wish] = {}
        self._next = 0
        self._backlog: deque[memoryview] = deque()
        self._wanted = anyio.Event()
        self._parting: Exception | None = None
        self._closed = False
        self._running = anyio.CancelScope()

    def submit(self, command: str, fields: Mapping[str, Any]) -> Wish:
        """Send a request. Raises ValueError for values that the command does not take, ClosedError."""
        if self._closed:
            raise ClosedError("the connection to the TPM service is closed")
        number = self._next
        wish = Wish(number, command, wire.request_line(command, number, fields))
        self._next += 1
        self._pending[number] = wish
        self._hand_over(wish)
        return wish

    async def answer(self, wish: Wish) -> dict[str, Any]:
        """Wait for an answer; its values. Raises what the service's engine raised."""
        try:
            await wish.done.wait()
        finally:
            self._pending.pop(wish.number, None)
        if wish.error is not None:
            raise wish.error
        return wish.answer

    def forget(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            self._pending.pop(wish.number, None)

    async def run(self) -> None:
        """Keep a connection while there is something to ask; until closed or cancelled."""
        try:
            with self._running:
                await self._run()
        finally:
            self.close()

    def close(self) -> None:
        """End the connection, and tell those who wait."""
        self._closed = True
        self._running.cancel()
        for wish in self._pending.values():
            wish.settle(error=ClosedError("the connection to the TPM service was closed while this waited"))
        self._pending.clear()

    async def _run(self) -> None:
        stream: UnixStream | None = self._first
        while True:
            if stream is not None:
                await self._use(stream)
                self._sort_out_loss()
            self._wanted = anyio.Event()
            if not self._pending:
                await self._wanted.wait()
            stream = await self._reach_again()

    # -- one connection --------------------------------------------------------------------------------------------------------

    async def _use(self, stream: UnixStream) -> None:
        self._stream, self._parting = stream, None
        self._backlog.clear()
        self._wanted = anyio.Event()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write_backlog, stream)
                for wish in self._pending.values():
                    self._hand_over(wish)
                await self._read(stream)
                group.cancel_scope.cancel()
        finally:
            self._stream = None
            stream.close()

    def _hand_over(self, wish: Wish) -> None:
        if self._stream is None:
            self._wanted.set()
            return
        sent = 0
        if not self._backlog:
            try:
                sent = self._stream.send_nowait(wish.line)
            except ConnectionLostError:  # the reader will notice, and sort out what follows from it
                return
        wish.sent += 1
        wish.asked.add(self._stream.peer.pid)
        if sent < len(wish.line):
            self._backlog.append(memoryview(wish.line)[sent:])
            self._wanted.set()

    async def _write_backlog(self, stream: UnixStream) -> None:
        try:
            while True:
                while self._backlog:
                    await stream.send(self._backlog[0])
                    self._backlog.popleft()
                self._wanted = anyio.Event()
                await self._wanted.wait()
        except ConnectionLostError:
            return

    async def _read(self, stream: UnixStream) -> None:
        reader = LineReader(stream, max_bytes=wire.MAX_ANSWER_BYTES, deadline_seconds=None)
        try:
            while (line := await reader.receive()) is not None:
                self._take(wire.parse_object(line))
        except ConnectionLostError:
            return
        except (RemoteProtocolError, WrongFieldError) as error:
            _log.warning("the TPM service at %s does not speak our protocol: %s", self._path, error)
            self._parting = error

    def _take(self, document: dict[str, Any]) -> None:
        number = wire.take_id(document)
        if number is None and "error" in document:
            self._parting = error_from(document["error"])
            return
        if not isinstance(number, int) or number >= self._next:
            raise RemoteProtocolError("malformed", "an answer to nothing that was asked")
        wish = self._pending.get(number)
        if wish is None:
            return  # its caller was cancelled
        if "error" in document:
            wish.settle(error=error_from(document["error"]))
        else:
            wish.settle(answer=wire.answer_fields(wish.command, document))
        del self._pending[number]

    # -- between connections ---------------------------------------------------------------------------------------------------

    def _sort_out_loss(self) -> None:
        """What was not answered: ask again, or say that nobody knows."""
        for number, wish in list(self._pending.items()):
            error = self._verdict(wish)
            if error is not None:
                del self._pending[number]
                wish.settle(error=error)

    def _verdict(self, wish: Wish) -> Exception | None:
        if not wish.sent:
            return None
        if self._parting is not None:
            return twin(self._parting) if isinstance(self._parting, BusError) else self._parting
        if not wire.COMMANDS[wish.command].twice:
            return TpmUnavailableError(
                "outcome_unknown",
                f"the TPM service ended before it answered {wish.command}: look with `tpmbus keys list` if it was done",
            )
        if len(wish.asked) > 1 or wish.sent > _MOST_TIMES:
            return TpmUnavailableError(
                "no_service", f"the TPM service at {self._path} ended twice without an answer: its log says why"
            )
        return None

    async def _reach_again(self) -> UnixStream | None:
        """The next service, which may take a moment to start. None if there is none; whoever waits has been told."""
        give_up_at, pause = anyio.current_time() + self._wait_seconds, _FIRST_PAUSE_SECONDS
        while True:
            await anyio.sleep(pause)  # also at first: what is just ending would still take what is asked
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                stream: UnixStream = await self._reach()
            except ConnectError as error:
                if anyio.current_time() >= give_up_at:
                    self._tell_all(error)
                    return None
            except BusError as error:  # it was to be started, and says what keeps it from that
                self._tell_all(error)
                return None
            else:
                return stream

    def _tell_all(self, cause: BusError) -> None:
        if isinstance(cause, ConnectError):
            gone = TpmUnavailableError("no_service", f"the TPM service is gone ({cause}): `tpmbus tpm serve` starts it")
            gone.__cause__ = cause
            cause = gone
        for wish in self._pending.values():
            wish.settle(error=twin(cause))
        self._pending.clear()

"""One caller of the TPM service: reads its requests, admits so many at a time, writes the answers.

What a caller can take from others is bounded: so many requests and contents in flight, so many bytes of answers that it does
not fetch (then nothing more is read from it), so many seconds for a line that has begun or for an answer to leave. Answers
go out by whoever has one when nobody else is writing, without a task or a queue in between; most leave in one system call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from bus.errors import BusError, ConnectionLostError, RemoteProtocolError
from bus.tpm import wire
from bus.tpm.answers import Answers
from bus.tpm.faults import FATAL, INTERNAL, fault_of
from bus.tpm.fields import WrongFieldError
from bus.tpm.interface import Priority
from bus.tpm.lines import LineReader
from bus.tpm.permissions import Permissions
from bus.tpm.wire import RequestId
from bus.transport.unix import UnixStream

_log = logging.getLogger(__name__)
_PAGE_WEIGHT: Final = 128
_WEIGHTS: Final = {"keys": _PAGE_WEIGHT}
"""Commands whose answers are long, in contents whose proofs are as long together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service bears."""

    callers: int = 4_096
    callers_of_a_stranger: int = 16
    """Connections of one user who is not the owner."""
    line_bytes: int = wire.MAX_REQUEST_BYTES
    line_seconds: float = 10.0
    write_seconds: float = 10.0
    drain_seconds: float = 5.0
    requests_in_flight: int = 64
    contents_in_flight: int = 4_096
    """A proof has up to a kilobyte: so this bounds the answers that a caller leaves unread."""
    unread_bytes: int = 262_144
    """So many bytes of answers may wait before nothing more is read from the caller."""

    def of_a_stranger(self) -> Limits:
        """Whom policy lets sign, and nothing else: enough for that, and too little to be in others' way with all connections."""
        return replace(
            self,
            line_bytes=min(self.line_bytes, 131_072),
            requests_in_flight=min(self.requests_in_flight, 8),
            contents_in_flight=min(self.contents_in_flight, 1_024),
        )


class Caller:
    def __init__(self, stream: UnixStream, answers: Answers, permissions: Callable[[], Permissions], limits: Limits) -> None:
        self._stream, self._answers, self._permissions, self._limits = stream, answers, permissions, limits
        self._reader = LineReader(stream, max_bytes=limits.line_bytes, deadline_seconds=limits.line_seconds)
        self._reading = anyio.CancelScope()
        self._all: anyio.CancelScope | None = None
        self._in_flight = self._weight = self._unread = 0
        self._out: list[tuple[bytes, int]] = []
        self._writing = False
        self._room = anyio.Event()
        self.uid = stream.peer.uid

    async def serve(self) -> None:
        """Until the caller has said all and heard all, or is cut. Never raises but for cancellation."""
        try:
            async with anyio.create_task_group() as group:
                self._all = group.cancel_scope
                with self._reading:
                    await self._read(group)
        finally:
            self._stream.close()

    def drain(self) -> None:
        """Take no more requests; answer those that are here, then end."""
        self._reading.cancel()

    def refuse(self, code: str, message: str) -> None:
        """Say why not, and close."""
        error = {"code": code, "kind": "not_permitted" if code == "not_permitted" else "unavailable", "message": message}
        try:
            self._stream.send_nowait(wire.error_line(None, error))
        except ConnectionLostError:
            return
        finally:
            self._stream.close()

    async def _read(self, group: TaskGroup) -> None:
        try:
            while (line := await self._reader.receive()) is not None:
                if not await self._begin(group, line):
                    return
            if self._stream.is_gone():
                self._cut("it is gone")
        except RemoteProtocolError as error:
            self._fail(group, None, error)
        except ConnectionLostError:
            self._cut("it is gone")

    async def _begin(self, group: TaskGroup, line: bytes) -> bool:
        """Start what a line asks for; False if no other line can follow it."""
        number: RequestId = None
        try:
            document = wire.parse_object(line)
            number = wire.take_id(document)
            command = wire.take_command(document)
            fields = wire.request_fields(command, document)
            permissions = self._permissions()
            permissions.check(self.uid, command, key=fields.get("key"), purpose=fields.get("purpose"), beside=fields.get("beside"))
            if not permissions.owns(self.uid):
                fields = _behind_the_owner(fields)
        except (BusError, WrongFieldError) as error:
            await self._has_room(1)
            self._fail(group, number, error)
            return not (isinstance(error, RemoteProtocolError) and error.reason in FATAL)
        weight = len(fields["contents"]) if "contents" in fields else _WEIGHTS.get(command, 1)
        await self._has_room(weight)
        self._in_flight += 1
        self._weight += weight
        group.start_soon(self._answer, command, number, fields, weight)
        return True

    async def _has_room(self, weight: int) -> None:
        limits = self._limits
        while (
            self._in_flight >= limits.requests_in_flight
            or (self._in_flight and self._weight + weight > limits.contents_in_flight)
            or self._unread > limits.unread_bytes
        ):
            self._room = anyio.Event()
            await self._room.wait()

    async def _answer(self, command: str, number: RequestId, fields: dict[str, Any], weight: int) -> None:
        sees = self._permissions().may_see
        try:
            found = await self._answers.answer(command, fields, sees=lambda name: sees(self.uid, name))
            line = wire.answer_line(command, number, found)
        except Exception as error:  # noqa: BLE001  whatever it is, this caller must hear of it, and nobody else
            line = self._error_line(number, error)
        await self._send(line, weight)

    def _fail(self, group: TaskGroup, number: RequestId, error: Exception) -> None:
        self._in_flight += 1
        self._weight += 1
        group.start_soon(self._send, self._error_line(number, error), 1)

    def _error_line(self, number: RequestId, error: Exception) -> bytes:
        fault = fault_of(error)
        if fault is None:
            _log.error("a request of uid %d failed", self.uid, exc_info=error)
            fault = INTERNAL
        return wire.error_line(number, fault.document(brief=not self._permissions().owns(self.uid)))

    async def _send(self, line: bytes, weight: int) -> None:
        """Write, or leave it to who is writing already. A request is in flight until its answer has left."""
        self._out.append((line, weight))
        self._unread += len(line)
        if self._writing:
            return
        self._writing = True
        try:
            while self._out:
                lines, self._out = self._out, []
                data = b"".join(line for line, _ in lines)
                await self._write(data)
                self._unread -= len(data)
                self._in_flight -= len(lines)
                self._weight -= sum(weight for _, weight in lines)
                self._room.set()
        except ConnectionLostError:
            self._cut("it is gone")
        except TimeoutError:
            self._cut(f"it took no answer for {self._limits.write_seconds} s")
        finally:
            self._writing = False

    async def _write(self, data: bytes) -> None:
        sent = self._stream.send_nowait(data)
        while sent < len(data):
            with anyio.fail_after(self._limits.write_seconds):
                await self._stream.send(data[sent : sent + self._limits.unread_bytes])
            sent += self._limits.unread_bytes

    def _cut(self, why: str) -> None:
        if self._all is not None and not self._all.cancel_called:
            _log.info("closing the connection of process %d (uid %d): %s", self._stream.peer.pid, self.uid, why)
            self._all.cancel()


def _behind_the_owner(fields: dict[str, Any]) -> dict[str, Any]:
    """What a stranger asks waits until the owner's wishes are served, or a second has passed: see `schedule`."""
    if "priority" not in fields:
        return fields
    return fields | {"priority": max(fields["priority"] or Priority.RENEWAL, Priority.RENEWAL)}

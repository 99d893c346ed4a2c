"""The hub's desk for the people who run it: one JSON object a line, over a socket that only the hub's own user can open.

    -> {"verb": "topics", "prefix": "work."}
    <- {"answer": {..}}                          or  {"error": {"type": "NotPermittedError", "message": "..", "agent": ".."}}
    -> {"verb": "trace", "pattern": ">"}
    <- {"item": {..}}  {"item": {..}}  ..  {"answer": null}

A connection may ask one thing after the other. A verb is a function, an async function, or an async generator (then each value is
an item, and whoever has seen enough hangs up). The desk knows no verb: whoever has something to tell registers it.

This is not the bus. It carries no message, and being able to open the socket is all the proof that it asks for: it is 0600, and
the kernel's word on the caller's user is asked besides. What it must bear is bounded: so many callers, so long a line, and a
caller who does not read waits alone.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from bus import errors
from bus.errors import BusError, ConnectError, ConnectionLostError, PolicyError, Problem, RemoteProtocolError
from bus.tpm.lines import LineReader
from bus.transport.unix import UnixStream, connect, listening

_log = logging.getLogger(__name__)
MAX_REQUEST_BYTES: Final = 2_200_000
"""An enrolment of a whole host, a mebibyte at most, is written in hex."""
MAX_ANSWER_BYTES: Final = 64 << 20
"""A fleet of thousands has long lists, and the hub is believed not to drown us."""
MAX_CALLERS: Final = 32
LINE_SECONDS: Final = 10.0

Verb = Callable[..., Any]


class Desk:
    """Names and what they do. Arguments come as keywords; what is given back must be JSON."""

    def __init__(self) -> None:
        self._verbs: dict[str, Verb] = {}
        self._callers = 0

    def register(self, name: str, verb: Verb) -> None:
        """Raises ValueError if the name is taken."""
        if name in self._verbs:
            raise ValueError(f"the verb {name!r} is registered already")
        self._verbs[name] = verb

    async def serve(self, socket: Path, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled; started when others can come. Raises StateInUseError, ConnectError."""
        async with listening(socket) as listener, anyio.create_task_group() as group:
            task_status.started()
            while True:
                try:
                    stream = await listener.accept()
                except ConnectionLostError:
                    return
                if stream.peer.uid != os.geteuid() or self._callers >= MAX_CALLERS:
                    stream.close()
                else:
                    self._callers += 1
                    group.start_soon(self._serve, stream)

    async def _serve(self, stream: UnixStream) -> None:
        reader = LineReader(stream, max_bytes=MAX_REQUEST_BYTES, deadline_seconds=LINE_SECONDS)
        try:
            while (line := await reader.receive()) is not None:
                await self._answer(stream, reader, line)
        except (ConnectionLostError, RemoteProtocolError) as error:
            _log.debug("a caller of the desk is gone: %s", error)
        finally:
            self._callers -= 1
            stream.close()

    async def _answer(self, stream: UnixStream, reader: LineReader, line: bytes) -> None:
        try:
            verb, arguments = self._asked(line)
            found = verb(**arguments)
            if inspect.isasyncgen(found):
                await _pour(found, stream, reader)
                found = None
            elif inspect.isawaitable(found):
                found = await found
            answer = _line({"answer": found})
        except ConnectionLostError:
            raise
        except BusError as error:
            answer = _line({"error": described(error)})
        except Exception as error:  # noqa: BLE001  whatever it is, this caller must hear of it, and the hub goes on
            _log.error("a verb of the desk failed", exc_info=error)
            answer = _line({"error": {"type": "BusError", "message": f"the hub could not answer: {error!r}"}})
        await stream.send(answer)

    def _asked(self, line: bytes) -> tuple[Verb, dict[str, Any]]:
        try:
            document = json.loads(line)
            name = document.pop("verb")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise RemoteProtocolError("malformed", "a request is an object with a `verb`, on one line") from error
        verb = self._verbs.get(name) if isinstance(name, str) else None
        if verb is None:
            raise RemoteProtocolError("malformed", f"this hub knows no verb {str(name)[:60]!r}; is it older than the command?")
        try:
            inspect.signature(verb).bind(**document)
        except TypeError as error:
            raise RemoteProtocolError("malformed", f"{name}: {error}") from error
        return verb, document


async def _pour(items: Any, stream: UnixStream, reader: LineReader) -> None:
    """Send item after item until there are no more, or the caller hangs up (or asks for something else, which ends this)."""
    failure: Exception | None = None

    async def end_with_the_caller() -> None:
        try:
            await reader.receive()
        except (ConnectionLostError, RemoteProtocolError) as error:
            _log.debug("a caller of the desk is gone: %s", error)
        group.cancel_scope.cancel()

    async with aclosing(items), anyio.create_task_group() as group:
        group.start_soon(end_with_the_caller)
        try:
            async for item in items:
                await stream.send(_line({"item": item}))
        except Exception as error:  # noqa: BLE001  raised below, alone: a task group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def described(error: BusError) -> dict[str, Any]:
    """An error as another process reads it."""
    fields: dict[str, Any] = {name: value for name, value in vars(error).items() if isinstance(value, str | int | None)}
    if isinstance(error, PolicyError):
        fields["problems"] = [problem._asdict() for problem in error.problems]
    return {"type": type(error).__name__, "message": str(error), **fields}


# ---- the other side ------------------------------------------------------------------------------------------------------------


async def ask(socket: Path, verb: str, **arguments: Any) -> Any:
    """What the hub that listens there answers.

    Raises its error as it was raised there, ConnectError if there is no hub, ConnectionLostError if it turns us away.
    """
    async with _call(socket, verb, arguments) as call:
        kind, value = await call.next()
        if kind != "answer":
            raise RemoteProtocolError("malformed", f"what {verb} gives is an answer, and no {kind[:20]}")
        return value


async def watch(socket: Path, verb: str, **arguments: Any) -> AsyncGenerator[Any, None]:
    """Item after item, until the hub has no more. Close it (`contextlib.aclosing`) to hang up. Raises as `ask` does."""
    async with _call(socket, verb, arguments) as call:
        while True:
            kind, value = await call.next()
            if kind == "answer":
                return
            yield value


@asynccontextmanager
async def _call(socket: Path, verb: str, arguments: Mapping[str, Any]) -> AsyncIterator[_Call]:
    try:
        stream = await connect(socket)
    except ConnectError as error:
        advice = "start one with `tpmbus run`, or name another state folder with --state"
        raise ConnectError(f"no hub runs in this state folder ({error}): {advice}") from error
    try:
        await stream.send(_line({"verb": verb, **arguments}))
        yield _Call(LineReader(stream, max_bytes=MAX_ANSWER_BYTES, deadline_seconds=None))
    finally:
        stream.close()


class _Call:
    def __init__(self, reader: LineReader) -> None:
        self._reader = reader

    async def next(self) -> tuple[str, Any]:
        """("item", value) or ("answer", value)."""
        line = await self._reader.receive()
        if line is None:
            raise ConnectionLostError(
                "the hub hung up: it, or its broker, has just ended, or too many call it (and it serves its own user alone); "
                "`tpmbus status` says whether it is there"
            )
        return said(line)


def said(line: bytes) -> tuple[str, Any]:
    """("item", value) or ("answer", value). Raises the error that was said, RemoteProtocolError("malformed") for what is neither.

    Nothing else, whatever it is: who asks a broker holds what a broker may not have, and does not end by what that says.
    """
    try:
        [(kind, value)] = json.loads(line).items()
    except (ValueError, AttributeError, RecursionError) as error:
        raise RemoteProtocolError("malformed", "an answer is an object of one key") from error
    if kind == "error":
        raise raised(value)
    return kind, value


def raised(document: Any) -> BusError:
    """The hub's error, of its class and with its fields. Who answers may be a broker that lies: what is no error is one, too."""
    try:
        return _error(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        return RemoteProtocolError("malformed", "an error of no known form")


def _error(document: Mapping[str, Any]) -> BusError:
    if document.get("type") == PolicyError.__name__:
        return PolicyError([Problem(**problem) for problem in document["problems"]])
    kind = getattr(errors, str(document.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, BusError)):
        kind = BusError
    error = kind.__new__(kind, str(document.get("message")))
    fields = {name: value for name, value in document.items() if isinstance(value, str | int | None)}
    error.__dict__.update({name: value for name, value in fields.items() if name not in ("type", "message")})
    return error

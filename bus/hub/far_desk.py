"""The hub's desk for another machine: three of its verbs, over the standard input and output of a command that is started here.

    other machine  --ssh hub tpmbus host desk-->  this command  --admin.sock-->  the hub

ssh says who comes, and that this is the hub; nothing new listens anywhere. What comes this way is a stranger all the same: it may
read what everybody may read, enrol by a token or a chip that an operator has let in (never as a local user), and have a TLS key
certified for a name that is enrolled. So `tpmbus host desk` may be the one command that a machine's key is good for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final, Protocol

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from bus.errors import BusError, ConnectError, ConnectionLostError, RemoteProtocolError
from bus.hub import admin
from bus.hub.admin import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, described

VERBS: Final = frozenset(("papers", "enroll_from_afar", "issue_tls"))
END_SECONDS: Final = 5.0


async def answered(socket: Path, line: bytes, verbs: frozenset[str] = VERBS) -> bytes:
    """The answer to a line from another machine, as a line. `verbs`: what it may ask for."""
    try:
        said = {"answer": await admin.ask(socket, **_asked(line, verbs))}
    except BusError as error:
        said = {"error": described(error)}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def _asked(line: bytes, verbs: frozenset[str]) -> dict[str, Any]:
    try:
        document: Any = json.loads(line) if len(line) <= MAX_REQUEST_BYTES else None
        if document["verb"] in verbs and "socket" not in document:
            return dict(document)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RemoteProtocolError("malformed", "a request is an object with a `verb`, on one line") from error
    raise RemoteProtocolError("malformed", f"another machine may ask for {', '.join(sorted(verbs))}, and for nothing else")


class Asks(Protocol):
    """Whoever gets there."""

    async def ask(self, verb: str, **arguments: Any) -> Any: ...


class Way:
    """To that desk, from the other machine. Implements `Asks`."""

    def __init__(self, process: Process, command: Sequence[str]) -> None:
        if process.stdin is None or process.stdout is None:
            raise ConnectError(f"{command[0]} has no pipes")
        self._send, self._lines = process.stdin.send, BufferedByteReceiveStream(process.stdout)
        self._command = command

    async def ask(self, verb: str, **arguments: Any) -> Any:
        """Raises the hub's error as it was raised there; ConnectionLostError if the command ends."""
        try:
            await self._send(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            line = await self._lines.receive_until(b"\n", MAX_ANSWER_BYTES)
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            text = f"`{' '.join(self._command)}` ended without an answer: try it by hand"
            raise ConnectionLostError(text) from error
        except anyio.DelimiterNotFound as error:
            raise RemoteProtocolError("malformed", "an answer without an end") from error
        return admin.said(line)[1]


@asynccontextmanager
async def way_over(command: Sequence[str]) -> AsyncIterator[Way]:
    """Raises ConnectError where there is no such command."""
    try:
        process = await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None)
    except OSError as error:
        raise ConnectError(f"`{' '.join(command)}` cannot be started: {error}") from error
    try:
        yield Way(process, command)
    finally:
        with anyio.CancelScope(shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            with anyio.move_on_after(END_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()

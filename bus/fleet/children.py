"""A fleet in several processes. Parent and child speak one JSON object a line, over the child's stdin and stdout.

    child   {"agents": 38}                              when all of its agents listen
    parent  {"do": "speak", "number": 1, "rate": 200}   everybody listens: begin    child  {"number": 1}
    parent  {"do": "read", "number": 2}                 what have you counted?      child  {"number": 2, "reading": {..}}
    parent  {"do": "silence", "number": 3}              say nothing new             child  {"number": 3}, when all is taken in
    parent  (closes)                                    end                         child  ends

A question has a number because who asks may be cancelled before the answer comes: the next one must not take it for its own.

A child is in a session of its own, so that Ctrl-C reaches the parent alone, which ends things in their order. It lives no longer
than its parent: when its stdin ends, for whatever reason, it ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from bus.errors import ClosedError, ConnectionLostError
from bus.fleet.crew import Crew
from bus.hub.collecting import leave_what_is_here
from bus.hub.household import alone
from bus.metrics.sources import added, plain

MAX_LINE_BYTES: Final = 16 << 20
END_SECONDS: Final = 8.0
"""For a child to drain and end; then it is killed."""


class Child:
    def __init__(self, process: Process, lines: BufferedByteReceiveStream) -> None:
        self._process, self._lines = process, lines
        self._asking = anyio.Lock()
        self._asked = 0

    async def hear(self) -> dict[str, Any]:
        """Its next line. Raises ConnectionLostError if it has ended."""
        try:
            heard: dict[str, Any] = json.loads(await self._lines.receive_until(b"\n", MAX_LINE_BYTES))
        except (anyio.IncompleteRead, anyio.ClosedResourceError, anyio.EndOfStream, anyio.DelimiterNotFound, ValueError) as error:
            code = self._process.returncode
            how = "said nothing that can be understood" if code is None else f"ended with code {code}"
            raise ConnectionLostError(f"process {self._process.pid} of the fleet {how}; what it said is above") from error
        return heard

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Raises ConnectionLostError if it has ended."""
        async with self._asking:
            self._asked = number = self._asked + 1
            try:
                await _stdin(self._process).send(json.dumps({"do": do, "number": number, **more}).encode() + b"\n")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise ConnectionLostError(f"process {self._process.pid} of the fleet has ended; what it said is above") from error
            while True:
                heard = await self.hear()
                if heard["number"] == number:
                    return heard

    async def end(self) -> None:
        with anyio.CancelScope(shield=True):
            await _stdin(self._process).aclose()
            with anyio.move_on_after(END_SECONDS):
                await self._process.wait()
                return
            self._process.kill()
            await self._process.wait()


class Children:
    """All of them at once."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._last: list[Mapping[str, Any]] = []

    async def speak_up(self, *, rate: float) -> None:
        await self._ask("speak", rate=rate)

    async def fall_silent(self) -> None:
        await self._ask("silence")

    async def reading(self) -> dict[str, Any]:
        return added([answer["reading"] for answer in await self._ask("read")])

    async def _ask(self, do: str, **more: Any) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []

        async def ask(child: Child) -> None:
            answers.append(await child.ask(do, **more))

        async with alone(), anyio.create_task_group() as tasks:
            for child in self._children:
                tasks.start_soon(ask, child)
        return answers


@asynccontextmanager
async def started(commands: Sequence[Sequence[str]]) -> AsyncIterator[Children]:
    """A child for each command, all of whose agents listen. Raises ConnectionLostError if one ends before that."""
    children: list[Child] = []
    try:
        for command in commands:
            process = await anyio.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, start_new_session=True
            )
            children.append(Child(process, BufferedByteReceiveStream(_stdout(process))))
        for child in children:
            await child.hear()
        yield Children(children)
    finally:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for child in children:
                    tasks.start_soon(child.end)


async def be_a_child(crew: Crew, host: Callable[[], Awaitable[Mapping[str, Any]]], commands: ByteReceiveStream) -> None:
    """Run this crew as the parent says, until it closes. `host` gives the numbers of this process's host."""
    lines = BufferedByteReceiveStream(commands)
    async with alone(), anyio.create_task_group() as tasks:
        await tasks.start(crew.run)
        leave_what_is_here()
        _say(agents=len(crew.agents))
        while True:
            try:
                asked = json.loads(await lines.receive_until(b"\n", MAX_LINE_BYTES))
            except (anyio.IncompleteRead, anyio.EndOfStream):
                break
            answer = {"number": asked["number"]}
            if asked["do"] == "speak":
                await crew.speak_up(rate=asked["rate"])
            elif asked["do"] == "silence":
                await crew.fall_silent()
            else:
                answer["reading"] = plain({**await crew.reading(), "host": await host()})
            _say(**answer)
        tasks.cancel_scope.cancel()


def _stdin(process: Process) -> ByteSendStream:
    if process.stdin is None:
        raise ClosedError("a child is made with a pipe")
    return process.stdin


def _stdout(process: Process) -> ByteReceiveStream:
    if process.stdout is None:
        raise ClosedError("a child is made with a pipe")
    return process.stdout


def _say(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()

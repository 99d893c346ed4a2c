"""SIGHUP says two things: reload, and that the terminal has gone. Which of them it is, the terminal itself tells.

The kernel sends it when a terminal is closed or a connection breaks, and shells pass it on to what they started; people and systemd
send it to have the policy read anew. A terminal that was closed stays closed on every descriptor of it, and it is closed before the
signal is sent: so one that we opened when we began answers for sure. Without one (systemd, cron), and where whoever started us
wants to be left alone (`nohup`), every SIGHUP means reload.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bus.cli.output import Output

if TYPE_CHECKING:
    import anyio
    from anyio.abc import TaskStatus

    import bus

_TERMINAL = "/dev/tty"
"""Of every process its own."""


class Terminal:
    """The terminal that this process was started on, if there is one."""

    def __init__(self) -> None:
        self._streams = [number for number in (0, 1, 2) if os.isatty(number)]
        self._descriptor: int | None = None
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            try:
                self._descriptor = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
            except OSError:
                return  # there is none

    @property
    def is_gone(self) -> bool:
        """There was one, and it was closed."""
        if self._descriptor is None:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLHUP)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def let_go(self) -> None:
        """What is still written to it goes nowhere, in place of failing."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in self._streams:
            os.dup2(nowhere, number)
        os.close(nowhere)
        self._streams = []

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@asynccontextmanager
async def reloading(hub: bus.Hub, output: Output) -> AsyncIterator[anyio.Event]:
    """Within the block, SIGHUP has the policy's files signed as they are then. If something is wrong with them, the old stays.

    Gives an event that is set when it came because our terminal has gone: then it is time to end. It may come again, from the
    kernel and from the shell, and must not kill who puts things in order.
    """
    import anyio

    from bus.hub.household import alone

    gone, terminal = anyio.Event(), Terminal()

    async def listen(*, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if terminal.is_gone:
                    terminal.let_go()
                    gone.set()
                else:
                    await _reload(hub, output)

    try:
        async with alone(), anyio.create_task_group() as tasks:
            await tasks.start(listen)
            try:
                yield gone
            finally:
                tasks.cancel_scope.cancel()
    finally:
        if gone.is_set():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        terminal.close()


async def _reload(hub: bus.Hub, output: Output) -> None:
    from bus.errors import BusError

    try:
        changed = await hub.reload()
        output.note("The policy is reloaded." if changed else "The policy says what it said before.")
    except BusError as error:
        output.note(f"The old policy stays: {error}")

"""A hub in a process of its own, and the command line beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

COMMAND = [sys.executable, "-c", "from bus.cli.main import main; main()"]
SECONDS = 60


class Running:
    """A command that goes on; what it writes can be looked at meanwhile."""

    def __init__(self, fleet: Any, *arguments: str, typed: str | None = None) -> None:
        self._out = self._file(fleet.folder, "out", arguments)
        self._errors = self._file(fleet.folder, "err", arguments)
        theirs, ours = os.pipe()
        self.process = fleet.commands.begin(arguments, [theirs, self._out.fileno(), self._errors.fileno()], environ=fleet.environ)
        os.close(theirs)
        self._typed = os.fdopen(ours, "w")
        if typed is not None:
            self._typed.write(typed)
            self._typed.close()

    @staticmethod
    def _file(folder: Path, kind: str, arguments: tuple[str, ...]) -> IO[str]:
        return (folder / f"{arguments[0]}-{time.monotonic_ns()}.{kind}").open("w+")

    @property
    def said(self) -> str:
        return Path(self._out.name).read_text()

    @property
    def noted(self) -> str:
        return Path(self._errors.name).read_text()

    def until(self, text: str) -> None:
        """Wait until it has written this, to either."""
        deadline = time.monotonic() + SECONDS
        while text not in self.said + self.noted:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.said + self.noted
                code = self.end(signal.SIGKILL)
                raise AssertionError(f"no {text!r} (it ended with {code}) in:\n{said}")
            time.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """SIGINT is for the whole group, as a terminal does it."""
        with suppress(ProcessLookupError):
            if number is signal.SIGINT:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(SECONDS)
            raise AssertionError(f"it does not end:\n{self.said}{self.noted}") from None
        for stream in (self._out, self._errors, self._typed):
            stream.close()
        return code


def first_to_end(commands: Sequence[Running]) -> Running:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for one in commands:
            if one.process.poll() is not None:
                return one
        time.sleep(0.02)
    raise AssertionError(f"none of them ends:\n{[one.said + one.noted for one in commands]}")


@contextmanager
def running(fleet: Any, *arguments: str) -> Iterator[Running]:
    """Ended, and without having failed, when the block ends."""
    command = Running(fleet, *arguments)
    try:
        yield command
    finally:
        code = command.end() if command.process.poll() is None else command.wait()
        assert code == 0, command.noted

"""Runs a page of documentation as its reader would: from top to bottom, in a folder of its own.

    <!-- file: NAME -->     the block below it is written to that file
    ```console              each `$ command` is typed, and what the page shows under it must come; `...` stands for anything.
                            One that ends in `&` goes on beside the others: what is shown under it must come from it in time. It is
                            ended at the end of the page, or by `$ kill %N` (the N-th of the page), and must end with 0; `$ wait %N`
                            waits until it has ended by itself.
    <!-- exit: N -->        before a console block: how its last command ends, or what that one ends or waits for
    ```python               a program; what a ```text block below it shows is what it prints

Blocks of other languages are looked at by others.

Ports of this machine that the page names are others here, which are free, the same for the same: so a page can be read twice at a
time, and beside whatever runs here.

A `tpmbus` that needs no shell is forked from a process that knows its imports (`forked_command`): pages of them would
take half a second more each. Programs, and all that a shell has to read, begin as interpreters that know nothing.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

BLOCK = re.compile(
    r"(?:<!-- (?P<name>file|exit): (?P<value>\S+) -->\n+)?```(?P<kind>\w+)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
SECONDS = 60
PORT = re.compile(r"127\.0\.0\.1(?::| -p )(\d{4,5})\b")


@dataclass
class Job:
    """A command that goes on beside the others."""

    process: Any
    """Of `subprocess`, or begun by fork."""
    output: IO[str]

    def wait_for(self, expected: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not fits(expected, self.said()):
            assert self.process.poll() is None, f"it ended ({self.process.returncode}) and said:\n{self.said()}"
            assert time.monotonic() < deadline, f"expected:\n{expected}\nsaid:\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def end(self, code: int = 0, *, by_itself: bool = False) -> str:
        """What it had said."""
        if self.output.closed:
            return ""
        if not by_itself and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        ended = self.process.wait(SECONDS)
        said = self.said()
        self.output.close()
        assert ended == code or (code == 0 and ended == -signal.SIGTERM), f"it ended with {ended}, having said:\n{said}"
        return said


@dataclass
class Reader:
    folder: Path
    environ: dict[str, str]
    commands: Any
    jobs: list[Job] = field(default_factory=list)
    ran: int = 0

    def read(self, page: Path) -> int:
        """Do what the page says; gives how many commands and programs it has."""
        blocks = [*BLOCK.finditer(on_free_ports(page.read_text()))]
        try:
            for number, block in enumerate(blocks):
                following = blocks[number + 1] if number + 1 < len(blocks) else None
                self._do(block, following)
        finally:
            with ExitStack() as ending:  # all of them, also where one did not end well
                for job in self.jobs:
                    ending.callback(job.end)
        return self.ran

    def _do(self, block: re.Match[str], following: re.Match[str] | None) -> None:
        if block["name"] == "file":
            path = self.folder / block["value"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block["text"])
        elif block["kind"] == "python":
            expected = following["text"] if following is not None and following["kind"] == "text" else None
            self._check(f"{shlex.quote(sys.executable)} -", block["text"], expected, 0)
        elif block["kind"] == "console":
            typed = [*commands(block["text"])]
            for place, (command, expected) in enumerate(typed):
                last = place == len(typed) - 1
                self._type(command, expected, int(block["value"]) if last and block["name"] == "exit" else 0)

    def _type(self, command: str, expected: str, code: int) -> None:
        if command.endswith("&"):
            output = tempfile.TemporaryFile("a+")  # noqa: SIM115  closed when the job ends; a+: said() moves where w+ would write
            self.jobs.append(Job(self._begun(command.removesuffix("&").strip(), output), output))
            self.jobs[-1].wait_for(expected)
            self.ran += 1
        elif ended := re.fullmatch(r"(kill|wait) %(\d+)", command):
            said = self.jobs[int(ended[2]) - 1].end(code, by_itself=ended[1] == "wait")
            assert not expected or fits(expected, said), f"$ {command}\nexpected:\n{expected}\nsaid:\n{said}"
        else:
            self._check(command, "", expected, code)

    def _begun(self, command: str, output: IO[str]) -> Any:
        with Path(os.devnull).open() as nothing:
            if words := plain_words(command):
                files = [nothing.fileno(), output.fileno(), output.fileno()]
                return self.commands.begin(words, files, environ=self.environ, folder=self.folder)
            return subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environ, stdin=nothing, stdout=output,
                stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip

    def _check(self, command: str, typed: str, expected: str | None, code: int) -> None:
        if words := plain_words(command):
            done = self.commands.run_in(self.folder, words, typed=typed, environ=self.environ)
        else:
            done = subprocess.run(
                ["bash", "-c", command], cwd=self.folder, env=self.environ, input=typed, text=True, timeout=SECONDS,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        assert done.returncode == code, f"$ {command}\n{done.stdout}"
        assert expected is None or fits(expected, done.stdout), f"$ {command}\nexpected:\n{expected}\nsaid:\n{done.stdout}"
        self.ran += 1


def on_free_ports(text: str) -> str:
    """The same page, with ports that nobody has."""
    named = sorted({*PORT.findall(text)})
    with ExitStack() as held:
        free = {port: str(held.enter_context(_bound()).getsockname()[1]) for port in named}
    return re.sub(r"\b\d{4,5}\b", lambda found: free.get(found[0], found[0]), text)


def _bound() -> socket.socket:
    found = socket.socket()
    found.bind(("127.0.0.1", 0))
    return found


def commands(text: str) -> Iterator[tuple[str, str]]:
    """What is typed, and what is shown under it."""
    yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)


def plain_words(command: str) -> tuple[str, ...]:
    """The arguments of a `tpmbus` that needs no shell."""
    unquoted = re.sub(r"'[^']*'", "", command)
    words = () if set(unquoted) & set('|&;<>()$`*?~"\\') else tuple(shlex.split(command))
    return words[1:] if words[:1] == ("tpmbus",) else ()


def fits(expected: str, said: str) -> bool:
    plain = "\n".join(line.rstrip() for line in said.splitlines()) + ("\n" if said else "")
    return doctest.OutputChecker().check_output(expected, plain, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

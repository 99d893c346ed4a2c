"""The processes of a scenario, and the state folder that they share, as a test has them in its hand.

Tests here are plain functions: what they start are real processes, and they wait for what those say, never for time to pass.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

from bus.hub import admin
from bus.hub.state import State, holder_of, open_state
from bus.hub.tpm_process import IDLE_EXIT_SECONDS

ACTOR = Path(__file__).with_name("actor.py")
LIAR = "liar"
"""The socket over which a lying broker is told what to do, beside the one of its desk."""
PATIENCE = 90.0
"""For one line of a process, on a machine that has other things to do."""


class ToldError(Exception):
    """What an actor was told to do failed there, with this error."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        super().__init__(f"{facts['type']}: {facts['text']}")


class Outside:
    """Makes processes as anybody does, who has imported nothing yet."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def bear(self, order: Mapping[str, Any], descriptors: list[int]) -> int:
        stdin, stdout, stderr = descriptors
        command = [sys.executable, str(ACTOR), json.dumps(order)]
        child = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
        self._children.append(child)
        return child.pid

    def close(self) -> None:
        """After they have ended."""
        for child in self._children:
            child.wait(PATIENCE)


class Nursery:
    """Makes processes quickly: by fork, from one that has imported everything."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        self._process = subprocess.Popen([sys.executable, str(ACTOR)], stdin=theirs, start_new_session=True)
        theirs.close()

    def bear(self, order: Mapping[str, Any], descriptors: list[int]) -> int:
        socket.send_fds(self._requests, [json.dumps(order).encode()], descriptors)
        return int(self._requests.recv(64))

    def close(self) -> None:
        self._requests.close()
        self._process.wait(PATIENCE)


class Actor:
    """One process. `ask` it something; it says one line for each."""

    def __init__(self, nursery: Nursery | Outside, log: Path, order: Mapping[str, Any]) -> None:
        read, theirs_out = os.pipe()
        theirs_in, write = os.pipe()
        self.log = log
        self.has_ended = False
        with log.open("ab") as errors:
            self.pid = nursery.bear(order, [theirs_in, theirs_out, errors.fileno()])
        os.close(theirs_out)
        os.close(theirs_in)
        self._out, self._in, self._said = read, write, b""

    def hear(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """Its next line."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._out], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"process {self.pid} is silent for {seconds} s; it logged:\n{self.noted}"
            more = os.read(self._out, 1 << 20)
            assert more, f"process {self.pid} has ended; it logged:\n{self.noted}"
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def tell(self, do: str, **more: Any) -> None:
        """Without waiting for what it says to that: `answer` does."""
        os.write(self._in, json.dumps({"do": do, **more}).encode() + b"\n")

    def answer(self, seconds: float = PATIENCE) -> Any:
        """Raises ToldError."""
        heard = self.hear(seconds)
        if "error" in heard:
            raise ToldError(heard["error"])
        return heard["answer"]

    def ask(self, do: str, *, within: float = PATIENCE, **more: Any) -> Any:
        self.tell(do, **more)
        return self.answer(within)

    def kill(self) -> None:
        """At once, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._until_gone()

    def end(self) -> list[dict[str, Any]]:
        """By SIGTERM; what it said until it was gone."""
        os.kill(self.pid, signal.SIGTERM)
        return self._until_gone()

    def _until_gone(self) -> list[dict[str, Any]]:
        """Its end of the pipe is closed when it is."""
        deadline = time.monotonic() + PATIENCE
        while not self.has_ended:
            ready, _, _ = select.select([self._out], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"process {self.pid} does not end; it logged:\n{self.noted}"
            more = os.read(self._out, 1 << 20)
            self._said += more
            self.has_ended = not more
        os.close(self._out)
        os.close(self._in)
        return [json.loads(line) for line in self._said.splitlines() if line.startswith(b"{")]

    @property
    def noted(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace")

    @property
    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError("it is gone")


class Company:
    """A state folder, the policy of its bus, and all processes that were started for it. They end with the test."""

    def __init__(self, nursery: Nursery, folder: Path, runtime: Path, policy: str, *, tpm: str = "software") -> None:
        self._nursery, self.folder, self.tpm = nursery, folder, tpm
        self.environ = {"XDG_RUNTIME_DIR": str(runtime)}
        self.state: State = open_state(folder / "state", environ=self.environ)
        self.policy = folder / "policy.yaml"
        self.policy.write_text(policy)
        self.actors: list[Actor] = []
        self._outside = Outside()

    def start(self, role: str, *, outside: bool = False, **order: Any) -> Actor:
        """`outside`: by a start of the interpreter, and not by fork."""
        log = self.folder / f"{role}-{len(self.actors)}.log"
        order = {"role": role, "state": str(self.state.folder), "policy": str(self.policy), "environ": self.environ, **order}
        actor = Actor(self._outside if outside else self._nursery, log, order)
        self.actors.append(actor)
        return actor

    def hub(self, *, listen: tuple[str, ...] = (), **order: Any) -> Actor:
        """Its TPM service is started by us, since that is quicker; it is as a hub would start it."""
        self.start_service()
        hub = self.start("hub", listen=listen, tpm=self.tpm, **order)
        hub.urls = hub.hear()["urls"]  # type: ignore[attr-defined]  # a hub has some
        return hub

    def lying_hub(self, **order: Any) -> Actor:
        """An honest hub, whose broker's process somebody has in his hand (`lying_program`): `lie` tells it what to do."""
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ACTOR.parent)]))
        return self.hub(apart=True, program="lying_program", environ={**self.environ, "PYTHONPATH": path}, **order)

    def lie(self, verb: str, **arguments: Any) -> Any:
        """What the lying broker answers."""
        return ask_desk(self.state.broker_desk.with_name(LIAR), verb, **arguments)

    def agents(self, *names: str, url: str | None = "own", role: str = "agents", **order: Any) -> Actor:
        """A process with these agents, each on a link of its own; or, with None for an address, all on one."""
        actor = self.start(role, **order)
        actor.hear()
        if names:
            actor.ask("open", names=names, url=self.url if url == "own" else url)
        return actor

    def stranger(self, *names: str) -> Actor:
        """Who means harm; with these agents, on links of their own."""
        actor = self.start("stranger")
        actor.hear()
        if names:
            actor.ask("open", names=names, url=self.url)
        return actor

    @property
    def url(self) -> str:
        return f"unix://{self.state.bus_socket}"

    def start_service(self) -> None:
        if holder_of(self.state.tpm_lock) is None:
            words = ["tpm", "serve", "--json", "--ready-fd", "1", "--state", str(self.state.folder), "--tpm", self.tpm]
            words += ["--idle-exit", str(IDLE_EXIT_SECONDS), "--policy", str(self.policy)]
            service = self.start("command", arguments=words)
            assert os.read(service._out, 6) == b"ready\n"

    def kill_swtpm(self) -> None:
        """The software TPM of this folder."""
        kill(lambda: one_of(lambda words: words[0].endswith("swtpm") and any(str(self.state.folder) in word for word in words)))

    def kill_broker(self, hub: Actor) -> None:
        """The broker of a hub that has it in a process of its own."""
        kill(lambda: one_of(lambda words: "bus.hub.broker_program" in words, parent=hub.pid))

    def kill_service(self) -> None:
        kill(lambda: self.service_pid)

    @property
    def service_pid(self) -> int:
        holder = holder_of(self.state.tpm_lock)
        return 0 if holder is None else int(holder["pid"])

    def desk(self, verb: str, **arguments: Any) -> Any:
        """What the hub's desk answers."""
        return ask_desk(self.state.admin_socket, verb, **arguments)

    def change(self, before: str, after: str) -> None:
        """The policy's file."""
        text = self.policy.read_text()
        assert before in text
        self.policy.write_text(text.replace(before, after))

    def close(self) -> None:
        for actor in self.actors:
            if not actor.has_ended:
                actor.kill()
        self._outside.close()
        service = self.service_pid  # one that was started by a process of ours
        if service:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(service, signal.SIGTERM)
            wait_for_lock(self.state.tpm_lock)


def ask_desk(socket: Path, verb: str, **arguments: Any) -> Any:
    async def ask() -> Any:
        return await admin.ask(socket, verb, **arguments)

    return anyio.run(ask)


def one_of(is_meant: Callable[[list[str]], bool], *, parent: int = 0) -> int:
    """The process with such a command line; 0 if there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            is_child = not parent or int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and is_meant(words):
                return int(folder.name)
    return 0


def kill(find: Callable[[], int]) -> None:
    """The process that this finds; after an earlier one was killed, as soon as it is back."""
    until = time.monotonic() + PATIENCE
    while (pid := find()) <= 1:
        assert time.monotonic() < until, "there is no such process"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


def wait_for_lock(lock: Path) -> None:
    """Until nobody holds it."""
    import fcntl

    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def company(nursery: Nursery, made: Company | None, folder: Path, runtime: Path, policy: str, **options: Any) -> Iterator[Company]:
    """In a folder of its own, with the authority and the agents of one that was made."""
    if made is not None:
        shutil.copytree(made.state.folder, folder / "state", ignore=shutil.ignore_patterns("run", "*.sock"))
    found = Company(nursery, folder, runtime, policy, **options)
    try:
        yield found
    finally:
        found.close()


def told(file: Path) -> list[tuple[str, int, int]]:
    """What actors told a file: what happened, the run and the number. Of who was killed the last line may be cut short."""
    text = file.read_text()
    lines = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [(what, int(run), int(number)) for what, run, number in lines]

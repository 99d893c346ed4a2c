"""One process of a scenario: it is told what to do, a JSON object a line, and answers each with one line.

    actor.py                    the nursery: it has imported everything, and makes one process after the other by fork
    {"role": "hub", ..}         a hub; told `statistics`, `reload`, `jump`, `room`
    {"role": "agents", ..}      agents that are elsewhere; told `open`, `subscribe`, `publish`, `until`, `report` ..
    {"role": "stranger", ..}    who means harm (`stranger`); and {"role": "deceived"}, whom a broker lies to (`deceived`)

Imports take most of a second; scenarios have many processes, and these are forked before anything is open or any thread runs.
Bodies are a run, a number and when it was made, so that readers see by themselves what is lost, doubled or out of order.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

import bus
from bus.clock import SystemClock
from bus.errors import BusError
from bus.hub.collecting import leave_what_is_here
from bus.metrics.sources import plain

HEAD = struct.Struct(">IIQ")
FILLED_WITH = b"said so that all can read it; "
"""Run, number, and nanoseconds of the clock that all processes of a machine share."""
TENTH = 10


def say(**document: Any) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


def described(error: BaseException) -> dict[str, Any]:
    fields = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float)}
    return {"type": type(error).__name__, "text": str(error), **fields, "at_ns": time.monotonic_ns()}


def word_of(error: BaseException) -> str:
    facts = described(error)
    return f"{facts['type']} {facts.get('reason') or facts.get('code') or ''}".strip()


class Tell:
    """A file for what has happened, line by line, if there is one."""

    def __init__(self, file: str | None) -> None:
        self._file = None if file is None else os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, run: int, number: int) -> None:
        if self._file is not None:
            os.write(self._file, f"{what} {run} {number}\n".encode())


def footprint() -> dict[str, Any]:
    """Of this process: memory in MB, processor time in seconds, descriptors."""
    with open("/proc/self/status") as status:  # noqa: PTH123  read at once, in a program of tests
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith("Vm")}
    return {
        "rss_mb": kilobytes["VmRSS"] / 1024,
        "peak_mb": kilobytes["VmHWM"] / 1024,
        "cpu": time.process_time(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  numbers, not paths
    }


class Moved:
    """Whoever waits for something to become true looks again each time when something happened."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def tell(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def until(self, is_true: Callable[[], bool], seconds: float) -> None:
        with anyio.fail_after(seconds):
            while not is_true():
                if self._event is None:
                    self._event = anyio.Event()
                await self._event.wait()


class Told:
    """What it is told to do, one thing after the other: a method each."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.stack = AsyncExitStack()
        self.tasks: anyio.abc.TaskGroup

    async def run(self) -> None:
        from bus.cli.loop import until_stopped

        async with until_stopped() as stopped, anyio.create_task_group() as self.tasks:
            async with self.stack:
                await self.begin()
                try:
                    await self._listen()
                finally:
                    await self.end()
            self.tasks.cancel_scope.cancel()
        say(ended=str(stopped.by.name if stopped.by else "stdin"))

    async def begin(self) -> None:
        """Say that it is ready."""

    async def end(self) -> None: ...

    async def _listen(self) -> None:
        waiting = b""
        while True:
            await anyio.wait_readable(0)  # a thread that reads could not be cancelled
            more = os.read(0, 1 << 16)
            if not more:
                return
            *lines, waiting = (waiting + more).split(b"\n")
            for line in lines:
                told = json.loads(line)
                try:
                    say(answer=await getattr(self, told.pop("do"))(**told))
                except (BusError, TimeoutError, ValueError, LookupError, TypeError) as error:
                    say(error=described(error))

    async def footprint(self) -> dict[str, Any]:
        return footprint()

    async def jump(self, seconds: float) -> None:
        """The date of this process is another one from now on."""
        was = SystemClock.now_ms
        SystemClock.now_ms = lambda self: was(self) + int(seconds * 1000)  # type: ignore[method-assign]  # a clock that jumps


# ---- a hub -----------------------------------------------------------------------------------------------------------------------


class HubActor(Told):
    async def begin(self) -> None:
        from bus.broker.broker import Broker
        from bus.hub import broker_apart
        from bus.hub.open import supervise

        self.followed: list[int] = []
        follow = Broker.follow

        def seen(broker: Broker, *news: Any) -> None:
            self.followed.append(time.monotonic_ns())
            follow(broker, *news)

        Broker.follow = seen  # type: ignore[method-assign]  # when news came, and nothing else
        order = self.order
        if "descriptors" in order:
            resource.setrlimit(resource.RLIMIT_NOFILE, (order["descriptors"], order["descriptors"]))
        if "program" in order:
            broker_apart.PROGRAM = order["program"]  # somebody has put another broker in place of ours
        open_hub = supervise if order.get("apart") else bus.open
        options = {"policy": order["policy"], "state": order["state"], "listen": order["listen"], "tpm": order["tpm"]}
        self.hub = await self.stack.enter_async_context(open_hub(**options, backbone=order.get("backbone")))
        say(urls=self.hub.urls, pid=os.getpid())

    async def statistics(self) -> dict[str, Any]:
        return {**await self.hub.statistics(), **footprint(), "followed": self.followed}

    async def reload(self) -> bool:
        return await self.hub.reload()

    async def room(self, limit: int | None) -> None:
        """No file of this process may grow past so many bytes; None: as large as it wants."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if limit is None else limit, resource.RLIM_INFINITY))


# ---- agents ----------------------------------------------------------------------------------------------------------------------


class Reading:
    """One subscription, and what came by it."""

    def __init__(self, subscription: Any, *, acks: str, tell: str | None, hold: bool) -> None:
        """`tell`: a file for what it was handed and what was acknowledged, in this order; it outlives a process that is killed."""
        self.subscription, self.acks = subscription, acks
        self.tell = Tell(tell)
        self.came: dict[int, set[int]] = {}
        self.counts: Counter[str] = Counter()
        self.last: dict[tuple[int, str], int] = {}
        self.waits: list[float] = []
        self.ended: dict[str, Any] | None = None
        self.acked: list[tuple[int, int]] = []
        """And not told yet."""
        self.moved = Moved()
        self.goes = anyio.Event()
        if not hold:
            self.goes.set()

    async def run(self) -> None:
        try:
            await self.goes.wait()
            async for message in self.subscription:
                await self._note(message)
                if not self.goes.is_set():
                    await self.goes.wait()
        except BusError as error:
            self.ended = described(error)
        self.moved.tell()

    async def _note(self, message: Any) -> None:
        run, number, made = HEAD.unpack_from(message.data)
        came = self.came.setdefault(run, set())
        self.counts["messages"] += 1
        self.counts["missed"] += message.missed
        self.counts["twice"] += number in came
        key = run, message.topic
        self.counts["out of order"] += number not in came and number < self.last.get(key, -1)
        self.last[key] = max(number, self.last.get(key, -1))
        came.add(number)
        self.waits.append((time.monotonic_ns() - made) / 1e6)
        self.counts["by identity"] += message.signed_by == "identity"
        self.tell.note("handed", run, number)
        if self.acks != "never":
            await self._ack(message, run, number)
        self.moved.tell()

    async def _ack(self, message: Any, run: int, number: int) -> None:
        """It is told once it is on disk; of tenths, with the tenth of them, which comes after the others."""
        self.acked.append((run, number))
        confirmed = self.acks == "confirmed" or (self.acks == "tenths" and len(self.acked) == TENTH)
        await message.ack(confirmed=confirmed)
        if confirmed:
            for one in self.acked:
                self.tell.note("acked", *one)
        if confirmed or self.acks == "each":
            self.acked.clear()


class Flow:
    """What one agent publishes on one topic."""

    def __init__(self, agent: Any, order: dict[str, Any]) -> None:
        self.agent, self.order = agent, order
        self.accepted = 0
        self.stored: dict[int, int] = {}
        self.failed: dict[str, list[int]] = {}
        self.stopped = False
        self.over = anyio.Event()
        self.moved = Moved()
        self.window = anyio.Semaphore(order["window"])
        self.tell = Tell(order.get("tell"))

    async def run(self) -> None:
        try:
            if self.order["stored"]:
                async with anyio.create_task_group() as self.tasks:
                    await self._all(self._store)
            else:
                await self._all(self._speak)
        finally:
            self.over.set()
            self.moved.tell()

    async def _all(self, send: Callable[[int, bytes], Awaitable[None]]) -> None:
        order, begun, pause = self.order, time.monotonic(), 0
        room = max(order["size"] - HEAD.size, 0)
        rest = (FILLED_WITH * (room // len(FILLED_WITH) + 1))[:room]
        for number in range(order["first"], order["first"] + order["count"]):
            if self.stopped:
                break
            if order["rate"]:
                due = begun + (number - order["first"]) / order["rate"]
                await anyio.sleep(max(due - time.monotonic(), 0))
            elif (pause := pause + 1) % 64 == 0:
                await anyio.lowlevel.checkpoint()
            body = HEAD.pack(order["run"], number, time.monotonic_ns()) + rest
            try:
                await send(number, body)
            except BusError as error:
                self.failed.setdefault(word_of(error), []).append(number)
                if not self.agent.error:
                    await anyio.lowlevel.checkpoint()
                    continue
                break

    async def _speak(self, number: int, body: bytes) -> None:
        await self.agent.publish(self.order["topic"], body, wait=self.order["wait"])
        self.accepted += 1
        self.moved.tell()

    async def _store(self, number: int, body: bytes) -> None:
        """Many on their way at a time."""
        await self.window.acquire()
        receipt = await self.agent.publish_soon(self.order["topic"], body)
        self.accepted += 1

        async def wait() -> None:
            try:
                self.stored[number] = await receipt.stored()
                self.tell.note("stored", self.order["run"], number)
            except BusError as error:
                self.failed.setdefault(word_of(error), []).append(number)
            self.window.release()
            self.moved.tell()

        self.tasks.start_soon(wait)

    def told(self) -> dict[str, Any]:
        found = {"accepted": self.accepted, "stored": sorted(self.stored), "failed": self.failed, "over": self.over.is_set()}
        return found | {"positions": len({*self.stored.values()})}


class Agents(Told):
    async def begin(self) -> None:
        self.agents: dict[str, Any] = {}
        self.hubs: dict[str, Any] = {}
        self.readings: dict[str, Reading] = {}
        self.flows: dict[int, Flow] = {}
        self.happened: dict[str, list[Any]] = {}
        self.events = Moved()
        say(pid=os.getpid())

    async def open(self, url: str | None = None, **options: Any) -> float:
        """These agents; with an address each on a link of its own, else all on the link of this process. How long that took."""
        begun, names = time.monotonic(), options.pop("names")
        state = self.order["state"]
        if url is None and not self.hubs:
            self.hubs[""] = await self.stack.enter_async_context(bus.open(state=state, join=True))
        for name in names:
            inside = self.hubs[""].agent(name) if url is None else bus.connect(url, agent=name, state=state, **options)
            self.agents[name] = await self.stack.enter_async_context(inside)
            self.happened[name] = []
            self.tasks.start_soon(self._watch, name)
        return time.monotonic() - begun

    async def _watch(self, name: str) -> None:
        async for event in self.agents[name].events():
            self.happened[name].append([type(event).__name__, time.monotonic_ns(), *map(str, event)])
            self.events.tell()

    async def close(self, name: str) -> None:
        await self.agents[name].aclose()

    # ---- reading -------------------------------------------------------------------------------------------------------------

    async def subscribe(self, name: str, pattern: str, **options: Any) -> None:
        """Read it for good, under the agent's name or `key`."""
        key = options.pop("key", name)
        acks, tell, hold = options.pop("acks", "each"), options.pop("tell", None), options.pop("hold", False)
        subscription = await self.stack.enter_async_context(self.agents[name].subscribe(pattern, **options))
        reading = self.readings[key] = Reading(subscription, acks=acks, tell=tell, hold=hold)
        self.tasks.start_soon(reading.run)

    async def hold(self, key: str, goes: bool) -> None:
        if goes:
            self.readings[key].goes.set()
        else:
            self.readings[key].goes = anyio.Event()

    async def until(self, key: str, run: int, number: int | None = None, count: int = 0, seconds: float = 60) -> dict[str, Any]:
        """Return when this number has come, or so many have; or the subscription has ended."""
        reading = self.readings[key]

        def is_here() -> bool:
            came = reading.came.get(run, ())
            return reading.ended is not None or ((number in came) if number is not None else len(came) >= count)

        await reading.moved.until(is_here, seconds)
        return self._read(reading)

    async def until_ended(self, key: str, seconds: float = 60) -> dict[str, Any]:
        reading = self.readings[key]
        await reading.moved.until(lambda: reading.ended is not None, seconds)
        return reading.ended or {}

    async def more(self, key: str, count: int, seconds: float = 60) -> None:
        """Return when so many more have come."""
        reading = self.readings[key]
        enough = reading.counts["messages"] + count
        await reading.moved.until(lambda: reading.counts["messages"] >= enough, seconds)

    async def in_all(self, key: str, count: int, seconds: float = 60) -> None:
        """Return when so many have come, whether or not some came before."""
        reading = self.readings[key]
        await reading.moved.until(lambda: reading.counts["messages"] >= count, seconds)

    async def waits(self, key: str) -> list[float]:
        """How long the messages were on their way since this was last asked, in milliseconds."""
        reading = self.readings[key]
        found, reading.waits = sorted(reading.waits), []
        return found

    def _read(self, reading: Reading) -> dict[str, Any]:
        came = {str(run): len(numbers) for run, numbers in reading.came.items()}
        facts = {"dropped": reading.subscription.dropped, "ended": reading.ended, "came": came}
        return {**dict.fromkeys(("messages", "missed", "twice", "out of order", "by identity"), 0), **reading.counts, **facts}

    async def numbers(self, key: str, run: int) -> list[int]:
        return sorted(self.readings[key].came.get(run, ()))

    async def reply(self, name: str, pattern: str) -> None:
        """To every request on this, with its body; for good."""
        asked = await self.stack.enter_async_context(self.agents[name].subscribe(pattern))

        async def answer() -> None:
            async for message in asked:
                await message.reply(message.data)

        self.tasks.start_soon(answer)

    # ---- publishing ------------------------------------------------------------------------------------------------------------

    async def request(self, name: str, topic: str, count: int, seconds: float = 20) -> int:
        """One after the other; how many were answered, each with its own."""
        right = 0
        for number in range(count):
            reply = await self.agents[name].request(topic, HEAD.pack(0, number, 0) + FILLED_WITH, timeout=seconds)
            right += HEAD.unpack_from(reply.data)[1] == number
        return right

    async def publish(self, name: str, topic: str, run: int, count: int, **options: Any) -> None:
        """Begin: `stored` waits for the disk, so many at a time; else `wait` as `Agent.publish` has it."""
        usual = {"first": 0, "rate": 0, "size": 64, "wait": None, "stored": False, "window": 256, "tell": None}
        flow = self.flows[run] = Flow(self.agents[name], {**usual, **options, "topic": topic, "run": run, "count": count})
        self.tasks.start_soon(flow.run)

    async def published(self, run: int, stop: bool = False, seconds: float = 60) -> dict[str, Any]:
        """Return when all of it was published, and is on its way no more."""
        flow = self.flows[run]
        flow.stopped = flow.stopped or stop
        with anyio.fail_after(seconds):
            await flow.over.wait()
            if flow.agent.error is None:
                with suppress(BusError):
                    await flow.agent.drain()
        return flow.told()

    async def places(self, run: int) -> dict[str, int]:
        """Where each number is stored."""
        return {str(number): position for number, position in self.flows[run].stored.items()}

    async def progress(self, run: int, count: int, seconds: float = 60) -> int:
        """Return when so many were accepted, and where they are to be stored, stored."""
        flow = self.flows[run]

        def is_so_far() -> bool:
            return flow.over.is_set() or (len(flow.stored) if flow.order["stored"] else flow.accepted) >= count

        await flow.moved.until(is_so_far, seconds)
        return flow.accepted

    async def say_once(self, name: str, topic: str, wait: str | None = None) -> int | None:
        position: int | None = await self.agents[name].publish(topic, HEAD.pack(0, 0, time.monotonic_ns()), wait=wait)
        return position

    async def until_event(self, name: str, kind: str, count: int = 1, seconds: float = 60) -> int:
        """When an event of this kind happened for so many times."""

        def found() -> list[int]:
            return [at for what, at, *_ in self.happened[name] if what == kind]

        await self.events.until(lambda: len(found()) >= count, seconds)
        return found()[count - 1]

    async def delivered(self, name: str, count: int, seconds: float = 60) -> None:
        """Return when the host of this agent was brought so many records, whether or not they were taken."""
        with anyio.fail_after(seconds):
            while self.agents[name]._host.inbox.counts["delivered"] < count:  # noqa: ASYNC110  nobody is told of these
                await anyio.sleep(0.001)

    async def until_connected(self, name: str) -> None:
        await self.agents[name]._host.connection.opened()

    # ---- telling ---------------------------------------------------------------------------------------------------------------

    async def report(self) -> dict[str, Any]:
        hosts = {id(agent._host): agent._host for agent in self.agents.values()}
        return {
            "hosts": [plain(host.statistics()) for host in hosts.values()],
            "readers": {key: self._read(one) for key, one in self.readings.items()},
            "happened": self.happened,
            **footprint(),
        }


# ---- processes -------------------------------------------------------------------------------------------------------------------


def play(order: dict[str, Any]) -> None:
    """In a process of its own."""
    os.environ.update(order.get("environ", {}))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    role, loop = order["role"], order.get("loop", "uvloop")
    if role == "command":
        from bus.cli.main import main

        sys.argv = ["tpmbus", *order["arguments"]]
        main()
        return
    roles: dict[str, Callable[[dict[str, Any]], Told]] = {"hub": HubActor, "agents": Agents}
    if role == "stranger":
        from stranger import Stranger

        roles["stranger"] = Stranger
    if role == "deceived":
        from deceived import Deceived

        roles["deceived"] = Deceived
    options = {"backend": "trio"} if loop == "trio" else {"backend_options": {"use_uvloop": loop == "uvloop"}}
    anyio.run(roles[role](order).run, **options)  # type: ignore[arg-type]  # a name and its options


def nursery(requests: socket.socket) -> None:
    """Each request is an order, with what is to be its stdin, stdout and stderr; the answer is its process id."""
    import_all()
    leave_what_is_here()  # as our own programs do
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for them
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 18, 3)
        if not data:
            return
        pid = os.fork()
        if pid:
            for descriptor in descriptors:
                os.close(descriptor)
            requests.send(str(pid).encode())
            continue
        requests.close()
        born(json.loads(data), descriptors)


def born(order: dict[str, Any], descriptors: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    random.seed()
    code = 1
    try:
        play(order)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  it must not go on as if it were its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_all() -> None:
    """What hubs, agents and the TPM service need, and what is imported late elsewhere."""
    import importlib

    for name in (
        "bus.hub.open", "bus.hub.broker_apart", "bus.hub.which_tpm", "bus.cli.main", "bus.cli.run", "bus.cli.loop",
        "bus.tpm.serving", "bus.tpm.software", "bus.tpm.esapi", "bus.tpm.swtpm", "bus.testing",
        "anyio._backends._asyncio", "anyio._backends._trio", "uvloop", "trio",
    ):  # fmt: skip
        importlib.import_module(name)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.modules["actor"] = sys.modules["__main__"]  # those who import it get this one
    if len(sys.argv) > 1:
        play(json.loads(sys.argv[1]))
    else:
        nursery(socket.socket(fileno=0))

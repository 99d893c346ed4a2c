"""What a message costs when more and more agents and subscriptions are there that have nothing to do with it.

A thousand pairs of 66 senders and 10 readers say so many a second, the same in every size; everybody else is connected, has
sessions and subscriptions, and is silent. Broker, senders, readers and the idle ones have processes of their own, with Unix
sockets between them. A size and the smallest one (76 agents, 10 subscriptions) are measured in turns, and what is compared is the
processor time of broker and active hosts for a message, pair by pair.

Real are broker, hosts, sockets, sessions, papers, signatures, encryption and policy, with every name in it. Not real: keys are
those of `bus.testing` and in no TPM, no authority enrols anybody, idle hosts have up to a hundred agents each and share two
processes, and no session is old enough to be renewed meanwhile: that is a TPM operation for 64 agents four times an hour
(docs/explanation/scale.md).

python tests/benchmarks/scale.py [--quick] [--json]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskGroup
from targets import Row, show

from bus.agent.agent import Agent
from bus.backbone.memory import memory_backbone
from bus.bench.crowd import POLICY
from bus.bench.ear import Ear, added
from bus.bench.order import Order
from bus.bench.pace import Pace
from bus.bench.processes import memory_mib
from bus.bench.record import Bodies
from bus.broker.broker import Broker
from bus.clock import SystemClock
from bus.identity.authority.statements import INTERVAL_SECONDS
from bus.identity.host import renewal
from bus.testing.memory_hub import MemoryHost
from bus.testing.policy_texts import texts_given
from bus.testing.world import World
from bus.transport.listening_links import listening

SENDERS, READERS, PAIRS = 66, 10, 1_000
AGENTS_A_HOST = 100
LEAST_HOSTS = 4
"""In each idle process, where there are few agents: a broker lets one host have no more than 16,000 subscriptions."""
IDLE_PROCESSES = 2
AT_ONCE = 16
"""Idle agents that open at the same time, in each process; and subscriptions."""
RATE = 1_000.0
LEAD_SECONDS = 0.2
PATIENCE_SECONDS = 900.0
TARGET = 1.2
IDLE_ROLE = """
roles:
  idle:
    key: ecc256/sha3-256
    subscribe: [bench.idle.>]
    key_origin: software
    environment: allow
"""
LOOPS = {"use_uvloop": True}


class Size(NamedTuple):
    agents: int
    subscriptions: int


class Effort(NamedTuple):
    sizes: Sequence[Sequence[Size]]
    """Each list grows in one bus."""
    turns: int
    seconds: float
    warm_seconds: float


FULL = Effort(([Size(176, 1_000), Size(176, 100_000)], [Size(1_000, 934), Size(10_000, 9_934)]), 3, 2.5, 3.0)
QUICK = Effort(([Size(96, 30), Size(96, 200)],), 1, 0.3, 0.3)
SMALLEST = Size(SENDERS + READERS, READERS)


# ---- what each process does ------------------------------------------------------------------------------------------------------


class Child:
    """One process, as the one sees it that asks."""

    def __init__(self, serve: Callable[..., Any], *given: Any) -> None:
        forks = multiprocessing.get_context("fork")  # what the parent has made up, all have: one authority, the same documents
        self._here, there = forks.Pipe()
        self._process = forks.Process(target=_serve, args=(serve, there, os.getpid(), *given), daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0
        self.heard()

    def tell(self, do: str, *words: Any) -> None:
        self._here.send((do, *words))

    def heard(self) -> Any:
        if not self._here.poll(PATIENCE_SECONDS):
            raise SystemExit(f"a process said nothing for {PATIENCE_SECONDS:.0f} s")
        return self._here.recv()

    def ask(self, do: str, *words: Any) -> Any:
        self.tell(do, *words)
        return self.heard()

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(serve: Callable[..., Any], asked: Connection, parent: int, *given: Any) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            answers = await serve(stack, tasks, *given)
            asked.send("ready")
            while os.getppid() == parent:  # whoever is left behind ends
                with anyio.move_on_after(1):
                    await anyio.wait_readable(asked.fileno())
                if asked.poll():
                    os.set_blocking(asked.fileno(), True)  # uvloop takes that away, and ten thousand names are no single read
                    do, *words = asked.recv()
                    asked.send(time.process_time() if do == "cpu" else await answers[do](*words))
            tasks.cancel_scope.cancel()

    anyio.run(main, backend_options=LOOPS)


async def broker(stack: AsyncExitStack, tasks: TaskGroup, world: World, url: str) -> dict[str, Any]:
    made, backbone = world.broker_materials(), memory_backbone(world.clock)
    one = Broker(
        snapshot=made.snapshot, trust=made.trust, verifier=made.verifier, memory=made.memory, clock=world.clock, backbone=backbone
    )
    made.sessions.on_change.append(lambda: [one.take_session(session) for session in made.sessions.held.values()])
    await made.sessions.open(made.holder)
    await stack.enter_async_context(listening(url, one.attach))

    async def keep_stating() -> None:
        while True:
            await anyio.sleep(INTERVAL_SECONDS)
            one.follow(world.restate(), world.documents)

    for part in (one.run, backbone.run, partial(renewal.run, made.sessions), keep_stating):
        tasks.start_soon(part)

    async def statistics() -> dict[str, Any]:
        found = one.statistics()
        return {"agents": found["agents"], "turns": found["turns"], "memory_mib": memory_mib(os.getpid())}

    return {"statistics": statistics}


async def senders(stack: AsyncExitStack, tasks: TaskGroup, world: World, url: str) -> dict[str, Any]:
    host = MemoryHost(url, world, tasks, is_apart=True)
    agents = [await stack.enter_async_context(host.agent(f"SENDER{number}")) for number in range(SENDERS)]

    async def send(order: Order) -> int:
        """Each pair its turn, by the clock."""
        pace, number = Pace(order), 0
        make = [Bodies(pair).maker(step=order.number, size=order.size) for pair in range(PAIRS)]
        async with pace.ticking() as tick:
            while number < pace.total:
                await tick()
                for due in range(number, pace.due()):
                    pair = due % PAIRS
                    await agents[pair % SENDERS].publish(topic(pair), make[pair](due // PAIRS, pace.due_ns(due)))
                    number = due + 1
        return number

    return {"send": send}


async def readers(stack: AsyncExitStack, tasks: TaskGroup, world: World, url: str) -> dict[str, Any]:
    host, ears = MemoryHost(url, world, tasks, is_apart=True), list[Ear]()
    agents = [await stack.enter_async_context(host.agent(f"READER{number}")) for number in range(READERS)]

    async def read(number: int, agent: Agent, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with agent.subscribe(f"bench.live.r{number}.>") as messages:
            task_status.started()
            async for message in messages:
                ears[number].hear(message.data)

    for number, agent in enumerate(agents):
        await tasks.start(read, number, agent)

    async def expect(order: Order) -> None:
        ears[:] = [Ear(order, time.monotonic_ns, sources=PAIRS) for _ in agents]

    async def heard(sent: int) -> dict[str, Any]:
        """When everything has come, or has had ten seconds for it."""
        until = time.monotonic() + 10
        while sum(ear.heard for ear in ears) < sent and time.monotonic() < until:  # noqa: ASYNC110  who reads has no time to tell
            await anyio.sleep(0.02)
        return added(ear.reading() for ear in ears)

    return {"expect": expect, "heard": heard}


async def idle(stack: AsyncExitStack, tasks: TaskGroup, world: World, url: str) -> dict[str, Any]:
    agents: dict[str, Agent] = {}
    hosts: list[MemoryHost] = []
    limit = anyio.Semaphore(AT_ONCE)

    async def more_agents(names: Sequence[str]) -> int:
        each = max(1, min(AGENTS_A_HOST, -(-len(names) // LEAST_HOSTS)))
        for first in range(0, len(names), each):
            hosts.append(MemoryHost(url, world, tasks, is_apart=True))
            await _together(names[first : first + each], partial(join, hosts[-1]))
        return len(agents)

    async def join(host: MemoryHost, name: str) -> None:
        agents[name] = await host.agent(name).__aenter__()  # until the process ends

    async def more_subscriptions(patterns: Sequence[str]) -> None:
        everybody = list(agents.values())
        pairs = [(everybody[number % len(everybody)], pattern) for number, pattern in enumerate(patterns)]
        await _together(pairs, lambda pair: pair[0].subscribe(pair[1]).__aenter__())

    async def _together(things: Sequence[Any], do: Callable[[Any], Any]) -> None:
        async def one(thing: Any) -> None:
            async with limit:
                await do(thing)

        async with anyio.create_task_group() as group:
            for thing in things:
                group.start_soon(one, thing)

    return {"agents": more_agents, "subscriptions": more_subscriptions}


def topic(pair: int) -> str:
    return f"bench.live.r{pair % READERS}.p{pair}"


# ---- a bus, and its sizes --------------------------------------------------------------------------------------------------------


class Spent(NamedTuple):
    """For one window: microseconds of processor time a message; of the idle ones, in hundredths of a processor."""

    broker: float
    hosts: float
    idle_percent: float
    together: float
    """Messages of a turn: 1 where each left alone, more where a busy machine made them wait for each other, and so cost less."""

    @property
    def message(self) -> float:
        return self.broker + self.hosts


class Bus:
    def __init__(self, world: World, folder: Path) -> None:
        url = f"unix://{folder}/bus.sock"
        folder.mkdir(mode=0o700)
        self.broker, self.readers, self.senders = (Child(serve, world, url) for serve in (broker, readers, senders))
        self.idle = [Child(idle, world, url) for _ in range(IDLE_PROCESSES)]
        self.size, self._number = SMALLEST, 0

    def grow(self, size: Size) -> None:
        names = [f"IDLE{number}" for number in range(self.size.agents, size.agents)]
        patterns = [f"bench.idle.s{number}.>" for number in range(self.size.subscriptions, size.subscriptions)]
        for do, what in (("agents", names), ("subscriptions", patterns)):
            for place, child in enumerate(self.idle):
                child.tell(do, what[place::IDLE_PROCESSES])
            for child in self.idle:
                child.heard()
        self.size = size

    def window(self, seconds: float) -> Spent:
        self._number += 1
        begin_ns = time.monotonic_ns() + round(LEAD_SECONDS * 1e9)
        order = Order(self._number, RATE, begin_ns, 0.0, seconds, 256)
        self.readers.ask("expect", order)
        before, turns, began = self._spent(), self.broker.ask("statistics")["turns"], time.monotonic()
        sent = self.senders.ask("send", order)
        found = self.readers.ask("heard", sent)
        after, passed = self._spent(), time.monotonic() - began
        turns = self.broker.ask("statistics")["turns"] - turns
        if found["delivered"] != sent or found["duplicated"] or found["reordered"]:
            wrong = f"{found['duplicated']} twice, {found['reordered']} out of order"
            raise SystemExit(f"of {sent} messages {found['delivered']} came, {wrong}")
        broker_, readers_, senders_, *idle_ = (later - earlier for earlier, later in zip(before, after, strict=True))
        return Spent(broker_ / sent * 1e6, (readers_ + senders_) / sent * 1e6, 100 * sum(idle_) / passed, sent / max(turns, 1))

    def _spent(self) -> list[float]:
        return [child.ask("cpu") for child in (self.broker, self.readers, self.senders, *self.idle)]

    def end(self) -> None:
        for child in (self.senders, self.readers, *self.idle, self.broker):
            child.end()


def measured(effort: Effort) -> Iterator[dict[str, Any]]:
    """Size by size: what a message cost there, and in the smallest one beside it."""
    with _folder() as folder:
        smallest = Bus(_world(SMALLEST), folder / "smallest")
        smallest.window(effort.warm_seconds)
        for number, sizes in enumerate(effort.sizes):
            bus = Bus(_world(sizes[-1]), folder / f"{number}")
            for size in sizes:
                began = time.monotonic()
                bus.grow(size)
                setup = time.monotonic() - began
                bus.window(effort.warm_seconds)
                yield _beside(smallest, bus, effort) | {"setup_seconds": setup}
            bus.end()
        smallest.end()


def _world(size: Size) -> World:
    """With all names that will be there in its policy: the active ones in the harness's role, the others in one of their own."""
    active = [*(f"SENDER{number}" for number in range(SENDERS)), *(f"READER{number}" for number in range(READERS))]
    others = [f"IDLE{number}" for number in range(SMALLEST.agents, size.agents)]
    policy = POLICY.read_text().replace("\nroles:\n", IDLE_ROLE)
    return World(texts_given(policy, dict.fromkeys(active, "bench") | dict.fromkeys(others, "idle")), SystemClock())


def _beside(smallest: Bus, bus: Bus, effort: Effort) -> dict[str, Any]:
    pairs: list[tuple[Spent, Spent]] = []
    for turn in range(effort.turns):
        if turn % 2:
            few = smallest.window(effort.seconds)
            pairs.append((few, bus.window(effort.seconds)))
        else:
            many = bus.window(effort.seconds)
            pairs.append((smallest.window(effort.seconds), many))
    statistics = bus.broker.ask("statistics")
    return {
        **bus.size._asdict(),
        "agents_there": statistics["agents"],
        "ratios": [many.message / few.message for few, many in pairs],
        "broker_ratios": [many.broker / few.broker for few, many in pairs],
        "message_us": [many.message for _, many in pairs],
        "smallest_us": [few.message for few, _ in pairs],
        "broker_us": [many.broker for _, many in pairs],
        "together": [many.together for _, many in pairs],
        "smallest_together": [few.together for few, _ in pairs],
        "idle_percent": [many.idle_percent for _, many in pairs],
        "broker_mib": statistics["memory_mib"],
    }


@contextmanager
def _folder() -> Iterator[Path]:
    """In /tmp, because a socket's path is short."""
    folder = Path(tempfile.mkdtemp(prefix="tb", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _row(found: dict[str, Any]) -> Row:
    what = f"{found['agents']:,} agents, {found['subscriptions']:,} subscriptions: a message / in the smallest"
    return Row(what, sorted(found["ratios"])[len(found["ratios"]) // 2], "x", TARGET)


if __name__ == "__main__":
    rows = []
    for one in measured(QUICK if "--quick" in sys.argv else FULL):
        rows.append(_row(one))
        print(json.dumps(one), flush=True)
    if "--json" not in sys.argv:
        show(f"what a message costs, at {RATE:,.0f} a second over {PAIRS:,} pairs", rows)

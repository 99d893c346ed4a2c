"""The processes of one run, from their start to their end: TPM service, hub, and whoever sends and hears.

All of a run stay for all its steps, so that a step meets a bus that is warm. The next run has new ones: what differs between two
starts is part of the spread.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from bus.bench import processes, west
from bus.bench.figures import Around, step_of
from bus.bench.mixed import reference
from bus.bench.order import Order
from bus.bench.part import Part, at_the_gateway, names, share_out
from bus.bench.peers.nats import serve
from bus.bench.programs import NATS_SERVER, program
from bus.bench.scenario import Scenario
from bus.bench.step import Step
from bus.errors import ConnectError, TpmUnavailableError
from bus.fleet.children import Child
from bus.hub.household import alone
from bus.hub.own_program import own_program
from bus.hub.state import State, holder_of
from bus.hub.tpm_process import named_policy, stop_service
from bus.tpm.serving import READY

POLICY: Final = Path(__file__).parent / "policy.yaml"
LEAD_SECONDS: Final = 0.15
"""From the order to the first message, so that everybody has heard it."""
LOOK_SECONDS: Final = 0.25
REST_LOOK_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 2.0
"""After the last message, while nothing more comes: what is missing then is lost."""
RESTART_SECONDS: Final = 15.0
"""The same, where a broker has to be started again first."""
OPERATIONS_IN_A_ROW: Final = 3
"""Of the TPM, that a message may have to wait for: one that runs, its own, and one more."""
BROKER: Final = "bus.hub.broker_program"  # what its command line says
HUB: Final = "hub"
GATEWAY: Final = "gateway"


@dataclass(frozen=True, slots=True)
class Delay:
    """What each operation of a key takes besides, in seconds."""

    ecc: float
    rsa: float


@dataclass(frozen=True, slots=True)
class Look:
    """How far a step is."""

    order: Order
    sent: int
    heard: int


class Crowd:
    """Made by `gathered`."""

    def __init__(self, state: State, scenario: Scenario, *, slow_seconds: float = 0.0) -> None:
        self._scenario, self._slow_seconds = scenario, slow_seconds
        self.states = [state]
        """Of the hub; and of the gateway, if there is one."""
        self._children: dict[str, Child] = {}
        self._pids: dict[str, int] = {"bench": os.getpid()}
        self.servers: dict[str, int] = {}
        """Of others, that were started for this run."""
        self._number = 0
        self.harness: dict[str, float] = {}

    async def start(self, stack: AsyncExitStack, part: Part) -> dict[str, Any]:
        """A process, when it is ready; what it says then. Raises ConnectionLostError if it ends before that."""
        command = own_program("bus.bench.worker", json.dumps(part.document()))
        process = await anyio.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, start_new_session=True
        )
        if process.stdout is None:
            raise ConnectError("a process is started with a pipe")
        child = Child(process, BufferedByteReceiveStream(process.stdout))
        stack.push_async_callback(child.end)
        heard = await child.hear()
        self._children[part.name], self._pids[part.name] = child, process.pid
        self.harness = heard["harness"]
        return heard

    async def step(self, rate: float, show: Callable[[Look], None]) -> Step:
        """All of it: the order, the window, and what came of it."""
        order = await self._order(rate)
        await anyio.sleep(max((order.measure_ns - time.monotonic_ns()) / 1e9, 0))
        others = await to_thread.run_sync(self._others)
        before = await to_thread.run_sync(processes.cpu_seconds_of, others)
        await self._until_sent(order, show)
        after = await to_thread.run_sync(processes.cpu_seconds_of, others)
        await self._until_heard(order, show)
        readings = [(await child.ask("read"))["reading"] for child in self._children.values()]
        pids = {**self._pids, **others}
        memory = await to_thread.run_sync(lambda: {name: processes.memory_mib(pid) for name, pid in pids.items()})
        around = Around(memory, {name: max(after[name] - before[name], 0.0) for name in others})  # one may have been killed
        is_identity = self._scenario.delivery == "identity"
        return step_of(order, readings, around, harness=self.harness, is_identity=is_identity)

    async def _order(self, rate: float) -> Order:
        scenario, self._number = self._scenario, self._number + 1
        begin_ns = time.monotonic_ns() + round((LEAD_SECONDS + 0.01 * len(self._children)) * 1e9)
        order = Order(self._number, rate, begin_ns, scenario.warm_seconds, scenario.seconds, scenario.size, self._slow_seconds)
        for child in self._children.values():
            await child.ask("order", order=order.packed())
        return order

    async def _until_sent(self, order: Order, show: Callable[[Look], None]) -> None:
        """Until the window is over. In its middle the broker is killed, where the scenario wants that."""
        middle_ns = (order.measure_ns + order.end_ns) // 2 if self._scenario.kill_broker else order.end_ns
        while (now_ns := time.monotonic_ns()) < order.end_ns:
            if now_ns >= middle_ns:
                middle_ns = order.end_ns
                await self._kill_broker()
            show(await self._look(order))
            await anyio.sleep(min(LOOK_SECONDS, max((min(order.end_ns, middle_ns) - time.monotonic_ns()) / 1e9, 0)))

    async def _until_heard(self, order: Order, show: Callable[[Look], None]) -> None:
        """Until all that was sent has come, or nothing more comes."""
        patience = RESTART_SECONDS if self._scenario.kill_broker else PATIENCE_SECONDS
        last, until = -1, time.monotonic() + patience
        while time.monotonic() < until:
            answers = [await child.ask("look") for child in self._children.values()]
            look = _added(order, answers)
            show(look)
            is_done = all(answer["done"] for answer in answers)
            if is_done and look.heard >= sum(answer["copies"] for answer in answers):
                return
            if look.heard + look.sent != last or not is_done:
                last, until = look.heard + look.sent, time.monotonic() + patience
            await anyio.sleep(REST_LOOK_SECONDS)

    async def _look(self, order: Order) -> Look:
        return _added(order, [await child.ask("look") for child in self._children.values()])

    async def _kill_broker(self) -> None:
        for pid in await to_thread.run_sync(processes.running, self._pids[HUB], BROKER):
            os.kill(pid, signal.SIGKILL)

    def _others(self) -> dict[str, int]:
        """Processes that do not measure themselves: this one, the TPM service with its TPM, a broker of its own."""
        found = {"bench": os.getpid(), **self.servers}
        services = [pid for state in self.states if (pid := int((holder_of(state.tpm_lock) or {}).get("pid", 0)))]
        found |= {f"tpm {number + 1}" if number else "tpm": pid for number, pid in enumerate(services)}
        chips = [child for pid in services for child in processes.children(pid)]
        found |= {f"tpm chip {number + 1}": child for number, child in enumerate(chips)}
        hubs = [self._pids[name] for name in (HUB, GATEWAY) if name in self._pids] if self._scenario.kill_broker else []
        brokers = [broker for hub in hubs for broker in processes.running(hub, BROKER)]
        return found | {f"broker {number + 1}": broker for number, broker in enumerate(brokers)}


def _added(order: Order, answers: Sequence[dict[str, Any]]) -> Look:
    return Look(order, sum(answer["sent"] for answer in answers), sum(answer["heard"] for answer in answers))


@asynccontextmanager
async def gathered(state: State, scenario: Scenario, *, tpm: str | None, delay: Delay | None) -> AsyncIterator[Crowd]:
    """Raises ConnectionLostError if a process ends before it is ready; what it said of that is on stderr."""
    slow_seconds = 0.0 if delay is None else OPERATIONS_IN_A_ROW * max(delay.ecc, delay.rsa)
    crowd, is_mix = Crowd(state, scenario, slow_seconds=slow_seconds), scenario.kind == "mix"
    policy = "default" if is_mix else str(POLICY)
    shares = share_out(scenario, await to_thread.run_sync(reference) if is_mix else None)
    is_embedded, agents = scenario.transport == "embedded", names(scenario)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_tpm_service(state, policy, delay, tpm=tpm))
        url, backbone = None, None
        if scenario.transport == "nats":
            served = await stack.enter_async_context(nats_server(state))
            backbone, crowd.servers["nats-server"] = served["url"], served["pids"][0]
        if not is_embedded:
            listen = ("tls://127.0.0.1:0",) if scenario.transport == "tls" else ()
            hub = Part(
                HUB,
                str(state.folder),
                scenario,
                is_hub=True,
                policy=policy,
                agents=agents,
                tpm=tpm,
                listen=listen,
                backbone=backbone,
            )
            said = await crowd.start(stack, hub)
            url = said["urls"][0] if scenario.transport == "tls" else None
        far = at_the_gateway(shares) if scenario.transport == "nats" else {}
        if far:
            there = await west.prepared(state, sorted({name for those in far.values() for name in those}))
            crowd.states.append(there)
            await stack.enter_async_context(_tpm_service(there, named_policy(None), delay, tpm=tpm))
            await crowd.start(
                stack, Part(GATEWAY, str(there.folder), scenario, is_hub=True, policy=policy, tpm=tpm, backbone=backbone)
            )
        folders = {name: str(crowd.states[name in far].folder) for name, _ in shares}
        parts = [
            Part(name, folders[name], scenario, is_hub=is_embedded, policy=policy, agents=agents, tpm=tpm, url=url, **duties)
            for name, duties in shares
        ]
        async with alone(), anyio.create_task_group() as tasks:
            for part in parts:
                tasks.start_soon(crowd.start, stack, part)
        yield crowd


@asynccontextmanager
async def _tpm_service(state: State, policy: str, delay: Delay | None, *, tpm: str | None) -> AsyncIterator[None]:
    """A slow one; any other is started by whoever needs it first, and is stopped here."""
    if delay is not None:
        async with slow_tpm(state, policy, delay, tpm=tpm):
            yield
        return
    try:
        yield
    finally:
        await stop_service(state)


@asynccontextmanager
async def nats_server(state: State) -> AsyncIterator[Mapping[str, Any]]:
    """Its `url` and `pids`; what it keeps is in the state folder. Raises ConnectError where there is none, with what to install."""
    if await to_thread.run_sync(program, NATS_SERVER) is None:
        raise ConnectError(f"there is no {NATS_SERVER} here: your distribution has it (Debian: apt-get install {NATS_SERVER})")
    folder = state.folder / "bench-nats"
    await to_thread.run_sync(lambda: folder.mkdir(mode=0o700, exist_ok=True))
    async with serve({"folder": str(folder)}) as served:
        yield served


@asynccontextmanager
async def slow_tpm(state: State, policy: str, delay: Delay, *, tpm: str | None) -> AsyncIterator[None]:
    """The state folder's TPM service, as slow as this. Raises TpmUnavailableError if it does not start."""
    command = own_program("bus.bench.slow_tpm", str(state.folder), policy, str(delay.ecc), str(delay.rsa))
    process = await anyio.open_process([*command, *([tpm] if tpm else [])], stdout=subprocess.PIPE, stderr=None)
    try:
        if process.stdout is None or not (await _first(process.stdout)).startswith(READY):
            raise TpmUnavailableError("service_start", "the slow TPM service does not start; what it said is above")
        yield
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.terminate()
            await process.aclose()


async def _first(stream: anyio.abc.ByteReceiveStream) -> bytes:
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""

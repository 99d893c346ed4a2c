"""The bus as people use it: hub, publisher and reader in processes of their own over Unix sockets, and embedded in one.

256-byte records with distinct bodies; everything is signed, sealed, verified and judged by policy, and what arrives is counted.

python tests/benchmarks/bus_path.py [part..]      parts: rate, latency, embedded, requests, fanout, start, memory
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from targets import Row, percentile, show

import bus
from bus.bench.record import stamp_every
from bus.bench.ticking import ticks

RECORDS = 500_000
ROUNDS = 3
TICK_SECONDS = 0.0005
"""More often nobody publishes: what has become due is published together."""
PAD = os.urandom(240)
UVLOOP = {"use_uvloop": True}


def body(number: int, stamp_ns: int = 0) -> bytes:
    return number.to_bytes(8, "big") + stamp_ns.to_bytes(8, "big") + PAD


# ---- what each process does ----------------------------------------------------------------------------------------------------


async def hub(state: str, _: dict) -> None:
    async with bus.open(state=state):
        say(ready=True)
        await anyio.sleep_forever()


async def reader(state: str, order: dict) -> None:
    """Counts, and looks at every body; what is lost, doubled or out of order shows."""
    waits: list[float] = []
    gaps, last, count = 0, -1, 0
    async with bus.connect(url(state), agent="MONITOR", state=state) as agent, agent.subscribe("tasks.>") as tasks:
        say(ready=True)
        async for message in tasks:
            data = message.data
            number = int.from_bytes(data[:8], "big")
            gaps += number != last + 1
            last = number
            if not count:
                begun, cpu = time.perf_counter(), time.process_time()
            count += 1
            if stamp_ns := int.from_bytes(data[8:16], "big"):
                waits.append((time.monotonic_ns() - stamp_ns) / 1e6)
            if count == order["records"]:
                break
        took = time.perf_counter() - begun
        say(rate=count / took, cpu=(time.process_time() - cpu) / count * 1e6, gaps=gaps, waits=waits[len(waits) // 10 :])


async def publisher(state: str, order: dict) -> None:
    records, rate = order["records"], order.get("rate")
    async with bus.connect(url(state), agent="DIRECTOR", state=state) as agent:
        if rate:  # an open loop: the stamp is when it was due, so a stall counts
            begun_ns, sent, every = time.monotonic_ns() + 1_000_000, 0, stamp_every(rate)
            async with ticks(max(TICK_SECONDS, 1 / rate), begun_ns) as tick:
                while sent < records:
                    await tick()
                    due = min(records, int((time.monotonic_ns() - begun_ns) / 1e9 * rate) + 1)
                    while sent < due:
                        stamp_ns = 0 if sent % every else begun_ns + int(sent / rate * 1e9)
                        await agent.publish("tasks.build", body(sent, stamp_ns))
                        sent += 1
        elif order["how"] == "many":
            await agent.publish_many("tasks.build", (body(number) for number in range(records)))
        else:
            for number in range(records):
                await agent.publish("tasks.build", body(number))
        await agent.drain()
        say(done=True)


async def responder(state: str, _: dict) -> None:
    async with bus.connect(url(state), agent="MONITOR", state=state) as agent, agent.subscribe("plans.review") as requests:
        say(ready=True)
        async for request in requests:
            await request.reply(request.data)


async def requester(state: str, order: dict) -> None:
    waits = []
    async with bus.connect(url(state), agent="DIRECTOR", state=state) as agent:
        for number in range(order["records"]):
            begun = time.perf_counter()
            await agent.request("plans.review", body(number))
            waits.append((time.perf_counter() - begun) * 1e6)
    say(waits=waits[len(waits) // 10 :])


async def nats_responder(server: str, _: dict) -> None:
    import nats

    client = await nats.connect(server)
    requests = await client.subscribe("plans.review")
    await client.flush()
    say(ready=True)
    async for request in requests.messages:
        await request.respond(request.data)


async def nats_requester(server: str, order: dict) -> None:
    import nats

    waits, client = [], await nats.connect(server)
    for number in range(order["records"]):
        begun = time.perf_counter()
        await client.request("plans.review", body(number))
        waits.append((time.perf_counter() - begun) * 1e6)
    await client.close()
    say(waits=waits[len(waits) // 10 :])


async def first_delivery(state: str, _: dict) -> None:
    async with (
        bus.open(state=state) as here,
        here.agent("DIRECTOR") as director,
        here.agent("MONITOR") as monitor,
        monitor.subscribe("tasks.>") as tasks,
    ):
        await director.publish("tasks.build", {"ref": "main"})
        await anext(tasks)
        say(delivered=True)


# ---- rows ----------------------------------------------------------------------------------------------------------------------


def rates(state: str) -> tuple[list[Row], float]:
    found: dict[str, list[float]] = {"many": [], "loop": []}
    for _ in range(ROUNDS):
        for how, rates_of in found.items():
            rates_of.append(one_to_one(state, how=how)["rate"])
    many, loop = (statistics.median(found[how]) for how in found)
    return [
        Row("one to one, separate processes: publish_many", many, "/s", 500_000, more_is_better=True),
        Row("one to one, separate processes: publish in a loop", loop, "/s", 400_000, more_is_better=True),
    ], loop


def latency(state: str, most: float) -> list[Row]:
    rows = []
    for share in (None, 0.1, 0.5, 0.75):
        rate = 1_000 if share is None else int(share * most)
        waits = one_to_one(state, rate=rate, records=max(3 * rate, 3_000))["waits"]
        name = "1,000 a second" if share is None else f"{share:.0%} of the maximum"
        rows.append(Row(f"open loop at {name}: p50 one way", percentile(waits, 50), "ms", 0.3 if share is None else 2))
        if share is not None:
            rows.append(Row(f"open loop at {name}: p99 one way", percentile(waits, 99), "ms", 20))
    return rows


def requests(state: str) -> list[Row]:
    """In turns with nats-py and its server, which neither sign nor seal: what the machine does meanwhile happens to both."""
    ours, nats = [], []
    with started("responder", state), nats_server() as server, started("nats_responder", server):
        for _ in range(ROUNDS):
            ours.append(percentile(run("requester", state, records=2_000)["waits"], 50))
            nats.append(percentile(run("nats_requester", server, records=2_000)["waits"], 50))
    median = statistics.median(ours)
    times = statistics.median(mine / theirs for mine, theirs in zip(ours, nats, strict=True))
    return [
        Row(f"request and reply across processes: {median:.0f} us, nats-py's", times, "x", 2.0),
    ]


def starts() -> list[Row]:
    took = []
    with folder() as state:
        for _ in range(2):
            begun = time.perf_counter()
            run("first_delivery", state)
            took.append(time.perf_counter() - begun)
        stop_service(state)
    return [
        Row("start to first delivery and end, nothing on disk", took[0], "s", 6),
        Row("start to first delivery and end, again", took[1], "s", 1),
    ]


async def embedded(state: str) -> list[Row]:
    found = []
    async with bus.open(state=state) as here, here.agent("DIRECTOR") as director, here.agent("MONITOR") as monitor:
        for _ in range(ROUNDS):
            async with monitor.subscribe("tasks.>") as tasks, anyio.create_task_group() as group:
                begun = time.perf_counter()
                group.start_soon(director.publish_many, "tasks.build", map(body, range(RECORDS)))
                last = -1
                async for message in tasks:
                    number = int.from_bytes(message.data[:8], "big")
                    if number != last + 1:
                        raise SystemExit(f"{number} came after {last}")
                    last = number
                    if number == RECORDS - 1:
                        break
                found.append(RECORDS / (time.perf_counter() - begun))
    return [Row("embedded, one to one", statistics.median(found), "/s", 500_000, more_is_better=True)]


async def fan_out(state: str, readers: int = 75) -> list[Row]:
    """One publisher, 75 readers, one process; every reader gets every record."""
    names = {f"READER{number}": "operations" for number in range(readers)}
    records, got = 20_000, dict.fromkeys(names, 0)

    async def read(here: bus.Hub, name: str, ready: anyio.Event) -> None:
        async with here.agent(name) as agent, agent.subscribe("tasks.>") as tasks:
            ready.set()
            async for _ in tasks:
                got[name] += 1
                if got[name] == records:
                    return

    async with bus.open(state=state, agents=names) as here, here.agent("DIRECTOR") as director:
        async with anyio.create_task_group() as group:
            for name in names:
                ready = anyio.Event()
                group.start_soon(read, here, name, ready)
                await ready.wait()
            begun = time.perf_counter()
            await director.publish_many("tasks.build", map(body, range(records)))
        took = time.perf_counter() - begun
    if set(got.values()) != {records}:
        raise SystemExit(f"not everybody got everything: {got}")
    return [Row("one to 75 in one process, deliveries", readers * records / took, "/s", 300_000, more_is_better=True)]


async def memory(state: str, subscriptions: int = 10_000) -> list[Row]:
    """What an idle subscription takes, in agent and broker together."""
    async with bus.open(state=state) as here, here.agent("MONITOR") as monitor:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        open_ones = [monitor.subscribe(f"tasks.build.n{number}") for number in range(subscriptions)]
        for one in open_ones:
            await one.__aenter__()
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for one in open_ones:
            await one.aclose()
    return [Row("an idle subscription, agent and broker", used / subscriptions / 1024, "KiB", 4)]


# ---- processes -----------------------------------------------------------------------------------------------------------------


def one_to_one(state: str, **order: object) -> dict:
    order = {"records": RECORDS, "how": "loop", **order}
    with started("reader", state, **order) as reading, started("publisher", state, **order):
        result = json.loads(reading.stdout.readline())
    if result["gaps"]:
        raise SystemExit(f"{result['gaps']} gaps: records were lost, doubled or out of order")
    return result


@contextmanager
def started(role: str, state: str, *, program: str = __file__, **order: object) -> Iterator[subprocess.Popen]:
    """`program`: who has this role; another benchmark has others."""
    command = [sys.executable, program, "--role", role, state, json.dumps(order)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if role not in ("publisher", "requester", "nats_requester", "first_delivery"):
            process.stdout.readline()
        yield process
    finally:
        if role in ("publisher", "reader"):
            process.wait(timeout=60)
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def run(role: str, state: str, **order: object) -> dict:
    with started(role, state, **order) as process:
        return json.loads(process.stdout.readline())


@contextmanager
def nats_server() -> Iterator[str]:
    """Debian's, at a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(["nats-server", "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        while "Server is ready" not in (line := process.stderr.readline()):
            if not line:
                raise SystemExit("nats-server ended before it was ready")
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stderr.close()


@contextmanager
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as place:
        state = str(Path(place) / "state")
        yield state
        stop_service(state)


def stop_service(state: str) -> None:
    subprocess.run([sys.executable, "-m", "bus.cli.main", "tpm", "stop", "--state", state], capture_output=True, check=False)


def url(state: str) -> str:
    from bus.hub.state import bus_url, open_state

    return bus_url(open_state(Path(state)))


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def main(parts: list[str]) -> None:
    def wanted(part: str) -> bool:
        return not parts or part in parts

    rows: list[Row] = []
    with folder() as state, started("hub", state):
        if wanted("rate") or wanted("latency"):
            found, most = rates(state)
            rows += found
            if wanted("latency"):
                rows += latency(state, most)
        if wanted("requests"):
            rows += requests(state)
    with folder() as state:
        for part, measure in (("embedded", embedded), ("fanout", fan_out), ("memory", memory)):
            if wanted(part):
                rows += anyio.run(measure, state, backend_options=UVLOOP)
    if wanted("start"):
        rows += starts()
    show("the bus", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        anyio.run(globals()[sys.argv[2]], sys.argv[3], json.loads(sys.argv[4]), backend_options=UVLOOP)
    else:
        main(sys.argv[1:])

"""Durable topics as people use them: hub, publisher and reader in processes of their own over Unix sockets.

256-byte records with distinct bodies, 500 on their way to the disk at a time, every one acknowledged; what comes is looked at.
First each record is an envelope of its own, as it is unless policy says otherwise (`unit: record`), then what gathers travels
together (`unit: envelope`); each record is acknowledged by itself in both, and both are held against the same target.
The processor time of each process says what a record costs where the clock on the wall says as much of the others.

python tests/benchmarks/durable.py [records]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import deque
from pathlib import Path

import anyio
from bus_path import UVLOOP, body, folder, say, started, url
from targets import Row, show

import bus

RECORDS = 50_000
ROUNDS = 3
IN_FLIGHT = 500
POLICY = """
version: 1
agents: {ARCHITECT: lead, TESTBED: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>, logs.>]}
  worker: {key: ecc256/sha256, subscribe: [work.>, logs.>]}
topics:
  - {match: work.>, class: durable, retention: 7d, ack_wait: 5m}
  - {match: logs.>, class: durable, retention: 7d, ack_wait: 5m, unit: envelope}
"""
TOPICS = {"unit: record": "work.test.linux", "unit: envelope": "logs.test.linux"}
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


async def hub(state: str, order: dict) -> None:
    async with bus.open(policy=order["policy"], state=state):
        say(ready=True)
        await anyio.sleep_forever()


async def reader(state: str, order: dict) -> None:
    """Acknowledges each, and the last one until that is on disk."""
    records, came = order["records"], bytearray(order["records"])
    async with bus.connect(url(state), agent="TESTBED", state=state) as agent:
        async with agent.subscribe(order["topic"], durable=order["name"]) as work:
            say(ready=True)
            cpu = 0.0
            for count in range(records):
                message = await anext(work)
                if not count:
                    begun, cpu = time.perf_counter(), time.process_time()
                came[int.from_bytes(message.data[:8], "big")] += 1
                await message.ack(confirmed=count == records - 1)
            took, cpu = time.perf_counter() - begun, time.process_time() - cpu
            say(rate=records / took, cpu=cpu / records * 1e6, wrong=records - came.count(1))


async def publisher(state: str, order: dict) -> None:
    records, receipts = order["records"], deque()
    async with bus.connect(url(state), agent="ARCHITECT", state=state) as agent:
        cpu = time.process_time()
        for number in range(records):
            if len(receipts) == IN_FLIGHT:
                await receipts.popleft().stored()
            receipts.append(await agent.publish_soon(order["topic"], body(number)))
        for receipt in receipts:
            await receipt.stored()
        say(cpu=(time.process_time() - cpu) / records * 1e6)


def one_round(state: str, broker: int, *, records: int, name: str, topic: str) -> dict[str, float]:
    order = {"records": records, "name": name, "topic": topic, "program": __file__}
    with started("reader", state, **order) as reading, started("publisher", state, **order) as publishing:
        before = cpu_seconds(broker)
        read = json.loads(reading.stdout.readline())
        spent = cpu_seconds(broker) - before
        said = json.loads(publishing.stdout.readline())
    if read["wrong"]:
        raise SystemExit(f"{read['wrong']} records were lost or came twice")
    return {"rate": read["rate"], "publisher": said["cpu"], "broker": spent / records * 1e6, "reader": read["cpu"]}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def main(records: int) -> None:
    found: dict[str, list[dict[str, float]]] = {how: [] for how in TOPICS}
    with folder() as state:
        policy = Path(state).with_name("policy.yaml")
        policy.write_text(POLICY)
        with started("hub", state, program=__file__, policy=str(policy)) as keeping:
            for number in range(ROUNDS):
                for how, topic in TOPICS.items():
                    name = f"round-{number}-{topic.partition('.')[0]}"
                    found[how].append(one_round(state, keeping.pid, records=records, name=name, topic=topic))
    rows: list[Row] = []
    for how, rounds in found.items():
        median = {what: statistics.median(one[what] for one in rounds) for what in rounds[0]}
        rows.append(Row(f"durable, {how}, {IN_FLIGHT} in flight", median["rate"], "/s", 30_000, more_is_better=True))
        rows += [
            Row(f"processor time a record, {how}, {what}", median[what], "us", 1e6 / 30_000)
            for what in ("publisher", "broker", "reader")
        ]
    show("durable topics", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        anyio.run(
            {"hub": hub, "reader": reader, "publisher": publisher}[sys.argv[2]],
            sys.argv[3],
            json.loads(sys.argv[4]),
            backend_options=UVLOOP,
        )
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)

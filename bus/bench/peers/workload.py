"""What a worker does in one run: the same lines for every bus.

Sending at its most: chunk after chunk as the window allows, until the run is over. At a rate: an open loop, in which a message is
due by the clock and its latency counts from then; what is due is handed over in chunks of the same size. Asking: one request after
the other. What is read is counted by an `Ear`, as in `tpmbus bench run`, and a rate is what came between two looks at that count,
each with its own time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from bus.bench.ear import Ear, packed
from bus.bench.order import Order
from bus.bench.pace import Pace
from bus.bench.peers.contender import Ask, Send
from bus.bench.peers.credit import Credit
from bus.bench.record import Bodies
from bus.metrics.histogram import Histogram

TAIL_SECONDS: Final = 0.2
"""A sender goes on so long after the window, so that the last look of the readers is no end."""
QUIET_SECONDS: Final = 2.0
"""What has not come when nothing came for so long is lost."""
LOOK_SECONDS: Final = 0.02
ASKED_AT_ONCE: Final = 64
"""Requests between two steps of the loop, for buses whose calls block."""


@dataclass(frozen=True, slots=True)
class Run:
    order: Order
    is_open: bool
    """By the clock, at the order's rate."""
    pipe: Path | None
    window: int
    chunk: int
    readers: int


async def until(moment_ns: int) -> None:
    await anyio.sleep(max((moment_ns - time.monotonic_ns()) / 1e9, 0))


async def heard_in_window(order: Order, ears: Sequence[Ear]) -> dict[str, float]:
    await until(order.measure_ns)
    began, before = time.monotonic(), sum(ear.heard for ear in ears)
    await until(order.end_ns)
    heard = sum(ear.heard for ear in ears) - before
    return {"heard": heard, "seconds": time.monotonic() - began}


# ---- sending -------------------------------------------------------------------------------------------------------------------


async def send_all(run: Run, send: Send) -> int:
    """How many were sent."""
    await until(run.order.begin_ns)
    return await (_by_the_clock(run, send) if run.is_open else _at_its_most(run, send))


async def _at_its_most(run: Run, send: Send) -> int:
    make = Bodies(0).maker(step=run.order.number, size=run.order.size)
    chunk, sent, end_ns = run.chunk, 0, run.order.end_ns + int(TAIL_SECONDS * 1e9)
    if run.pipe is None:
        raise ValueError("who sends its most needs a window")
    credit = Credit(run.pipe, window=run.window, chunk=chunk, readers=run.readers)
    try:
        while time.monotonic_ns() < end_ns:
            await credit.room()
            await send(make(number, 0) for number in range(sent, sent + chunk))
            sent += chunk
            await checkpoint()  # some buses write in a task of their own, and some calls of others never yield
    finally:
        credit.close()
    return sent


async def _by_the_clock(run: Run, send: Send) -> int:
    order, pace, sent = run.order, Pace(run.order), 0
    make, stamp_every = Bodies(0).maker(step=order.number, size=order.size), order.stamp_every

    def bodies(first: int, end: int) -> Iterator[bytes]:
        for number in range(first, end):
            yield make(number, 0 if number % stamp_every else pace.due_ns(number))

    async with pace.ticking() as tick:
        while sent < pace.total:
            due = pace.due()
            while sent < due:
                end = min(due, sent + run.chunk)
                await send(bodies(sent, end))
                sent = end
                await checkpoint()
            await tick()
    return sent


# ---- asking --------------------------------------------------------------------------------------------------------------------


async def ask_all(run: Run, ask: Ask) -> dict[str, Any]:
    """One after the other, and what each took."""
    order, number, wrong, waits = run.order, 0, 0, Histogram()
    make = Bodies(0).maker(step=order.number, size=order.size)
    await until(order.begin_ns)
    while (began := time.monotonic_ns()) < order.end_ns:
        body = make(number, began)
        wrong += await ask(body) != body
        if began >= order.measure_ns:
            waits.add((time.monotonic_ns() - began) / 1e9)
        number += 1
        if not number % ASKED_AT_ONCE:
            await checkpoint()
    return {"asked": number, "wrong": wrong, "round_trip": packed(waits)}


# ---- reading -------------------------------------------------------------------------------------------------------------------


async def settled(ears: Sequence[Ear], sent: int) -> dict[str, Any]:
    """What all readers have got when everything has come, or nothing comes any more."""
    heard, quiet_since = -1, time.monotonic()
    while (now := sum(ear.heard for ear in ears)) < sent * len(ears) and time.monotonic() - quiet_since < QUIET_SECONDS:
        if now != heard:
            heard, quiet_since = now, time.monotonic()
        await anyio.sleep(LOOK_SECONDS)
    readings = [ear.reading() for ear in ears]
    delivered = sum(reading["delivered"] for reading in readings)
    return {
        "delivered": delivered,
        "lost": sent * len(ears) - delivered,
        "duplicated": sum(reading["duplicated"] for reading in readings),
        "reordered": sum(reading["reordered"] for reading in readings),
        "latency": readings[0]["latency"],
    }

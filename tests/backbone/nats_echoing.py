"""A gateway in a process of its own that says again what it hears: `nats_echoing.py URL SPACE`, until it is killed."""

from __future__ import annotations

import sys

import anyio

from bus.backbone.nats.connection import connect
from bus.backbone.nats.layout import Names
from bus.backbone.nats.neighbours import Neighbours
from bus.clock import SystemClock
from bus.transport.link import Link
from bus.transport.owner import nothing


def echo(link: Link) -> None:
    def say_again(frames: list[bytes]) -> None:
        for frame in frames:
            link.send(frame)

    link.start(say_again, nothing, nothing)


async def main(url: str, space: str) -> None:
    clock = SystemClock()
    connection = await connect([url], clock, tls=None, wait_seconds=10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        tasks.start_soon(Neighbours(connection, Names(space), clock, echo).run)


anyio.run(main, *sys.argv[1:])

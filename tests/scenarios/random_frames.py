"""Frames of a broker's with fields that are right in form and wrong in all else, and some that are neither."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from bus.protocol.codec import pack
from bus.protocol.frames import Frame, column


def some_bytes(random: Random, *sizes: int) -> bytes:
    return random.randbytes(random.choice(sizes or (0, 1, 40, 300)))


def a_name(random: Random) -> str:
    return random.choice(["LEAD", "PAINTER", "BROKER", "NOBODY"])


def a_pattern(random: Random) -> str:
    return random.choice(["", ">", "tasks.>", "*.*", "..", "a." * 200, "_grant.LEAD", "_reply.>", "_audit.*", ">.>", "tasks.build"])


FIELDS: dict[int, Callable[[Random], list[Any]]] = {
    Frame.OPENED: lambda r: [r.randrange(9), r.randrange(2), r.randrange(2), r.randrange(9)],
    Frame.CREDIT: lambda r: [r.choice([0, 1, 2**32 - 1]), r.choice([0, 1, 2**32 - 1])],
    Frame.STORED: lambda r: [r.randrange(5), [[some_bytes(r, 16), r.randrange(2**40)] for _ in range(r.randrange(4))]],
    Frame.SUBSCRIBED: lambda r: [r.randrange(9)],
    Frame.DELIVER: lambda r: [0, column([r.randrange(3)] * r.randrange(3)), r.randrange(3), r.randrange(2), some_bytes(r)],
    Frame.INTEREST: lambda r: [r.randrange(99), [[a_name(r), a_pattern(r), r.randrange(3)] for _ in range(r.randrange(4))]],
    Frame.ASK: lambda r: [some_bytes(r, 16, 32), some_bytes(r)],
    Frame.PAPERS: lambda r: [[pack([some_bytes(r), some_bytes(r)][: 1 + r.randrange(2)])], some_bytes(r, 0, 64)],
    Frame.TRUST: lambda r: [r.randrange(3), 40, 0, some_bytes(r, 0, 40)],
    Frame.PING: lambda r: [r.randrange(2**64)],
    Frame.PONG: lambda r: [r.randrange(9)],
    Frame.DRAIN: lambda r: [r.choice(["", "shutdown", "x y z", "revoked NOBODY"])],
    Frame.REFUSE: lambda r: [r.choice(["malformed", "busy"]), some_bytes(r, 0, 4, 16, 32)],
    Frame.AUTHORITY: lambda r: [some_bytes(r)],
}

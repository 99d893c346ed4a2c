"""One check for every kind of link: memory, Unix socket, TLS, on every event loop.

`await check_link(make_pair)` runs it; `make_pair()` gives an async context manager with both ends of a fresh link, not started. It
raises AssertionError with what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio

from bus.errors import ConnectionLostError, LocalProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.testing.link_ear import Ear, require, start, turns
from bus.testing.link_ends import ENDS
from bus.transport.link import HIGH_WATER_BYTES, MAX_BUFFERED_BYTES, Link

MakePair = Callable[[], AbstractAsyncContextManager[tuple[Link, Link]]]
PATIENCE_SECONDS = 20.0


async def check_link(make_pair: MakePair) -> None:
    """Check a kind of link."""
    for check in (*_FRAMES, *ENDS):
        async with make_pair() as (near, far):
            one, other = Ear(near), Ear(far)
            try:
                with anyio.fail_after(PATIENCE_SECONDS):
                    await check(one, other)
            except TimeoutError as error:
                raise AssertionError(f"{check.__name__.strip('_').replace('_', ' ')}: something never came") from error
            require(not one.faults and not other.faults, "; ".join(dict.fromkeys(one.faults + other.faults)))


# ---- frames ----------------------------------------------------------------------------------------------------------------------


async def _frames(one: Ear, other: Ear) -> None:
    start(one, other)
    require(
        one.link.peer.kind == other.link.peer.kind and bool(one.link.peer.address),
        "both ends are of one kind and say where they lead",
    )
    sizes = [*range(70), 4_095, 4_096, 16_384, 65_535, 65_536, 131_072, 1_000_000, 3, MAX_FRAME_BYTES, 1]
    ours = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    theirs = [bytes([255 - number % 256]) * size for number, size in enumerate(reversed(sizes))]
    for mine, yours in zip(ours, theirs, strict=True):
        one.send(mine)
        other.send(yours)
    await other.until(lambda: len(other.frames) >= len(ours))
    await one.until(lambda: len(one.frames) >= len(theirs))
    require(other.frames == ours and one.frames == theirs, "frames did not arrive as they were sent, in their order")
    for number in range(100):
        one.send(b"%d" % number)
        await other.until(lambda: len(other.frames) > len(ours))
        require(other.frames.pop() == b"%d" % number, "a frame alone did not arrive")


async def _nothing_comes_before_the_start(one: Ear, other: Ear) -> None:
    start(one)
    one.send(b"early", bytes(100_000), b"birds")
    await turns()
    one.send(b"late")
    await turns()
    other.start()
    await other.until(lambda: len(other.frames) >= 4)
    one.send(b"later")
    await other.until(lambda: len(other.frames) >= 5)
    require(other.frames == [b"early", bytes(100_000), b"birds", b"late", b"later"], "what was sent before the start is gone")
    try:
        other.start()
    except RuntimeError:
        return
    raise AssertionError("a link was started twice")


async def _what_one_turn_sends_comes_together(one: Ear, other: Ear) -> None:
    start(one, other)
    await turns()
    one.send(*(b"%d" % number for number in range(500)))
    await other.until(lambda: len(other.frames) >= 500)
    require(other.lists <= 10, f"500 small frames of one turn came in {other.lists} lists")


async def _pause(one: Ear, other: Ear) -> None:
    start(one, other)
    one.send(b"before")
    await other.until(lambda: other.frames)
    other.link.pause()
    await turns()
    one.send(*[b"while paused"] * 10)
    await turns()
    require(other.frames == [b"before"], "a paused link delivered what was sent after the pause")
    other.send(b"the other way")
    await one.until(lambda: one.frames)
    other.resume()
    other.resume()
    await other.until(lambda: len(other.frames) >= 11)
    one.send(b"after")
    await other.until(lambda: len(other.frames) >= 12)
    require(other.frames[1:] == [b"while paused"] * 10 + [b"after"], "a pause lost something")


async def _pause_from_inside(one: Ear, other: Ear) -> None:
    came: list[int] = []

    def pause() -> None:
        other.link.pause()
        came.append(len(other.frames))

    start(one)
    other.does = pause
    for number in range(3):
        one.send(b"%d" % number)
        await turns()
    other.start()
    await other.until(lambda: other.frames)
    one.send(b"more", b"and more")
    await turns()
    require(len(other.frames) == came[0], "a link that was paused as it delivered went on")
    while len(other.frames) < 5:
        before = len(other.frames)
        other.resume()
        await other.until(lambda before=before: len(other.frames) > before)  # type: ignore[misc]  # mypy cannot infer a default
    require(other.frames == [b"0", b"1", b"2", b"more", b"and more"], "a pause as it delivered lost something")


# ---- too much --------------------------------------------------------------------------------------------------------------------


async def _a_peer_that_does_not_read_for_a_while(one: Ear, other: Ear) -> None:
    start(one, other)
    require(one.link.writable and one.link.buffered == 0, "a fresh link is writable, and nothing waits")
    other.link.pause()
    sent = 0
    piece = bytes(HIGH_WATER_BYTES // 4)
    while sent < MAX_BUFFERED_BYTES // len(piece):
        if one.link.writable:
            one.send(piece)
            sent += 1
            continue
        require(one.link.buffered > HIGH_WATER_BYTES // 2, f"not writable, and {one.link.buffered} bytes wait")
        heard = one.writable
        await turns()
        if one.writable == heard:
            break  # the kernel's buffers are full as well
    require(not one.link.writable, f"{sent * len(piece)} bytes went to a peer that does not read, and the link is writable")
    other.resume()
    heard = one.writable
    await one.until(lambda: one.writable > heard)
    require(one.link.writable and one.link.buffered <= HIGH_WATER_BYTES, f"writable again, and {one.link.buffered} bytes wait")
    await other.until(lambda: len(other.frames) >= sent)
    await turns()
    require(
        one.writable == heard + 1 and one.link.buffered == 0,
        f"{one.link.buffered} bytes wait, and {one.writable} calls of on_writable",
    )


async def _a_burst(one: Ear, other: Ear) -> None:
    """More in one turn than all kernels keep."""
    start(one, other)
    other.link.pause()
    pieces = [bytes([number]) * (1 << 20) for number in range(24)]
    one.send(*pieces)
    await turns()
    waiting = one.link.buffered
    require(not one.link.writable and waiting > 4 << 20, f"of 24 MiB for one who does not read, {waiting} bytes are known to wait")
    other.resume()
    await other.until(lambda: len(other.frames) >= len(pieces))
    await one.until(lambda: one.link.writable)
    require(other.frames == pieces, "a burst did not arrive as it was sent")


async def _a_peer_that_never_reads(one: Ear, other: Ear) -> None:
    start(one, other)
    other.link.pause()
    piece = bytes(1 << 20)
    for _ in range((MAX_BUFFERED_BYTES >> 20) + 2):
        one.send(piece)
    require(
        one.link.buffered <= MAX_BUFFERED_BYTES + 2 * len(piece), f"{one.link.buffered} bytes wait for a peer that does not read"
    )
    await one.until(lambda: one.lost)
    require(isinstance(one.lost[0], ConnectionLostError), f"a peer that never reads ended a link with {one.lost[0]!r}")
    other.resume()
    await other.until(lambda: other.lost)


async def _too_large(one: Ear, other: Ear) -> None:
    start(one, other)
    one.send(b"fits", bytes(MAX_FRAME_BYTES + 1), b"too late")
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    require(isinstance(one.lost[0], LocalProtocolError), f"a frame too large ended the link with {one.lost[0]!r}")
    require(other.frames == [b"fits"], f"before a frame too large, {len(other.frames)} came")


_FRAMES = (
    _frames,
    _nothing_comes_before_the_start,
    _what_one_turn_sends_comes_together,
    _pause,
    _pause_from_inside,
    _a_peer_that_does_not_read_for_a_while,
    _a_burst,
    _a_peer_that_never_reads,
    _too_large,
)

"""One check for every kind of link: memory, Unix socket, TLS, on every event loop.

`await check_link(make_pair)` runs it; `make_pair()` gives an async context manager with both ends of a fresh link, not started. It
raises AssertionError with what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import anyio.lowlevel

from bus.errors import BusError, ClosedError, ConnectionLostError, LocalProtocolError, RemoteProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.transport.link import HIGH_WATER_BYTES, MAX_BUFFERED_BYTES, Link

MakePair = Callable[[], AbstractAsyncContextManager[tuple[Link, Link]]]
_PATIENCE_SECONDS = 20.0
_TURNS = 50
"""In which nothing happens, if nothing is to happen."""


async def check_link(make_pair: MakePair) -> None:
    """Check a kind of link."""
    for check in (
        _check_frames,
        _check_nothing_comes_before_the_start,
        _check_what_one_turn_sends_comes_together,
        _check_pause,
        _check_a_peer_that_does_not_read_for_a_while,
        _check_a_peer_that_never_reads,
        _check_closing_writes_what_was_sent,
        _check_last_words_are_heard,
        _check_closing_at_once,
        _check_both_ends_close,
        _check_the_end_before_the_start,
        _check_what_a_reader_raises,
        _check_what_the_told_raise,
        _check_too_large,
        _check_closing_from_inside,
    ):
        async with make_pair() as (near, far):
            one, other = Ear(near), Ear(far)
            try:
                with anyio.fail_after(_PATIENCE_SECONDS):
                    await check(one, other)
            except TimeoutError as error:
                raise AssertionError(f"{check.__name__.removeprefix('_check_')}: something never came") from error
            _require(not one.faults and not other.faults, "; ".join(dict.fromkeys(one.faults + other.faults)))


class Ear:
    """Hears what comes out of one end, and finds out whether it is told at the wrong time."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: list[bytes] = []
        self.lists = 0
        self.writable = 0
        self.lost: list[BusError] = []
        self.raises: Exception | None = None
        self.does: Callable[[], None] = lambda: None
        self.calls = False  # we are inside of a call to the link
        self.faults: list[str] = []
        self._changed = anyio.Event()

    def start(self) -> None:
        self.calls = True
        self.link.start(self._on_frames, self._on_lost, self._on_writable)
        self.calls = False

    def send(self, *frames: bytes) -> None:
        self.calls = True
        for frame in frames:
            self.link.send(frame)
        self.calls = False

    def close(self, *, flush: bool = True) -> None:
        self.calls = True
        self.link.close(flush=flush)
        self.calls = False

    def resume(self) -> None:
        self.calls = True
        self.link.resume()
        self.calls = False

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()

    def _on_frames(self, frames: list[bytes]) -> None:
        self._hear("frames")
        self._should(bool(frames) and all(type(frame) is bytes for frame in frames), "frames come as a list of bytes, at least one")
        self.frames += frames
        self.lists += 1
        self.does()
        if self.raises is not None:
            raise self.raises

    def _on_writable(self) -> None:
        self._hear("room to write")
        self._should(self.link.writable, "on_writable was called, and the link is not writable")
        self.writable += 1

    def _on_lost(self, reason: BusError) -> None:
        self._hear("the end")
        self._should(isinstance(reason, BusError), f"a link ends with a BusError, and not with {reason!r}")
        self._should(
            not self.link.writable and not self.link.buffered, "a link that has ended is writable, or something waits on it"
        )
        self.lost.append(reason)
        if self.raises is not None:
            raise self.raises

    def _hear(self, what: str) -> None:
        self._should(not self.calls, f"{what} came from inside a call to the link")
        self._should(not self.lost, f"{what} came after the end")
        self._changed.set()
        self._changed = anyio.Event()

    def _should(self, condition: bool, otherwise: str) -> None:
        """What a callback raises goes to the link, so it is kept for later."""
        if not condition:
            self.faults.append(otherwise)


def start(*ears: Ear) -> None:
    for ear in ears:
        ear.start()


async def turns(count: int = _TURNS) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


# ---- frames ----------------------------------------------------------------------------------------------------------------------


async def _check_frames(one: Ear, other: Ear) -> None:
    start(one, other)
    _require(
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
    _require(other.frames == ours and one.frames == theirs, "frames did not arrive as they were sent, in their order")
    for number in range(100):
        one.send(b"%d" % number)
        await other.until(lambda: len(other.frames) > len(ours))
        _require(other.frames.pop() == b"%d" % number, "a frame alone did not arrive")


async def _check_nothing_comes_before_the_start(one: Ear, other: Ear) -> None:
    start(one)
    one.send(b"early", bytes(100_000), b"birds")
    await turns()
    one.send(b"late")
    await turns()
    other.start()
    await other.until(lambda: len(other.frames) >= 4)
    one.send(b"later")
    await other.until(lambda: len(other.frames) >= 5)
    _require(other.frames == [b"early", bytes(100_000), b"birds", b"late", b"later"], "what was sent before the start is gone")
    try:
        other.start()
    except RuntimeError:
        return
    raise AssertionError("a link was started twice")


async def _check_what_one_turn_sends_comes_together(one: Ear, other: Ear) -> None:
    start(one, other)
    await turns()
    one.send(*(b"%d" % number for number in range(500)))
    await other.until(lambda: len(other.frames) >= 500)
    _require(other.lists <= 10, f"500 small frames of one turn came in {other.lists} lists")


async def _check_pause(one: Ear, other: Ear) -> None:
    start(one, other)
    one.send(b"before")
    await other.until(lambda: other.frames)
    other.link.pause()
    await turns()
    one.send(*[b"while paused"] * 10)
    await turns()
    _require(other.frames == [b"before"], "a paused link delivered what was sent after the pause")
    other.send(b"the other way")
    await one.until(lambda: one.frames)
    other.resume()
    other.resume()
    await other.until(lambda: len(other.frames) >= 11)
    one.send(b"after")
    await other.until(lambda: len(other.frames) >= 12)
    _require(other.frames[1:] == [b"while paused"] * 10 + [b"after"], "a pause lost something")


# ---- too much --------------------------------------------------------------------------------------------------------------------


async def _check_a_peer_that_does_not_read_for_a_while(one: Ear, other: Ear) -> None:
    start(one, other)
    _require(one.link.writable and one.link.buffered == 0, "a fresh link is writable, and nothing waits")
    other.link.pause()
    sent = 0
    piece = bytes(HIGH_WATER_BYTES // 4)
    while sent < MAX_BUFFERED_BYTES // len(piece):
        if one.link.writable:
            one.send(piece)
            sent += 1
            continue
        _require(one.link.buffered > HIGH_WATER_BYTES // 2, f"not writable, and {one.link.buffered} bytes wait")
        heard = one.writable
        await turns()
        if one.writable == heard:
            break  # the kernel's buffers are full as well
    _require(not one.link.writable, f"{sent * len(piece)} bytes went to a peer that does not read, and the link is writable")
    other.resume()
    heard = one.writable
    await one.until(lambda: one.writable > heard)
    _require(one.link.writable and one.link.buffered <= HIGH_WATER_BYTES, f"writable again, and {one.link.buffered} bytes wait")
    await other.until(lambda: len(other.frames) >= sent)
    await turns()
    _require(
        one.writable == heard + 1 and one.link.buffered == 0,
        f"{one.link.buffered} bytes wait, and {one.writable} calls of on_writable",
    )


async def _check_a_peer_that_never_reads(one: Ear, other: Ear) -> None:
    start(one, other)
    other.link.pause()
    piece = bytes(1 << 20)
    for _ in range((MAX_BUFFERED_BYTES >> 20) + 2):
        one.send(piece)
    _require(
        one.link.buffered <= MAX_BUFFERED_BYTES + 2 * len(piece), f"{one.link.buffered} bytes wait for a peer that does not read"
    )
    await one.until(lambda: one.lost)
    _require(isinstance(one.lost[0], ConnectionLostError), f"a peer that never reads ended a link with {one.lost[0]!r}")
    other.resume()
    await other.until(lambda: other.lost)


async def _check_too_large(one: Ear, other: Ear) -> None:
    start(one, other)
    one.send(b"fits", bytes(MAX_FRAME_BYTES + 1), b"too late")
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    _require(isinstance(one.lost[0], LocalProtocolError), f"a frame too large ended the link with {one.lost[0]!r}")
    _require(other.frames == [b"fits"], f"before a frame too large, {len(other.frames)} came")


# ---- the end ---------------------------------------------------------------------------------------------------------------------


async def _check_closing_writes_what_was_sent(one: Ear, other: Ear) -> None:
    start(one, other)
    last = [bytes(100_000), b"words"]
    one.send(*last)
    one.close()
    one.close()
    one.send(b"too late")
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    _require(other.frames == last, f"after a close, {len(other.frames)} of 2 frames came")
    _require(isinstance(one.lost[0], ClosedError), f"who closes hears {one.lost[0]!r}")
    _require(isinstance(other.lost[0], ConnectionLostError), f"the other end hears {other.lost[0]!r}")
    for ear in (one, other):
        ear.send(b"into the void")
        ear.link.pause()
        ear.resume()
        ear.close()
    await turns()
    _require(one.link.buffered == other.link.buffered == 0, "something waits on a link that has ended")


async def _check_last_words_are_heard(one: Ear, other: Ear) -> None:
    """Who says why it closes is heard, also by one who is writing."""
    start(one, other)
    await turns()
    other.send(b"refused: not_permitted")
    other.close()
    one.send(bytes(100_000))
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    _require(one.frames == [b"refused: not_permitted"], "the last words of the other end were lost")


async def _check_closing_at_once(one: Ear, other: Ear) -> None:
    start(one, other)
    other.link.pause()
    one.send(*[bytes(1 << 20)] * 8)
    await turns()
    one.close()
    one.close(flush=False)
    await one.until(lambda: one.lost)
    _require(isinstance(one.lost[0], ClosedError), f"who closes hears {one.lost[0]!r}")
    other.resume()
    await other.until(lambda: other.lost)
    _require(len(other.frames) < 8, "what waited was written after a close that flushes nothing")


async def _check_both_ends_close(one: Ear, other: Ear) -> None:
    start(one, other)
    one.send(b"good")
    other.send(b"bye")
    one.close()
    other.close()
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    await turns()
    _require(isinstance(one.lost[0], ClosedError) and isinstance(other.lost[0], ClosedError), "both closed, and one was told so")


async def _check_the_end_before_the_start(one: Ear, other: Ear) -> None:
    start(one)
    one.send(b"hello", b"and goodbye")
    one.close()
    await turns()
    other.start()
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    _require(other.frames == [b"hello", b"and goodbye"], "what came before the start was lost with the link")


async def _check_what_a_reader_raises(one: Ear, other: Ear) -> None:
    start(one, other)
    other.raises = reason = RemoteProtocolError("malformed")
    other.send(b"I must say")
    one.send(b"nonsense")
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    _require(other.lost == [reason], f"RemoteProtocolError ended the link with {other.lost[0]!r}")
    _require(one.frames == [b"I must say"], "what was sent before the fault did not arrive")
    _require(isinstance(one.lost[0], ConnectionLostError), f"the other end hears {one.lost[0]!r}")


async def _check_what_the_told_raise(one: Ear, other: Ear) -> None:
    start(one, other)
    other.raises = KeyError("a mistake of ours")
    one.send(b"something")
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    _require(other.lost[0].__cause__ is other.raises, f"a mistake in a reader was hidden behind {other.lost[0]!r}")


async def _check_closing_from_inside(one: Ear, other: Ear) -> None:
    def close() -> None:
        one.link.send(b"enough")
        one.link.close()

    one.does = close
    start(one, other)
    other.send(b"one")
    await one.until(lambda: one.frames)
    other.send(b"two")
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    _require(one.frames == [b"one"], "something came after the close")
    _require(other.frames == [b"enough"], "what was sent before the close did not arrive")
    _require(isinstance(one.lost[0], ClosedError), f"who closes hears {one.lost[0]!r}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)

"""The part of `check_link` that ends links: who hears what then, and that nothing that was said before is lost."""

from __future__ import annotations

from bus.errors import ClosedError, ConnectionLostError, RemoteProtocolError
from bus.testing.link_ear import Ear, require, start, turns


async def closing_writes_what_was_sent(one: Ear, other: Ear) -> None:
    start(one, other)
    last = [bytes(100_000), b"words"]
    one.send(*last)
    one.close()
    one.close()
    one.send(b"too late")
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    require(other.frames == last, f"after a close, {len(other.frames)} of 2 frames came")
    require(isinstance(one.lost[0], ClosedError), f"who closes hears {one.lost[0]!r}")
    require(isinstance(other.lost[0], ConnectionLostError), f"the other end hears {other.lost[0]!r}")
    for ear in (one, other):
        ear.send(b"into the void")
        ear.link.pause()
        ear.resume()
        ear.close()
    await turns()
    require(one.link.buffered == other.link.buffered == 0, "something waits on a link that has ended")


async def last_words_are_heard(one: Ear, other: Ear, *, gap: int = 0) -> None:
    """Who says why it closes is heard, also by one who is writing."""
    start(one, other)
    await turns()
    other.send(b"refused: not_permitted")
    other.close()
    one.link.pause()
    await turns(gap)
    for _ in range(5):
        one.send(bytes(1_000_000))
        await turns(1)
    one.resume()
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    require(one.frames == [b"refused: not_permitted"], "the last words of the other end were lost")


async def last_words_are_heard_a_turn_later(one: Ear, other: Ear) -> None:
    await last_words_are_heard(one, other, gap=2)


async def last_words_of_one_who_does_not_listen(one: Ear, other: Ear) -> None:
    """Nor does the other end, for a while."""
    start(one, other)
    one.link.pause()
    other.link.pause()
    other.send(bytes(1_000_000))
    await turns()
    said = [bytes(1_000_000)] * 3 + [b"refused: busy"]
    one.send(*said)
    one.close()
    await turns()
    other.resume()
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    require(other.frames == said, "what was said before a close was lost with what had not been read")


async def closing_at_once(one: Ear, other: Ear) -> None:
    start(one, other)
    other.link.pause()
    one.send(*[bytes(1 << 20)] * 8)
    await turns()
    one.close()
    one.close(flush=False)
    await one.until(lambda: one.lost)
    require(isinstance(one.lost[0], ClosedError), f"who closes hears {one.lost[0]!r}")
    other.resume()
    await other.until(lambda: other.lost)
    require(len(other.frames) < 8, "what waited was written after a close that flushes nothing")


async def both_ends_close(one: Ear, other: Ear) -> None:
    start(one, other)
    one.send(b"good")
    other.send(b"bye")
    one.close()
    other.close()
    await one.until(lambda: one.lost)
    await other.until(lambda: other.lost)
    await turns()
    require(isinstance(one.lost[0], ClosedError) and isinstance(other.lost[0], ClosedError), "both closed, and one was told so")


async def the_end_before_the_start(one: Ear, other: Ear) -> None:
    start(one)
    one.send(b"hello", b"and goodbye")
    one.close()
    await turns()
    other.start()
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    require(other.frames == [b"hello", b"and goodbye"], "what came before the start was lost with the link")


async def closing_before_the_start(one: Ear, other: Ear) -> None:
    start(one)
    one.send(b"hello")
    await turns()
    other.close()
    await turns()
    other.start()
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    require(not other.frames and isinstance(other.lost[0], ClosedError), f"after its own close, an end hears {other.lost[0]!r}")


async def what_a_reader_raises(one: Ear, other: Ear) -> None:
    start(one, other)
    other.raises = reason = RemoteProtocolError("malformed")
    other.send(b"I must say")
    one.send(b"nonsense")
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    require(other.lost == [reason], f"RemoteProtocolError ended the link with {other.lost[0]!r}")
    require(one.frames == [b"I must say"], "what was sent before the fault did not arrive")
    require(isinstance(one.lost[0], ConnectionLostError), f"the other end hears {one.lost[0]!r}")


async def what_the_told_raise(one: Ear, other: Ear) -> None:
    start(one, other)
    other.raises = KeyError("a mistake of ours")
    one.send(b"something")
    await other.until(lambda: other.lost)
    await one.until(lambda: one.lost)
    require(other.lost[0].__cause__ is other.raises, f"a mistake in a reader was hidden behind {other.lost[0]!r}")


async def closing_from_inside(one: Ear, other: Ear) -> None:
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
    require(one.frames == [b"one"], "something came after the close")
    require(other.frames == [b"enough"], "what was sent before the close did not arrive")
    require(isinstance(one.lost[0], ClosedError), f"who closes hears {one.lost[0]!r}")


ENDS = (
    closing_writes_what_was_sent,
    last_words_are_heard,
    last_words_are_heard_a_turn_later,
    last_words_of_one_who_does_not_listen,
    closing_at_once,
    both_ends_close,
    the_end_before_the_start,
    closing_before_the_start,
    what_a_reader_raises,
    what_the_told_raise,
    closing_from_inside,
)

"""The conformance check is a check: each link here is broken in one way, and each is found out."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest

from bus.errors import ClosedError, ConnectionLostError
from bus.testing import check_link, link_check
from bus.transport.link import Peer
from bus.transport.memory import MemoryLink
from bus.transport.soon import scheduler, soon

pytestmark = pytest.mark.anyio


class DropsAFrame(MemoryLink):
    def send(self, frame):
        if frame != b"42":
            super().send(frame)


class MixesUpTheOrder(MemoryLink):
    def _turn(self):
        self.inbox.reverse()
        super()._turn()


class GivesViews(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        super().start(lambda frames: on_frames([memoryview(frame) for frame in frames]), on_lost, on_writable)


class GivesThemOneByOne(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        super().start(lambda frames: [on_frames([frame]) for frame in frames] and None, on_lost, on_writable)


class IgnoresAPause(MemoryLink):
    def pause(self):
        pass


class ForgetsWhatCameWhilePaused(MemoryLink):
    def resume(self):
        self.inbox, self.inbox_bytes = [], 0
        super().resume()


class IsAlwaysWritable(MemoryLink):
    @property
    def writable(self):
        return True

    @writable.setter
    def writable(self, value):
        pass


class NeverSaysThatItIsWritable(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        super().start(on_frames, on_lost, lambda: None)


class TakesAnyAmount(MemoryLink):
    def _is_too_much(self, size):
        self.writable = False


class DeliversAtOnce(MemoryLink):
    def send(self, frame):
        super().send(frame)
        self.other._turn()


class CannotBeClosedInPeace(MemoryLink):
    def close(self, *, flush=True):
        super().close(flush=False)


class FlushesWhateverItIsTold(MemoryLink):
    def close(self, *, flush=True):
        super().close()


class TellsOfTheEndTwice(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        def twice(reason):
            on_lost(reason)
            soon(lambda: on_lost(reason))

        super().start(on_frames, twice, on_writable)


class TellsOfTheEndFromInside(MemoryLink):
    def close(self, *, flush=True):
        super().close(flush=flush)
        self._turn()


class TellsTheWrongEnd(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        def lost(reason):
            on_lost(ConnectionLostError("lost") if isinstance(reason, ClosedError) else reason)

        super().start(on_frames, lost, on_writable)


class HidesMistakes(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        def lost(reason):
            reason.__cause__ = None
            on_lost(reason)

        super().start(on_frames, lost, on_writable)


class StartsTwice(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        self._owner = None
        super().start(on_frames, on_lost, on_writable)


class ForgetsWhatCameBeforeTheStart(MemoryLink):
    def start(self, on_frames, on_lost, on_writable):
        self.inbox, self.inbox_bytes = [], 0
        super().start(on_frames, on_lost, on_writable)


BROKEN = [
    DropsAFrame, MixesUpTheOrder, GivesViews, GivesThemOneByOne, IgnoresAPause, ForgetsWhatCameWhilePaused, IsAlwaysWritable,
    NeverSaysThatItIsWritable, TakesAnyAmount, DeliversAtOnce, CannotBeClosedInPeace, FlushesWhateverItIsTold, TellsOfTheEndTwice,
    TellsOfTheEndFromInside, TellsTheWrongEnd, HidesMistakes, StartsTwice, ForgetsWhatCameBeforeTheStart,
]  # fmt: skip


def pairs_of(kind):
    @asynccontextmanager
    async def make():
        peer = Peer("memory", "memory:", uid=os.getuid(), pid=os.getpid())
        near, far = kind(peer, scheduler()), kind(peer, scheduler())
        near.other, far.other = far, near
        yield near, far

    return make


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_link_is_found_out(broken, monkeypatch):
    monkeypatch.setattr(link_check, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(AssertionError):
        await check_link(pairs_of(broken))


async def test_a_good_link_passes():
    await check_link(pairs_of(MemoryLink))

"""A backbone on this machine's disk: STATE/journal, one process at a time.

    lock          who has it
    state.db      consumers, retention classes, the list of dead letters
    grants.db     grants and papers of senders
    segments/     the envelopes

What was acknowledged is on the disk. A process can be killed at any instant; the next one finds all that was acknowledged, and
perhaps the last thing that was not.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import current_token

from bus.backbone import sqlite_file
from bus.backbone.class_log import RING_BYTES
from bus.backbone.grants_file import GrantsFile
from bus.backbone.interface import DEDUPLICATION_MS, Backbone
from bus.backbone.local import LocalBackbone
from bus.backbone.segment import Segment
from bus.backbone.shelf import SEGMENT_BYTES, Shelf
from bus.backbone.state_file import StateFile
from bus.backbone.storage import Block, Commit, Loaded, Outline
from bus.backbone.writer import Wake, Writer
from bus.clock import Clock
from bus.errors import StateInUseError
from bus.flow.retention import Retention

MAX_RECENT: Final = 1 << 18
"""Records of which it is remembered after a start that they were stored: many more than their senders send again."""

LOCK: Final = "lock"
STATE: Final = "state.db"
GRANTS: Final = "grants.db"
SEGMENTS: Final = "segments"


async def open_journal(folder: Path, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES, ring_bytes: int = RING_BYTES) -> Backbone:
    """Run its `run`, and close it at the end.

    Raises StateInUseError(pid), BackboneError: "damaged", "version", "disk", "disk_full".
    """
    token: Any = current_token().native_token
    wake: Wake = token.run_sync_soon if hasattr(token, "run_sync_soon") else token.call_soon_threadsafe
    files = await to_thread.run_sync(lambda: Files(folder, segment_bytes=segment_bytes))
    try:
        loaded = await to_thread.run_sync(lambda: files.load(since_ms=clock.now_ms() - DEDUPLICATION_MS))
        return LocalBackbone(JournalStorage(files, wake), clock, loaded, ring_bytes=ring_bytes)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(files.close)
        raise


def kept_in(folder: Path, *, now_ms: int) -> int:
    """How many messages lie in the journal of this folder that somebody may still read; a few more at most. Blocks.

    Raises StateInUseError(pid), BackboneError.
    """
    if not (folder / SEGMENTS).is_dir():
        return 0
    with sqlite_file.faults(folder):
        lock = _lock(folder / LOCK)
    try:
        shelf = Shelf(folder / SEGMENTS)
        try:
            return sum(one.last - one.first + 1 for _, one in shelf.ranges() if one.until_ms > now_ms)
        finally:
            shelf.close()
    finally:
        os.close(lock)


class Files:
    """All files of a journal, open and locked."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        segments = folder / SEGMENTS
        with sqlite_file.faults(folder):
            segments.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._lock = _lock(folder / LOCK)
        self._closers: list[Callable[[], None]] = [lambda: os.close(self._lock)]
        try:
            with sqlite_file.faults(folder / STATE):
                self.state = StateFile(folder / STATE)
                self._closers.append(self.state.close)
            with sqlite_file.faults(folder / GRANTS):
                self.grants = GrantsFile(folder / GRANTS)
                self._closers.append(self.grants.close)
            self.shelf = Shelf(segments, segment_bytes=segment_bytes)
            self._closers.append(self.shelf.close)
        except BaseException:
            self.close()
            raise

    def load(self, *, since_ms: int) -> Loaded:
        with sqlite_file.faults(self.state.path):
            classes, consumers, dead, heads = self.state.classes(), self.state.consumers(), self.state.dead(), self.state.heads()
        with sqlite_file.faults(self.grants.path):
            kept = self.grants.kept()
        for name, head in self.shelf.heads().items():
            heads[name] = max(heads.get(name, (0, 0)), head)
        for row in consumers:  # a segment that was moved away must not bring positions back that somebody has seen
            position, stored_ms = heads.get(row.class_, (0, 0))
            heads[row.class_] = max(position, row.cursor - 1), stored_ms
        recent = self.shelf.recent(since_ms=since_ms, most=MAX_RECENT)
        return Loaded(heads, classes, consumers, dead, recent, kept)

    def retire(self, retention: Retention) -> list[Segment]:
        """In the writing thread: what may go leaves the list, and where its classes were is written down before it is removed."""
        heads = self.shelf.heads()
        ended = self.shelf.retire(retention)
        if ended:
            with sqlite_file.faults(self.state.path):
                self.state.write_heads({name: heads[name] for segment in ended for name in segment.ranges})
        with sqlite_file.faults(self.grants.path):
            self.grants.drop(retention.passed_ms)
        return ended

    def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        with sqlite_file.faults(self.grants.path):
            return self.grants.grants_for(epoch, reader)

    def papers_for(self, session: bytes) -> bytes | None:
        with sqlite_file.faults(self.grants.path):
            return self.grants.papers_for(session)

    def kept(self) -> dict[str, int]:
        with sqlite_file.faults(self.grants.path):
            return self.grants.kept()

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()


class JournalStorage:
    """Implements `storage.Storage`."""

    def __init__(self, files: Files, wake: Wake) -> None:
        self._files, self._shelf = files, files.shelf
        self._writer = Writer(files.shelf, files.state, files.grants, wake=wake)
        self._reading, self._tidying = CapacityLimiter(1), CapacityLimiter(1)
        self._commits_before = 0

    def submit(self, commit: Commit) -> None:
        self._writer.submit(commit)

    async def read(self, class_: str, position: int) -> list[Block]:
        return await to_thread.run_sync(self._shelf.read, class_, position, limiter=self._reading)

    async def outlines(self, class_: str, position: int) -> list[Outline]:
        return await to_thread.run_sync(self._shelf.outlines, class_, position, limiter=self._reading)

    async def first_at(self, class_: str, time_ms: int) -> int | None:
        return await to_thread.run_sync(self._shelf.first_at, class_, time_ms, limiter=self._reading)

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        return await to_thread.run_sync(self._files.grants_for, epoch, reader, limiter=self._reading)

    async def papers_for(self, session: bytes) -> bytes | None:
        return await to_thread.run_sync(self._files.papers_for, session, limiter=self._reading)

    async def kept(self) -> dict[str, int]:
        return await to_thread.run_sync(self._files.kept, limiter=self._reading)

    async def drop(self, retention: Retention) -> None:
        ended = await self._writer.call(lambda: self._files.retire(retention))
        await to_thread.run_sync(self._shelf.forget, ended, limiter=self._reading)
        await to_thread.run_sync(self._shelf.remove, ended, limiter=self._tidying)

    async def tidy(self) -> None:
        idle, self._commits_before = self._commits_before == self._writer.commits, self._writer.commits
        if self._shelf.untidy(idle=idle):
            await to_thread.run_sync(lambda: self._shelf.tidy(idle=idle), limiter=self._tidying)

    def statistics(self) -> dict[str, int]:
        return {"commits": self._writer.commits, **self._shelf.statistics()}

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._files.close()


def _lock(path: Path) -> int:
    """The lock, until its descriptor is closed or the process dies. Raises StateInUseError, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0)
        os.close(descriptor)
        step = f"it has {path.parent} open: try again when it has ended"
        raise StateInUseError(int(holder) if holder.isdigit() else 0, "", step=step) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

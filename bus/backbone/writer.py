"""The one thread that writes a journal: it takes all commits that gathered while it wrote the last ones, and writes them as one.

That is the whole of group commit. First blocks, which most wait for; whoever waits for blocks alone is told as
soon as they are on disk. Then grants, then state. A commit that fails fails alone: what comes later is tried anew, so that a disk
that was full goes on by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from bus.backbone import sqlite_file
from bus.backbone.grants_file import GrantsFile
from bus.backbone.shelf import Shelf
from bus.backbone.state_file import StateFile
from bus.backbone.storage import Commit
from bus.errors import BackboneError, BusError, ClosedError, twin

T = TypeVar("T")
PATIENCE_SECONDS: Final = 0.01
"""How long acknowledgements that nobody waits for wait for company."""
_JOIN_SECONDS: Final = 60.0

Wake = Callable[[Callable[[], object]], object]
"""Have something run in the event loop; from any thread."""


class _Call:
    """Something else to be done between commits."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.over = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    def __init__(self, shelf: Shelf, state: StateFile, grants: GrantsFile, *, wake: Wake) -> None:
        self._shelf, self._state, self._grants, self._wake = shelf, state, grants, wake
        self._changed = threading.Condition()
        self._waiting: list[Commit | _Call] = []
        self._closing = False
        self.commits = 0
        """Transactions with blocks in them."""
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, commit: Commit) -> None:
        self._put(commit)

    async def call(self, function: Callable[[], T]) -> T:
        """Run it in the thread, after what was submitted before."""
        call = _Call(function)
        self._put(call)
        await call.over.wait()
        if call.error is not None:
            raise twin(call.error) if isinstance(call.error, BusError) else call.error
        result: T = call.result
        return result

    def close(self) -> None:
        """Write what waits, and end. Blocks until it has."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_JOIN_SECONDS)

    def _put(self, job: Commit | _Call) -> None:
        with self._changed:
            if self._closing:
                raise ClosedError("the journal is closed")
            self._waiting.append(job)
            self._changed.notify()

    # ---- in the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._closing and all(isinstance(job, Commit) and job.is_patient for job in self._waiting):
                    self._changed.wait(PATIENCE_SECONDS)
                jobs, self._waiting = self._waiting, []
            if not jobs:
                return
            self._write([job for job in jobs if isinstance(job, Commit)])
            for job in jobs:
                if isinstance(job, _Call):
                    self._work(job)

    def _write(self, commits: Sequence[Commit]) -> None:
        self._write_blocks(commits)
        early, rest = _told_early(commits)
        self._tell(early)
        grants = [commit for commit in rest if (commit.grants or commit.papers) and commit.error is None]
        changes = [commit for commit in rest if commit.changes is not None and commit.error is None]
        if grants:
            _attempt(grants, self._grants.path, lambda: self._write_grants(grants))
        if changes:
            _attempt(
                changes, self._state.path, lambda: self._state.write([one.changes for one in changes if one.changes is not None])
            )
        self._tell(rest)

    def _write_blocks(self, commits: Sequence[Commit]) -> None:
        lanes: dict[int, list[Commit]] = {}
        for commit in commits:
            for lane in {block.lane: None for block in commit.blocks}:
                lanes.setdefault(lane, []).append(commit)
        for lane, those in lanes.items():
            blocks = [block for commit in those for block in commit.blocks if block.lane == lane]
            self.commits += 1
            if not _attempt(those, self._shelf.folder, lambda: self._shelf.write(lane, blocks)):  # noqa: B023  called at once
                for commit in those:
                    commit.failed += [block for block in commit.blocks if block.lane == lane]

    def _write_grants(self, commits: Sequence[Commit]) -> None:
        grants = [grant for commit in commits for grant in commit.grants]
        self._grants.write(grants, [papers for commit in commits for papers in commit.papers])

    def _work(self, call: _Call) -> None:
        try:
            call.result = call.function()
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the caller's to hear
            call.error = error
        self._in_loop(call.over.set)

    def _tell(self, commits: Sequence[Commit]) -> None:
        """Each what became of it, in order, in one step of the loop."""

        def tell() -> None:
            for commit in commits:
                commit.done(commit.error)

        if commits:
            self._in_loop(tell)

    def _in_loop(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and who waited with it (trio.RunFinishedError is one too)
            self._wake(function)


def _told_early(commits: Sequence[Commit]) -> tuple[list[Commit], list[Commit]]:
    """Those whose blocks are all they have, before the first that has more beside blocks: blocks must be told of in order."""
    early: list[Commit] = []
    rest: list[Commit] = []
    mixed = False
    for commit in commits:
        mixed = mixed or bool(commit.blocks and not commit.is_blocks_alone)
        (early if commit.is_blocks_alone and not mixed else rest).append(commit)
    return early, rest


def _attempt(commits: Sequence[Commit], path: Path, write: Callable[[], None]) -> bool:
    """Whether it went well; each commit has the error otherwise. The thread lives on, whatever it is."""
    try:
        with sqlite_file.faults(path):
            write()
    except BusError as error:
        found = error if isinstance(error, BackboneError) else BackboneError("disk", str(error), path=str(path))
    except Exception as error:  # noqa: BLE001  see above
        found = BackboneError("disk", f"{path} could not be written: {error!r}", path=str(path))
        found.__cause__ = error
    else:
        return True
    for commit in commits:
        commit.error = commit.error or found
    return False

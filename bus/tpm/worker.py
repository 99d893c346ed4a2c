"""The one thread that talks to a TPM, and how async callers hand it work.

The thread takes the next batch itself, the moment it is done with the last one: while one operation runs, the next batch
gathers. That is the whole of group commit; there is no timer. A caller that is cancelled takes its job back if it has not
begun; if it has, the result is thrown away.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.lowlevel import current_token

from bus.clock import Clock
from bus.errors import ClosedError, OverloadedError
from bus.tpm.interface import Priority
from bus.tpm.schedule import Schedule

MAX_WAITING = 100_000
"""Jobs; together with the limit on a job's size this bounds the queue's memory."""
MAX_WAITING_SIZE = 1_000_000


@dataclass(slots=True, eq=False)
class Job:
    """One caller's wish. `work` is what the executor understands; jobs with an equal key may be served together."""

    key: Hashable
    work: Any
    size: int
    wake: Callable[[Callable[[], object]], object]
    done: anyio.Event
    arrived: float
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class Worker:
    """`execute(jobs)` runs in the thread, and at its end `finish`. Execute sets each job's result or error, and must not raise."""

    execute: Callable[[list[Job]], None]
    finish: Callable[[], None]
    clock: Clock
    batch_limit: int
    places: int = 3
    _schedule: Schedule[Hashable, Job] = field(default_factory=lambda: Schedule(lambda job: job.size))
    _size: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _closing: bool = False
    _recent: deque[Hashable] = field(default_factory=deque)

    def start(self) -> None:
        self._recent = deque(maxlen=self.places)
        self._thread = threading.Thread(target=self._run, name="tpm", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._schedule)

    async def run(self, key: Hashable, work: Any, *, size: int = 1, priority: Priority = Priority.NORMAL) -> Any:
        """Have it done, and wait for the result."""
        token: Any = current_token().native_token
        wake = token.run_sync_soon if hasattr(token, "run_sync_soon") else token.call_soon_threadsafe
        job = Job(key, work, size, wake, anyio.Event(), self.clock.monotonic())
        with self._changed:
            if self._closing:
                raise ClosedError("the TPM engine is closed")
            if len(self._schedule) >= MAX_WAITING or self._size + size > MAX_WAITING_SIZE:
                raise OverloadedError("the TPM's queue", pending=self._size, limit=MAX_WAITING_SIZE)
            self._schedule.add(key, job, now=job.arrived, priority=priority)
            self._size += size
            self._changed.notify()
        try:
            await job.done.wait()
        except BaseException:
            with self._changed:
                if self._schedule.discard(key, job):
                    self._size -= size
            raise
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """No new work; what waits is refused, what runs is not waited for."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end; False if the TPM still holds it."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._schedule and not self._closing:
                    self._changed.wait()
                taken = self._schedule.take(loaded=self._recent, limit=self.batch_limit)
                if taken is None:
                    break
                key, jobs = taken
                self._size -= sum(job.size for job in jobs)
                closing = self._closing
            if closing:
                for job in jobs:
                    job.error = ClosedError("the TPM engine was closed while this waited")
            else:
                self.execute(jobs)
                if key not in self._recent:
                    self._recent.append(key)
            _tell(jobs)
        self.finish()


def _tell(jobs: list[Job]) -> None:
    """Wake each loop once for all of its jobs."""
    by_loop: dict[Callable[[Callable[[], object]], object], list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.wake, []).append(job)
    for wake, group in by_loop.items():

        def finish(group: list[Job] = group) -> None:
            for job in group:
                job.done.set()

        try:
            wake(finish)
        except RuntimeError:  # that loop has ended, and its callers with it (trio.RunFinishedError is one too)
            continue

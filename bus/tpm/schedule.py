"""Which key the TPM serves next, as a pure value.

Every job gets a due time when it arrives: now, plus what its priority can bear. The key whose earliest job is due first is
next, and all that waits for it goes along. So a critical signature overtakes a thousand renewals, and yet nobody waits for
ever: a due time never moves, while those of newcomers do. A key that sits in the TPM already may go a little earlier than it
is due, because fetching another one costs time that everybody pays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bus.tpm.interface import Priority

Key = TypeVar("Key", bound=Hashable)
Job = TypeVar("Job")

PATIENCE_SECONDS = {Priority.CRITICAL: 0.0, Priority.NORMAL: 0.05, Priority.RENEWAL: 1.0, Priority.BACKGROUND: 5.0}
"""How much later than a critical job that arrives at the same moment a job of this priority may be served."""
LOADED_ADVANTAGE_SECONDS = 0.02


@dataclass(slots=True)
class Schedule(Generic[Key, Job]):
    """Jobs wait under a key. `size` says how much of a batch a job takes."""

    size: Callable[[Job], int]
    _waiting: dict[Key, deque[tuple[float, Job]]] = field(default_factory=dict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: Key, job: Job, *, now: float, priority: Priority) -> None:
        due = now + PATIENCE_SECONDS[priority]
        line = self._waiting.setdefault(key, deque())
        if line and line[-1][0] > due:
            later = [line.pop()]
            while line and line[-1][0] > due:
                later.append(line.pop())
            line.append((due, job))
            line.extend(reversed(later))
        else:
            line.append((due, job))
        self._count += 1

    def discard(self, key: Key, job: Job) -> bool:
        """Take a job back before it was served; False if it is not waiting any more."""
        line = self._waiting.get(key, deque())
        for place, (_, waiting) in enumerate(line):
            if waiting is job:
                del line[place]
                self._count -= 1
                if not line:
                    del self._waiting[key]
                return True
        return False

    def take(self, *, loaded: Collection[Key], limit: int) -> tuple[Key, list[Job]] | None:
        """The next key with all of its jobs that fit into one batch (one at least), or None if nobody waits."""
        if not self._waiting:
            return None
        key = min(self._waiting, key=lambda key: self._waiting[key][0][0] - (LOADED_ADVANTAGE_SECONDS if key in loaded else 0.0))
        line = self._waiting[key]
        jobs = [line.popleft()[1]]
        room = limit - self.size(jobs[0])
        while line and self.size(line[0][1]) <= room:
            job = line.popleft()[1]
            room -= self.size(job)
            jobs.append(job)
        if not line:
            del self._waiting[key]
        self._count -= len(jobs)
        return key, jobs

"""What agents of a state folder remember of whom they believed, so that nobody can lead them back: STATE/trust/memory.json.

    highest        the newest trust statement, revocation list and policy, each by number and digest
    inbox          of each name the last generation of which an inbox certificate was seen, and the highest counter in it. A name
                   that was revoked begins anew: whoever once had its key could certify the highest counter there is
    clock_ms       the latest instant that is known to have passed: when the newest statement was issued, and what has passed since
                   it was accepted, by the hand of the clock that never runs backwards and that nobody sets; up to until_ms
    until_ms       just past the end of the newest statement

The date that the clock of this machine shows is no witness of what has passed: it may be ahead for an hour, and then right again.
Who judged by it meanwhile believed less than it could (`now_ms`), and nothing that was kept against replays was let go of; so when
it is right everything goes on. One that is turned back makes no statement fresh that has ended while this process watched.

Nothing here ever goes back. All agents of a host, in however many processes, share one: a writer takes the lock (the kernel
gives it back when a process dies), reads what others wrote meanwhile, judges against that, and replaces the file as a whole. So
what was accepted is on disk before anybody acts on it, and a process can be killed at any instant.

A memory that is gone starts anew, with what was pinned at provisioning; one that is damaged is an error, because starting anew
is what an attacker would wish for.

All that writes blocks: call it in a worker thread. The clock is written down when it has moved by a minute, not each time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bus.clock import Clock, SystemClock
from bus.errors import VaultError
from bus.identity import durable
from bus.protocol.names import is_agent_name
from bus.protocol.papers import MAX_COUNTER
from bus.trust.bundle import Bundle
from bus.trust.statement import Statement
from bus.trust.view import NOTHING_SEEN, Highest, advance, advance_policy

FILE: Final = "memory.json"
VERSION: Final = 2
_WITHOUT_GENERATIONS: Final = 1
"""The version in which an inbox had its counter alone."""
CLOCK_STEP_MS: Final = 60_000
"""After a crash the mark may be this much behind: as much as two clocks may differ anyway."""
MAX_BYTES: Final = 4 << 20
_LARGEST: Final = (1 << 64) - 1

InboxMark = tuple[int, int]
"""Generation of the name, as trust says, and counter: one that is lower in this order is an old one."""
_NONE: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Remembered:
    highest: Highest = NOTHING_SEEN
    inbox: Mapping[str, InboxMark] = field(default_factory=lambda: MappingProxyType({}))
    clock_ms: int = 0
    until_ms: int = 0


class TrustMemory:
    """Opened on STATE/trust; several threads and processes may use one. Raises VaultError: damaged, disk, disk_full.

    Without a folder nothing is written and nothing blocks, and who starts again can be led back: for tests alone.
    """

    def __init__(self, folder: Path | None, clock: Clock | None = None) -> None:
        self._path = None if folder is None else folder / FILE
        self._lock = threading.Lock()
        self._monotonic = (clock or SystemClock()).monotonic
        self._clock_ms = 0
        """What this process knows of; on disk it may be a minute behind."""
        self._seen = Remembered()
        if folder is not None:
            durable.make_folder(folder)
            self._seen = self._read()
            self._clock_ms = self._seen.clock_ms
        self._since = self._seen.clock_ms, self._monotonic()
        """An instant that had passed, and when that was."""

    @property
    def on_disk(self) -> bool:
        """Whether what writes blocks."""
        return self._path is not None

    @property
    def highest(self) -> Highest:
        return self._seen.highest

    def accept(self, statement: Statement) -> None:
        """Remember a statement that verified, and that it is at least as late as it was issued.

        Raises VerificationError: "trust_rollback", "trust_fork", "policy_fork".
        """
        with self._writing() as seen:
            highest = advance(seen.highest, statement)
            passed = max(seen.clock_ms, statement.issued_ms)
            self._keep(seen, replace(seen, highest=highest, clock_ms=passed, until_ms=statement.next_update_ms + 1))
            self._clock_ms = max(self.passed_ms(), passed)
            if statement.issued_ms > self._since[0]:  # counted from the newest alone, so that two clocks do not drift apart
                self._since = statement.issued_ms, self._monotonic()

    def accept_policy(self, bundle: Bundle) -> None:
        """Remember a bundle that verified. Raises VerificationError: "policy_rollback", "policy_fork"."""
        with self._writing() as seen:
            self._keep(seen, replace(seen, highest=advance_policy(seen.highest, bundle)))

    def inbox_counter(self, name: str, generation: int) -> int:
        """The highest ever seen of this name in this generation; 0 if none was. A certificate below it is an old one, whatever it
        says. Where a later generation was seen, all of this one are.
        """
        last, counter = self._seen.inbox.get(name, _NONE)
        if last > generation:
            return MAX_COUNTER + 1
        return counter if last == generation else 0

    def accept_inboxes(self, marks: Mapping[str, InboxMark]) -> None:
        """Remember inbox certificates that verified and count now; lower marks change nothing. Many at once cost what one costs."""
        if all(mark <= self._seen.inbox.get(name, _NONE) for name, mark in marks.items()):
            return
        with self._writing() as seen:
            merged = {**seen.inbox, **{name: max(mark, seen.inbox.get(name, _NONE)) for name, mark in marks.items()}}
            self._keep(seen, replace(seen, inbox=MappingProxyType(merged)))

    def now_ms(self, clock_ms: int) -> int:
        """The time to judge by: the clock's, but never before an instant that is known to have passed, as far as `passed_ms` has
        looked. It is asked for each turn, so it reads no clock.
        """
        return max(clock_ms, self._clock_ms)

    def passed_ms(self) -> int:
        """The latest instant that is known to have passed, but none past the end of the newest statement; 0 before the first.
        Nothing is judged by an earlier one from now on, so by this one what ended may be destroyed: it cannot be had again. Does
        not write.
        """
        seen, (since_ms, at) = self._seen, self._since
        passed = min(since_ms + int((self._monotonic() - at) * 1000), seen.until_ms) if since_ms else 0
        self._clock_ms = max(self._clock_ms, seen.clock_ms, passed)
        return self._clock_ms

    def clock_is_due(self) -> bool:
        """Whether `keep_clock` has something to write; never without a disk."""
        return self.on_disk and self._clock_ms >= self._seen.clock_ms + CLOCK_STEP_MS

    def keep_clock(self) -> None:
        """Write down how late it is, if that has moved by a minute."""
        if self.clock_is_due():
            with self._writing() as seen:
                self._keep(seen, replace(seen, clock_ms=max(seen.clock_ms, self._clock_ms)))

    def refresh(self) -> None:
        """Read what other processes wrote; whatever is accepted here is judged against that in any case."""
        with self._lock:
            self._seen = self._read()

    @contextmanager
    def _writing(self) -> Iterator[Remembered]:
        """What is on disk now, while nobody else writes."""
        with self._lock, nullcontext() if self._path is None else durable.locked(self._path):
            self._seen = self._read()
            yield self._seen

    def _keep(self, before: Remembered, after: Remembered) -> None:
        if after != before:
            if self._path is not None:
                durable.replace(self._path, _encode(after))
            self._seen = after

    def _read(self) -> Remembered:
        if self._path is None:
            return self._seen
        data = durable.read(self._path, longest=MAX_BYTES)
        if data is None:
            return Remembered()
        try:
            return _decode(json.loads(data))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = f"{self._path} is not what was written ({error}): restore it from a backup, or provision this folder anew"
            raise VaultError("damaged", text, path=str(self._path)) from error


def _encode(seen: Remembered) -> bytes:
    highest = {name: value.hex() if isinstance(value, bytes) else value for name, value in seen.highest._asdict().items()}
    document = {"version": VERSION, "highest": highest, "inbox": dict(sorted(seen.inbox.items()))}
    document |= {"clock_ms": seen.clock_ms, "until_ms": seen.until_ms}
    return json.dumps(document, indent=1).encode() + b"\n"


def _decode(document: Any) -> Remembered:
    version = _number(document["version"])
    if version not in (VERSION, _WITHOUT_GENERATIONS):
        raise ValueError(f"it was written by another version of tpmbus ({document['version']})")
    highest, inbox = document["highest"], document["inbox"]
    marks = (_number(highest[name]) if name.endswith(("number", "version")) else _digest(highest[name]) for name in Highest._fields)
    if not all(is_agent_name(name) for name in inbox):
        raise ValueError("an inbox of nobody")
    found = {name: _first(value) if version == _WITHOUT_GENERATIONS else _mark(value) for name, value in inbox.items()}
    clock_ms, until_ms = _number(document["clock_ms"]), _number(document["until_ms"])
    return Remembered(Highest(*marks), MappingProxyType(found), clock_ms, until_ms)  # type: ignore[arg-type]  # each mark was checked above


def _mark(value: Any) -> InboxMark:
    generation, counter = value
    return _number(generation), _number(counter, most=MAX_COUNTER)


def _first(counter: Any) -> InboxMark:
    """A counter without a generation: of the first, so that a name that was revoked meanwhile begins anew."""
    return 0, min(_number(counter), MAX_COUNTER)


def _number(value: Any, *, most: int = _LARGEST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("a number that nobody writes")
    return value


def _digest(value: Any) -> bytes:
    digest = bytes.fromhex(value)
    if len(digest) not in (0, 32):
        raise ValueError("a digest that nobody writes")
    return digest

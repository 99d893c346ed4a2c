"""Who there is: agent -> role and papers, with a serial that every change raises.

The broker serves it and pushes differences. It can withhold, but not forge: papers prove themselves to whoever reads them, and
roles are the reader's own policy's, so what stands here is only where to look.

Nothing grows with the number of agents but the table itself. A difference costs what it holds: entries are kept in the order of
their last change, those that went away included, until there are too many of these; then whoever asks from before that gets
the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bus.errors import RemoteProtocolError
from bus.protocol import codec
from bus.protocol.names import is_agent_name

MAX_AGENTS: Final = 16_384
MAX_GONE: Final = 4_096
"""Names that went away and are still told of."""
MAX_PAPERS_BYTES: Final = 2 << 20
"""Of one agent: papers hold a trust statement, which has at most a mebibyte."""


class Listing(NamedTuple):
    """One agent, as bytes that the reader must verify."""

    role: str
    papers: bytes = b""
    """Empty while no session of it is known."""
    inbox: bytes = b""
    """Its inbox certificate; empty where there is none."""


class Change(NamedTuple):
    serial: int
    name: str
    listing: Listing | None
    """None: it went away."""


class Difference(NamedTuple):
    """What changed since a serial. `whole`: forget all that you had, this is everything."""

    serial: int
    whole: bool
    changes: tuple[Change, ...]


class Directory:
    """A table that somebody keeps (`put`, `remove`, `follow`) and others copy (`since` there, `take` here)."""

    def __init__(self) -> None:
        self.serial = 0
        self._changes: dict[str, Change] = {}
        """By name, in the order of their serials."""
        self._gone = 0
        self._told_from = 0
        """Whoever has seen less than this serial gets the whole table."""

    def __len__(self) -> int:
        return len(self._changes) - self._gone

    def __iter__(self) -> Iterator[str]:
        return (change.name for change in self._changes.values() if change.listing is not None)

    def get(self, name: str) -> Listing | None:
        change = self._changes.get(name)
        return None if change is None else change.listing

    def put(self, name: str, listing: Listing) -> bool:
        """List an agent, or what is new of it; False if that is what stood there. Raises ValueError for what nobody could list."""
        if self.get(name) == listing:
            return False
        if not is_agent_name(name):
            raise ValueError(f"{name[:64]!r} is no agent name")
        if len(listing.papers) > MAX_PAPERS_BYTES or len(listing.inbox) > MAX_PAPERS_BYTES:
            raise ValueError(f"papers of {name} with more than {MAX_PAPERS_BYTES:,} bytes")
        if self.get(name) is None and len(self) >= MAX_AGENTS:
            raise ValueError(f"a directory has at most {MAX_AGENTS:,} agents")
        self._change(Change(self.serial + 1, name, listing))
        return True

    def remove(self, name: str) -> bool:
        """False if it was not listed."""
        if self.get(name) is None:
            return False
        self._change(Change(self.serial + 1, name, None))
        return True

    def follow(self, agents: Mapping[str, str]) -> None:
        """Make it list exactly these agents in these roles, each with the papers that it had."""
        for name in [name for name in self if name not in agents]:
            self.remove(name)
        for name, role in agents.items():
            self.put(name, (self.get(name) or Listing(role))._replace(role=role))

    def since(self, serial: int) -> Difference:
        """What somebody who has seen this serial lacks. A serial that was never given means: everything."""
        if not self._told_from <= serial <= self.serial or serial == 0:
            return Difference(self.serial, True, tuple(change for change in self._changes.values() if change.listing is not None))
        newer = []
        for change in reversed(self._changes.values()):
            if change.serial <= serial:
                break
            newer.append(change)
        return Difference(self.serial, False, tuple(reversed(newer)))

    def take(self, difference: Difference) -> None:
        """Follow somebody else's directory. Raises RemoteProtocolError("malformed") for what no directory could have said."""
        self._check(difference)
        if difference.whole:
            self._changes.clear()
            self._gone = 0
            self._told_from = difference.serial
        for change in difference.changes:
            if change.listing is not None or self.get(change.name) is not None:
                self._change(change)
        self.serial = difference.serial

    def _change(self, change: Change) -> None:
        old = self._changes.pop(change.name, None)
        self._gone += (change.listing is None) - (old is not None and old.listing is None)
        self._changes[change.name] = change
        self.serial = change.serial
        if self._gone > MAX_GONE:
            self._forget()

    def _forget(self) -> None:
        """All that went away; who asks from before now gets everything."""
        self._changes = {name: change for name, change in self._changes.items() if change.listing is not None}
        self._gone = 0
        self._told_from = self.serial

    def _check(self, difference: Difference) -> None:
        last = 0 if difference.whole else self.serial
        if difference.serial < last:
            raise _impossible("its serial goes back")
        seen: dict[str, bool] = {}
        for change in difference.changes:
            if not last < change.serial <= difference.serial or change.name in seen:
                raise _impossible("its changes do not ascend, or tell of a name twice")
            if not is_agent_name(change.name) or (difference.whole and change.listing is None):
                raise _impossible("it tells of nobody")
            if change.listing is not None and max(map(len, change.listing[1:])) > MAX_PAPERS_BYTES:
                raise _impossible("papers that are too long")
            last = change.serial
            seen[change.name] = change.listing is not None
        before = 0 if difference.whole else len(self) - sum(self.get(name) is not None for name in seen)
        if before + sum(seen.values()) > MAX_AGENTS:
            raise _impossible("too many agents")


def _impossible(what: str) -> RemoteProtocolError:
    return codec.malformed(f"no difference of a directory: {what}")

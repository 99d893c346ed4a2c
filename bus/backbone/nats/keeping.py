"""Grants and papers of senders, in a bucket that all brokers read, until their time is over.

    g.<epoch>.<reader>.<sender>.<key>.<places>        a grant; papers are one for `_papers`, with their session for an epoch
    i.<epoch>.<reader>                                which there are for this reader, the oldest first

Whoever reads asks for keys by their names, because a server looks through a whole bucket for those that are only like something.
What is over is not given out from then on, and removed a while later. A sender has so many places at most, of which a large one
takes several: its key says how many, so that counting reads keys alone. Each broker counts when it keeps something of a sender for
the first time, and again when the sender comes near that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import anyio

from bus.backbone.interface import Grant, Papers
from bus.backbone.local import MAX_KEPT_OF_ONE
from bus.backbone.nats.bucket import Bucket, OtherRevisionError
from bus.backbone.nats.jetstream import Kept
from bus.backbone.nats.layout import number
from bus.backbone.storage import places
from bus.clock import Clock
from bus.errors import BackboneError, BusError, ClosedError, RemoteProtocolError
from bus.protocol.codec import pack, unpack
from bus.protocol.names import TOKEN

SWEEP_SECONDS: Final = 600.0
AT_ONCE: Final = 64
MAX_COUNTED: Final = 16_384
"""Senders of which this broker remembers how much there is."""
MAX_LISTED: Final = 4_096
"""Grants of one epoch for one reader, by all who say that it is theirs."""
PAPERS: Final = "_papers"


class _One(NamedTuple):
    until_ms: int
    data: bytes


class _Index(NamedTuple):
    until_ms: int
    """The latest time of what it lists."""
    names: list[str]


class Keeping:
    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket, self._clock = bucket, clock
        self._counts: Counter[str] = Counter()
        self.passed_ms = 0

    async def keep(self, grants: Sequence[Grant], papers: Sequence[Papers]) -> None:
        """Raises BackboneError: "too_many", "disk", "disk_full"; ClosedError."""
        rows: dict[str, dict[str, _One]] = {}
        wanted = Counter[str]()
        for epoch, reader, sender, ref, until_ms, data in (
            *grants,
            *((one.session, PAPERS, one.sender, b"", one.until_ms, one.papers) for one in papers),
        ):
            row = rows.setdefault(_row(epoch, reader), {})
            name = f"{_checked(sender)}.k{ref.hex()}.{places(data)}"
            if name not in row or row[name].until_ms < until_ms:
                row[name] = _One(until_ms, data)
            wanted[sender] += places(data)
        await self._make_room(wanted)
        await self._put([*rows.items()])

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        row = _row(epoch, reader)
        index = _parse_index(await self._bucket.get(f"i.{row}"))
        found = [_parse(await self._bucket.get(f"g.{row}.{name}")) for name in index.names]
        return [one.data for one in found if one is not None and one.until_ms > self.passed_ms]

    async def papers_for(self, session: bytes) -> list[bytes]:
        return await self.grants_for(session, PAPERS)

    async def run(self) -> None:
        """What is over goes; until it is cancelled, or the connection is closed."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except BackboneError:
                continue  # at the next time
            except ClosedError:
                return

    async def sweep(self) -> None:
        """Raises BackboneError, ClosedError."""
        passed_ms = self.passed_ms
        async for kept in self._bucket.each():
            one = _parse_index(kept) if self._bucket.key(kept)[0] == "i" else _parse(kept)
            if one is None or one.until_ms <= passed_ms:
                await self._bucket.remove(kept)
        self._counts.clear()

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _put(self, rows: Sequence[tuple[str, Mapping[str, _One]]]) -> None:
        failed: list[BusError] = []
        for start in range(0, len(rows), AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for row, ones in rows[start : start + AT_ONCE]:
                    tasks.start_soon(partial(self._try_to_put, row, ones, failed))
            if failed:
                raise failed[0]

    async def _try_to_put(self, row: str, ones: Mapping[str, _One], failed: list[BusError]) -> None:
        """First the grants, then that they are there: what is listed can be read."""
        try:
            for name, one in ones.items():
                await self._put_one(f"g.{row}.{name}", one)
            await self._list(f"i.{row}", ones)
        except BusError as error:
            failed.append(error)

    async def _put_one(self, key: str, one: _One) -> None:
        known: Kept | None = None
        while True:
            found = _parse(known)
            if found is not None and found.until_ms >= one.until_ms:
                return
            try:
                await self._bucket.put(key, pack([*one]), revision=known.seq if known is not None else 0)
            except OtherRevisionError:
                known = await self._bucket.get(key)
            else:
                return

    async def _list(self, key: str, ones: Mapping[str, _One]) -> None:
        until_ms = max(one.until_ms for one in ones.values())
        known: Kept | None = None
        while True:
            found = _parse_index(known)
            names = [*found.names, *(name for name in ones if name not in found.names)]
            if names == found.names and found.until_ms >= until_ms:
                return
            if len(names) > MAX_LISTED:
                raise BackboneError("too_many", f"there are more than {MAX_LISTED:,} grants of one epoch for one reader")
            row = pack([max(found.until_ms, until_ms), names])
            try:
                await self._bucket.put(key, row, revision=known.seq if known is not None else 0)
            except OtherRevisionError:
                known = await self._bucket.get(key)
            else:
                return

    async def _make_room(self, wanted: Counter[str]) -> None:
        for sender, count in wanted.items():
            if sender not in self._counts or self._counts[sender] + count > MAX_KEPT_OF_ONE:
                self._counts[sender] = sum(max(1, number(key[-1])) for key in await self._bucket.keys(f"g.*.*.{sender}.>"))
            if self._counts[sender] + count > MAX_KEPT_OF_ONE:
                text = f"there are more than {MAX_KEPT_OF_ONE:,} grants and papers of one sender; large ones count as several"
                raise BackboneError("too_many", text)
            self._counts[sender] += count
        while len(self._counts) > MAX_COUNTED:
            del self._counts[next(iter(self._counts))]


def _parse(kept: Kept | None) -> _One | None:
    """What NATS gives for one; None for what is none."""
    try:
        fields = unpack(kept.data, longest=2, arrays=1) if kept is not None else []
    except RemoteProtocolError:
        return None
    return _One(fields[0], fields[1]) if [*map(type, fields)] == [int, bytes] else None


def _parse_index(kept: Kept | None) -> _Index:
    """What NATS gives for a list; an empty one for what is none."""
    try:
        fields = unpack(kept.data, longest=MAX_LISTED, arrays=2) if kept is not None else []
    except RemoteProtocolError:
        fields = []
    if [*map(type, fields)] != [int, list]:
        return _Index(0, [])
    return _Index(fields[0], [name for name in fields[1] if type(name) is str and all(map(TOKEN.fullmatch, name.split(".")))])


def _row(epoch: bytes, reader: str) -> str:
    return f"{epoch.hex()}.{_checked(reader)}"


def _checked(name: str) -> str:
    if TOKEN.fullmatch(name) is None:
        raise ValueError(f"{name[:64]!r} is no agent's name")
    return name

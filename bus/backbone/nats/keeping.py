"""Grants and papers of senders, in a bucket that all brokers read, until their time is over.

    g.<sender>.<reader>.<epoch>.<key>.<places>        a grant
    p.<sender>.<session>.<places>                     papers

What is over is not given out from then on, and removed a while later. A sender has so many places at most, of which a large one
takes several: its key says how many, so that counting reads keys alone. Each broker counts when it keeps something of a sender for
the first time, and again when the sender comes near that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from bus.errors import BackboneError, BusError, RemoteProtocolError
from bus.protocol.codec import pack, unpack
from bus.protocol.names import TOKEN

SWEEP_SECONDS: Final = 600.0
AT_ONCE: Final = 64
MAX_COUNTED: Final = 16_384
"""Senders of which this broker remembers how much there is."""


class _One(NamedTuple):
    first: int
    """The revision with which it began: what is kept for longer keeps its place among the others."""
    until_ms: int
    data: bytes


class Keeping:
    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket, self._clock = bucket, clock
        self._counts: Counter[str] = Counter()
        self.passed_ms = 0

    async def keep(self, grants: Sequence[Grant], papers: Sequence[Papers]) -> None:
        """Raises BackboneError: "too_many", "disk", "disk_full"; ClosedError."""
        rows = {
            f"g.{_checked(one.sender)}.{_checked(one.reader)}.{one.epoch.hex()}.k{one.ref.hex()}.{places(one.envelope)}": (
                one.until_ms,
                one.envelope,
            )
            for one in grants
        }
        rows |= {f"p.{_checked(one.sender)}.{one.session.hex()}.{places(one.papers)}": (one.until_ms, one.papers) for one in papers}
        wanted = Counter[str]()
        for key in rows:
            wanted[key.split(".")[1]] += _places(key.split("."))
        await self._make_room(wanted)
        failed: list[BusError] = []
        keys = [*rows]
        for start in range(0, len(keys), AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for key in keys[start : start + AT_ONCE]:
                    tasks.start_soon(partial(self._try_to_keep, key, *rows[key], failed))
            if failed:
                raise failed[0]

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        found = await self._living(f"g.*.{_checked(reader)}.{epoch.hex()}.*.*")
        return [one.data for one in sorted(found, key=lambda one: one.first)]

    async def papers_for(self, session: bytes) -> bytes | None:
        found = await self._living(f"p.*.{session.hex()}.*")
        return found[-1].data if found else None

    async def run(self) -> None:
        """What is over goes; until it is cancelled. Raises ClosedError."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except BackboneError:
                continue  # at the next time

    async def sweep(self) -> None:
        """Raises BackboneError, ClosedError."""
        passed_ms = self.passed_ms
        async for kept in self._bucket.each():
            one = _parse(kept)
            if one is None or one.until_ms <= passed_ms:
                await self._bucket.remove(kept)
        self._counts.clear()

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _try_to_keep(self, key: str, until_ms: int, data: bytes, failed: list[BusError]) -> None:
        try:
            await self._keep(key, until_ms, data)
        except BusError as error:
            failed.append(error)

    async def _keep(self, key: str, until_ms: int, data: bytes) -> None:
        known: Kept | None = None
        while True:
            one = _parse(known) if known is not None else None
            if one is not None and one.until_ms >= until_ms:
                return
            row = pack([one.first if one is not None else 0, until_ms, data])
            try:
                await self._bucket.put(key, row, revision=known.seq if known is not None else 0)
            except OtherRevisionError:
                known = await self._bucket.get(key)
            else:
                return

    async def _living(self, pattern: str) -> list[_One]:
        found = [one async for kept in self._bucket.each(pattern) if (one := _parse(kept)) is not None]
        return [one for one in found if one.until_ms > self.passed_ms]

    async def _make_room(self, wanted: Counter[str]) -> None:
        for sender, count in wanted.items():
            if sender not in self._counts or self._counts[sender] + count > MAX_KEPT_OF_ONE:
                keys = [*await self._bucket.keys(f"g.{sender}.>"), *await self._bucket.keys(f"p.{sender}.>")]
                self._counts[sender] = sum(map(_places, keys))
            if self._counts[sender] + count > MAX_KEPT_OF_ONE:
                text = f"there are more than {MAX_KEPT_OF_ONE:,} grants and papers of one sender; large ones count as several"
                raise BackboneError("too_many", text)
            self._counts[sender] += count
        while len(self._counts) > MAX_COUNTED:
            del self._counts[next(iter(self._counts))]


def _places(key: Sequence[str]) -> int:
    return max(1, number(key[-1]))


def _parse(kept: Kept) -> _One | None:
    """What NATS gives for one; None for what is none."""
    try:
        fields = unpack(kept.data, longest=3, arrays=1)
    except RemoteProtocolError:
        return None
    if [*map(type, fields)] != [int, int, bytes]:
        return None
    return _One(fields[0] or kept.seq, fields[1], fields[2])


def _checked(name: str) -> str:
    if TOKEN.fullmatch(name) is None:
        raise ValueError(f"{name[:64]!r} is no agent's name")
    return name

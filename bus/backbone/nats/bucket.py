"""A few facts under keys, on all servers alike: a stream that keeps the last message of each subject, as NATS's own buckets do.

Whoever changes something says which revision it knows, so that of two brokers one has to look again. What is removed is removed for
good: nobody follows what goes, and a mark for each thing that was once there would never end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from bus.backbone.nats.appending import parse_stored
from bus.backbone.nats.at_once import at_once
from bus.backbone.nats.connection import Connection, UnansweredError
from bus.backbone.nats.jetstream import (
    FULL,
    OTHER_REVISION,
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    ApiError,
    JetStream,
    Kept,
    count,
    refused,
    subjects,
    unreachable,
)
from bus.backbone.nats.layout import EXPECTED
from bus.clock import Clock

EACH: Final = ">"
MAX_KEYS: Final = 1 << 20
"""As many are looked at, however many more a server says that there are."""


class OtherRevisionError(Exception):
    """Somebody else was faster."""


class Bucket:
    def __init__(self, config: dict[str, Any], connection: Connection, jetstream: JetStream, clock: Clock) -> None:
        self.stream: str = config["name"]
        self._subject: str = config["subjects"][0].removesuffix(EACH)
        self._connection, self._jetstream, self._clock = connection, jetstream, clock

    def subject(self, key: str) -> str:
        """Where NATS tells everybody of what is put there."""
        return self._subject + key

    def key(self, kept: Kept) -> list[str]:
        """Its parts."""
        return kept.subject.removeprefix(self._subject).split(".")

    async def get(self, key: str) -> Kept | None:
        """Raises BackboneError, ClosedError."""
        return await self._jetstream.message(self.stream, {"last_by_subj": self._subject + key})

    async def put(self, key: str, data: bytes, *, revision: int, headers: dict[str, str] | None = None) -> int:
        """The new revision. `revision`: the one that there is, 0 for none.

        Raises OtherRevisionError, BackboneError: "disk", "disk_full"; ClosedError.
        """
        until = self._clock.monotonic() + PATIENCE_SECONDS
        is_first = True
        while True:
            try:
                arrived = await self._connection.ask(self._subject + key, data, {**(headers or {}), EXPECTED: str(revision)})
                return parse_stored(arrived).seq
            except UnansweredError as error:
                if self._clock.monotonic() > until:
                    raise unreachable(self._connection, self._connection.denied) from error
            except ApiError as error:
                if error.number == OTHER_REVISION and not is_first and await self._is_ours(key, data, revision):
                    return revision
                if error.number == OTHER_REVISION:
                    raise OtherRevisionError(key) from error
                if error.number in FULL or self._clock.monotonic() > until:
                    raise refused(error) from error
            is_first = False
            await self._clock.sleep(RETRY_SECONDS)

    async def keys(self, pattern: str = EACH) -> list[list[str]]:
        """All that are like this, in parts. Raises BackboneError, ClosedError."""
        found: list[list[str]] = []
        while True:
            facts = await self._jetstream.stream(self.stream, subjects=self._subject + pattern, offset=len(found))
            some = subjects(facts)
            found += [subject.removeprefix(self._subject).split(".") for subject in some]
            if not some or len(found) >= min(count(facts, "total"), MAX_KEYS):
                return found

    async def each(self, pattern: str = EACH) -> AsyncIterator[Kept]:
        """All whose key is like this, by age. Raises BackboneError, ClosedError."""
        seq = 1
        for _ in range(MAX_KEYS):
            kept = await self._jetstream.message(self.stream, {"seq": seq, "next_by_subj": self._subject + pattern})
            if kept is None or kept.seq < seq:
                return
            yield kept
            seq = kept.seq + 1

    async def all(self) -> list[Kept]:
        """The same of the whole bucket, many at a time: what comes or goes meanwhile is there or not."""
        found = await at_once(self.get, [".".join(key) for key in await self.keys()])
        return sorted((kept for kept in found if kept is not None), key=lambda kept: kept.seq)

    async def remove(self, kept: Kept) -> None:
        """This revision; a newer one stays. Raises BackboneError, ClosedError."""
        await self._jetstream.delete_message(self.stream, kept.seq)

    async def _is_ours(self, key: str, data: bytes, revision: int) -> bool:
        """What was asked twice may have been done the first time."""
        kept = await self.get(key)
        return kept is not None and kept.data == data and kept.seq > revision

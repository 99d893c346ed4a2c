"""What readers put off, because they could not open it yet: how often, so that it does not count, and since when.

JetStream counts each time that it hands something out, and nobody can take that back. So what was in vain is written down beside
the record: a mark in the same stream, under a subject of its own, which goes when the record does and is removed when that is
settled. Whichever broker is handed the record again finds it there. Only what comes again is looked up, with one
question for all that came together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import anyio

from bus.backbone.interface import ConsumerName
from bus.backbone.nats.appending import Appender, Outgoing
from bus.backbone.nats.at_once import at_once
from bus.backbone.nats.jetstream import JetStream, subjects
from bus.backbone.nats.layout import MESSAGE_ID, Names, message_id
from bus.errors import RemoteProtocolError
from bus.protocol.codec import pack, unpack

_FIELDS: Final = 2
_MOST: Final = 1 << 62
"""Of both: whoever may write there could write the largest number that there is, and one more than that is none."""


class Mark(NamedTuple):
    """Of one record."""

    uncounted: int
    """How often it was handed out in vain."""
    since_ms: int
    seq: int = 0
    """Where the mark lies; 0: nowhere yet."""


class Marks:
    """Of one consumer. `made_ms` tells it from one that had its name before."""

    def __init__(
        self, name: ConsumerName, class_: str, made_ms: int, *, names: Names, jetstream: JetStream, appender: Appender
    ) -> None:
        self._stream, self._subject = names.stream(class_), names.put_off(class_, name, made_ms)
        self._jetstream, self._appender = jetstream, appender
        self._busy = anyio.Lock()
        self._new: deque[tuple[int, Mark, int]] = deque()
        self._old: deque[int] = deque()
        """Where marks lie that mean nothing any more."""
        self.count = 0
        """About how many records are put off."""

    async def of(self, seqs: Sequence[int]) -> dict[int, Mark]:
        """The marks of these records, of those that have one. Raises BackboneError, ClosedError."""
        await self.write()
        facts = await self._jetstream.stream(self._stream, subjects=f"{self._subject}.>")
        there = subjects(facts)
        self.count = len(there)
        found = await at_once(self._get, [seq for seq in seqs if f"{self._subject}.{seq}" in there])
        return {seq: mark for one in found if one is not None for seq, mark in (one,)}

    def put(self, seq: int, mark: Mark, expires_ms: int) -> None:
        """In place of the one that it had. `expires_ms`: the record, which nobody brings again from then on to have it removed."""
        self.forget(mark)
        self.count += not mark.seq
        self._new.append((seq, mark, expires_ms))

    def forget(self, mark: Mark | None) -> None:
        """Its record is settled."""
        if mark is not None and mark.seq:
            self._old.append(mark.seq)

    async def write(self) -> None:
        """What was put and forgotten. Raises BackboneError, ClosedError; then what is left goes the next time."""
        if self._new or self._old:
            async with self._busy:
                while self._new:
                    some = [*self._new]
                    await self._appender.append([self._outgoing(*one) for one in some])
                    for _ in some:
                        self._new.popleft()
                while self._old:
                    await self._jetstream.delete_message(self._stream, self._old[0])
                    self._old.popleft()

    def _outgoing(self, seq: int, mark: Mark, expires_ms: int) -> Outgoing:
        subject = f"{self._subject}.{seq}"
        headers = {MESSAGE_ID: message_id("put off", subject, str(mark.uncounted))}
        return Outgoing(subject, headers, pack([*mark[:_FIELDS]]), expires_ms)

    async def _get(self, seq: int) -> tuple[int, Mark] | None:
        kept = await self._jetstream.message(self._stream, {"last_by_subj": f"{self._subject}.{seq}"})
        if kept is None:
            return None
        try:
            fields = unpack(kept.data, longest=_FIELDS, arrays=1)
        except RemoteProtocolError:
            return None
        if [*map(type, fields)] != [int, int] or not 0 <= min(fields) <= max(fields) <= _MOST:
            return None
        uncounted, since_ms = fields
        return seq, Mark(uncounted, since_ms, kept.seq)

"""What becomes of records after they were accepted, and who is told: their receipts, else whoever looks at refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from bus.agent.lane import MOST_RECORDS, Lane, Note
from bus.agent.requests import Pending
from bus.agent.sealing_turns import Sent
from bus.errors import BackboneError, BusError, NotPermittedError, VerificationError, twin
from bus.flow.turn_window import TurnWindow
from bus.flow.waiting import MAX_BYTES, Run, Taken
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import UNHEARD

Refused = Callable[[Lane, bytes, BusError], None]
"""Hears of an envelope (its lane and id) that was refused, and why, if nobody waits for it."""


@dataclass(slots=True)
class Turn:
    frame: bytes
    sent: list[Sent]
    unstored: int
    """Envelopes of durable topics that are not known to be on disk."""
    window: TurnWindow
    """In which it has its place."""


class Outcomes:
    def __init__(self, refused: Refused) -> None:
        self._refused = refused
        self.counts: Counter[str] = Counter()

    def sent(self, sent: Iterable[Sent]) -> None:
        for one in sent:
            self.counts["envelopes"] += 1
            self.counts["published"] += one.records
            for index, note in one.notes.items():
                if note.receipt is not None:
                    note.receipt.was_sent(one.id.hex() if one.records == 1 else f"{one.id.hex()}-{index}")
            for run in one.runs:
                run.note.were_sent(run.end - run.first)

    def stored(self, turn: Turn, rows: Collection[tuple[bytes, int]]) -> None:
        turn.unstored -= len(rows)
        positions = dict(rows)
        for sent in turn.sent:
            position = positions.get(sent.id)
            for note in sent.notes.values() if position is not None else ():
                if note.receipt is not None:
                    note.receipt.was_stored(position)

    def not_stored(self, turn: Turn) -> None:
        """Some of it was refused, which its receipts know by now. Whoever still waits would wait for ever."""
        for sent in turn.sent:
            for note in sent.notes.values() if sent.lane.rule.is_durable else ():
                if note.receipt is not None:
                    note.receipt.failed(_busy(sent))
            for run in sent.runs if sent.lane.rule.is_durable else ():
                run.note.failed(_busy(sent))

    def refused(self, sent: Sent, code: str, now_ms: int) -> None:
        """The broker does not take it; or, of a request, nobody listens any more."""
        if code == UNHEARD:
            self.counts["unheard"] += sent.records
            for note in sent.notes.values():
                if isinstance(note.receipt, Pending):
                    note.receipt.was_sent("")
            return
        error = _busy(sent) if code == "busy" else _expired(sent, now_ms) or _forbidden(sent, code)
        self._fail(sent.lane, sent.notes, sent.runs, sent.records, error, id_=sent.id)

    def unheard(self, lane: Lane) -> None:
        """Nobody listens: it would be sealed to nobody."""
        while lane.waiting:
            taken = lane.waiting.take(MOST_RECORDS, MAX_BYTES)
            self.counts["unheard"] += len(taken.payloads)
            for note in taken.notes.values():
                if note.receipt is not None:
                    note.receipt.was_sent("")
            for run in taken.runs:
                run.note.were_sent(run.end - run.first)
        lane.has_room()

    def fail_all(self, lane: Lane, error: BusError) -> None:
        """Nothing of what waits in this lane is sent."""
        while lane.waiting:
            taken = lane.waiting.take(MOST_RECORDS, MAX_BYTES)
            self.fail(lane, taken, error)
        lane.has_room()

    def fail(self, lane: Lane, taken: Taken, error: BusError) -> None:
        """These are not sent."""
        self._fail(lane, taken.notes, taken.runs, len(taken.payloads), error)

    def _fail(
        self, lane: Lane, notes: Mapping[int, Note], runs: Iterable[Run], records: int, error: BusError, *, id_: bytes = b""
    ) -> None:
        self.counts["refused"] += records
        waited_for = 0
        for note in notes.values():
            if note.receipt is not None:
                note.receipt.failed(twin(error))
                waited_for += 1
        for first, end, together in runs:
            together.failed(twin(error))
            waited_for += end - first
        if waited_for < records:
            self._refused(lane, id_, error)


def _busy(sent: Sent) -> BusError:
    topic = sent.lane.key.topic
    if not sent.lane.rule.is_durable:
        return _forbidden(sent, "busy")
    return BackboneError(
        "busy", f"the broker did not store a message on {topic}: its disk may be full or too slow; its log says which"
    )


def _expired(sent: Sent, now_ms: int) -> BusError | None:
    """What a broker says of it in a word for all that it does not believe: it was away for longer than the message had."""
    header = headers.parse(envelopes.split(sent.envelope)[0])
    if header.expires_ms > now_ms:
        return None
    late = f"no broker took the message on {header.topic} within its TTL of {(header.expires_ms - header.sent_ms) / 1000:g} s"
    return VerificationError("expired", agent=sent.lane.agent, detail=late)


def _forbidden(sent: Sent, code: str) -> BusError:
    return NotPermittedError(sent.lane.agent, f"publish {sent.lane.key.topic}", f"the broker: {code}")

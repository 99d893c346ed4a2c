"""Credit: a subscription that blocks gets as many records as it has room for, and what is above that is held back here.

    held        by link and topic, in order; the whole copy of the link, because an envelope comes to a link once, with all of its
                subscriptions. Other topics and other links go on
    lanes       of a turn whose 5 ms are over are stopped while any of it is held, and go on when nothing is
    ended       a subscription that gives no credit for 2 s although something is held for it, or for which more than 8 MiB are; or
                because its link had 32,768 later numbers of an epoch meanwhile: half the window in which readers find replays

Records are taken from the credit when the copy leaves. The last envelope may take more than there is: it is not cut in two. Large
envelopes (more than 8 KiB a record) count by their bytes too: while a subscription has 8 MiB of them it has no credit.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from bus.broker.counts import Counts
from bus.broker.crossing import EXPIRED, LINK_LOST, NOT_LIVE, Crossing, Reader
from bus.broker.host_link import HostLink, Subscription
from bus.broker.outbox import HALF_WINDOW, End
from bus.broker.pacing import Pacing
from bus.broker.room import Room
from bus.broker.stopping import Stops

STALL_SECONDS: Final = 2.0
MAX_HELD_BYTES: Final = 8 << 20
"""For one subscription."""


class Gate(Stops):
    """Copies of one topic for one link."""

    __slots__ = ("blocker", "bytes", "host", "topic", "waiting")

    def __init__(self, host: HostLink, topic: str, blocker: Subscription) -> None:
        super().__init__()
        self.host, self.topic, self.blocker = host, topic, blocker
        self.waiting: deque[tuple[Crossing, Reader]] = deque()
        self.bytes = 0


class Holding:
    def __init__(self, counts: Counts, pacing: Pacing, room: Room, *, end: End) -> None:
        self._counts, self._pacing, self._room, self._end = counts, pacing, room, end
        self._gates: dict[tuple[HostLink, str], Gate] = {}
        self._starving: dict[Subscription, dict[Gate, None]] = {}
        """Those without credit, and what they hold back."""

    def __len__(self) -> int:
        """Copies that wait."""
        return sum(len(gate.waiting) for gate in self._gates.values())

    def cross(self, crossing: Crossing, reader: Reader, *, now: float) -> None:
        """One copy, to one link."""
        self._counts.copies += 1
        crossing.turn.pending += 1
        if crossing.asked is not None:
            crossing.asked.copies += 1
        gate = self._gates.get((reader.host, crossing.header.topic)) if self._gates else None
        if gate is None:
            blocker = _pay(reader, crossing)
            if blocker is None:
                reader.host.outbox.put(crossing, reader)
                return
            gate = self._gates[reader.host, crossing.header.topic] = Gate(reader.host, crossing.header.topic, blocker)
            self._starve(gate, blocker, now)
        self._hold(gate, crossing, reader)

    def credit(self, subscription: Subscription, records: int, *, now: float, now_ms: int) -> None:
        """Its reader has consumed so many."""
        subscription.consumed(records)
        if records and subscription.starved_at is not None:
            subscription.starved_at = now
        self.release(subscription, now=now, now_ms=now_ms)

    def release(self, subscription: Subscription, *, now: float, now_ms: int) -> None:
        """It has credit again, or it has ended: what it held back goes on."""
        if subscription.may_take or not subscription.is_live:
            for gate in [*self._starving.get(subscription, ())]:
                self._go_on(gate, now=now, now_ms=now_ms)

    def stalled(self, now: float) -> list[Subscription]:
        """Those that have given no credit for too long."""
        return [one for one in self._starving if one.starved_at is not None and now - one.starved_at >= STALL_SECONDS]

    def expire(self, *, now: float, now_ms: int) -> None:
        """Let go of what has expired at the front of what waits."""
        for gate in [*self._gates.values()]:
            if gate.waiting and now_ms > gate.waiting[0][0].header.expires_ms:
                self._go_on(gate, now=now, now_ms=now_ms)

    def overtaken(self, host: HostLink, epoch: bytes, number: int) -> None:
        """The link got this number of the epoch. For whom much older ones are held back, it would soon be too late."""
        for gate in [gate for gate in self._gates.values() if gate.host is host]:
            headers = (crossing.header for crossing, _ in gate.waiting)
            if any(one.epoch == epoch and number - one.seq >= HALF_WINDOW for one in headers):
                self._end(gate.blocker, "busy")
        self._note_epochs(host)

    def lost(self, host: HostLink) -> None:
        """Nothing more goes to this link."""
        for gate in [gate for gate in self._gates.values() if gate.host is host]:
            for crossing, _ in gate.waiting:
                self._drop(crossing, LINK_LOST)
            self._weigh(gate, -gate.bytes)
            self._close(gate)

    # ---- gates ---------------------------------------------------------------------------------------------------------------

    def _hold(self, gate: Gate, crossing: Crossing, reader: Reader) -> None:
        header = crossing.header
        gate.waiting.append((crossing, reader))
        self._weigh(gate, len(crossing.envelope))
        epochs = gate.host.held_epochs
        epochs[header.epoch] = min(header.seq, epochs.get(header.epoch, header.seq))
        if crossing.lane is not None:
            crossing.turn.is_held(gate, crossing.lane)
        if gate.blocker.held_bytes > MAX_HELD_BYTES or not self._room.has(0):
            self._end(gate.blocker, "busy")

    def _go_on(self, gate: Gate, *, now: float, now_ms: int) -> None:
        """As far as there is credit. What leaves may find its link full and end a subscription, and so come here again."""
        while gate.waiting:
            crossing, reader = gate.waiting[0]
            live = reader.of_now()
            if live is not None and now_ms <= crossing.header.expires_ms:
                blocker = _pay(live, crossing)
                if blocker is not None:
                    self._starve(gate, blocker, now)
                    return
            gate.waiting.popleft()
            self._weigh(gate, -len(crossing.envelope))
            if live is None:
                self._drop(crossing, NOT_LIVE)
            elif now_ms > crossing.header.expires_ms:
                self._drop(crossing, EXPIRED)
            else:
                gate.host.outbox.put(crossing, live)
        self._close(gate)

    def _starve(self, gate: Gate, blocker: Subscription, now: float) -> None:
        """It is this one that the gate waits for now; of several gates it comes last."""
        self._fed(gate)
        gate.blocker = blocker
        blocker.held_bytes += gate.bytes
        self._starving.setdefault(blocker, {})[gate] = None
        if blocker.starved_at is None:
            blocker.starved_at = now

    def _fed(self, gate: Gate) -> None:
        """Its blocker blocks it no more."""
        gates = self._starving.get(gate.blocker)
        if gates is None or gate not in gates:
            return
        del gates[gate]
        gate.blocker.held_bytes -= gate.bytes
        if not gates:
            del self._starving[gate.blocker]
            gate.blocker.starved_at = None

    def _weigh(self, gate: Gate, size: int) -> None:
        gate.bytes += size
        gate.blocker.held_bytes += size
        self._room.take(size)

    def _close(self, gate: Gate) -> None:
        if gate.is_empty:
            return
        self._fed(gate)
        del self._gates[gate.host, gate.topic]
        self._note_epochs(gate.host)
        gate.emptied()

    def _note_epochs(self, host: HostLink) -> None:
        host.held_epochs.clear()
        for gate in self._gates.values():
            if gate.host is host:
                for crossing, _ in gate.waiting:
                    header = crossing.header
                    host.held_epochs[header.epoch] = min(header.seq, host.held_epochs.get(header.epoch, header.seq))

    def _drop(self, crossing: Crossing, why: str) -> None:
        self._counts.dropped[why] += 1
        crossing.was_dropped()
        self._pacing.taken_in(crossing.turn)


def _pay(reader: Reader, crossing: Crossing) -> Subscription | None:
    """Take the credit of all that block; or the first that has none, and nothing is taken."""
    blocking = reader.blocking
    for one in blocking:
        if not one.may_take:
            return one
    for one in blocking:
        one.give(crossing.header.records, len(crossing.envelope))
    return None

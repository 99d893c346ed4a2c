"""A backbone as one would explain it: lists of everything, looked through each time. Positions come from the real one."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.backbone.interface import DEDUPLICATION_MS, Entry, RetentionClass
from bus.flow.redelivery import redelivery_seconds
from bus.flow.start import Start
from bus.protocol.topics import matches


@dataclass
class State:
    """A record that a consumer has looked at and that is not settled."""

    place: str
    """out, later or ready."""
    deliveries: int
    when: float


@dataclass
class NaiveConsumer:
    class_: str
    pattern: str
    start: Start
    cursor: int
    """The last position it has looked at."""
    states: dict[int, State] = field(default_factory=dict)
    is_open: bool = True


@dataclass
class Naive:
    classes: dict[str, RetentionClass]
    now: float = 0.0
    now_ms: int = 0
    passed_ms: int = 0
    """The latest instant of which it was told that it has passed."""
    records: dict[tuple[str, int], tuple[Entry, int]] = field(default_factory=dict)
    """Class and position -> what was stored, and when."""
    known: dict[tuple[str, bytes], tuple[int, int]] = field(default_factory=dict)
    consumers: dict[str, NaiveConsumer] = field(default_factory=dict)
    dead: set[tuple[str, int, str, int]] = field(default_factory=set)
    """Consumer, original, reason, deliveries. Where the original expired, it may be gone, and then it is no dead letter."""

    # ---- storing ---------------------------------------------------------------------------------------------------------------

    def expected(self, entries: list[Entry]) -> list[int | None]:
        """The position of each that is a duplicate; None for what is new."""
        found: list[int | None] = []
        for entry in entries:
            position, until_ms = self.known.get((entry.sender, entry.id), (None, 0))
            found.append(position if self.now_ms < until_ms else None)
        return found

    def lives(self, class_: str, position: int) -> bool:
        return self.records[class_, position][0].expires_ms > self.passed_ms

    def stored(self, entry: Entry, position: int) -> None:
        self.records[entry.class_, position] = (entry, self.now_ms)
        self.known[entry.sender, entry.id] = (position, self.now_ms + DEDUPLICATION_MS)

    def head(self, class_: str) -> int:
        return max((position for name, position in self.records if name == class_), default=0)

    # ---- consuming -------------------------------------------------------------------------------------------------------------

    def make(self, name: str, class_: str, pattern: str, start: Start) -> None:
        head = self.head(class_)
        consumer = self.consumers[name] = NaiveConsumer(class_, pattern, start, cursor=head)
        if start.kind == "all":
            consumer.cursor = 0
        elif start.kind == "position":
            consumer.cursor = max(start.number, 1) - 1
        elif start.kind == "time":
            later = [position for (c, position), (_, ms) in self.records.items() if c == class_ and ms >= start.number]
            consumer.cursor = min(later, default=head + 1) - 1
        elif start.kind == "last":
            alive = [
                (p, entry.topic) for (c, p), (entry, _) in self.records.items() if c == class_ and entry.expires_ms > self.passed_ms
            ]
            latest = {topic: position for position, topic in sorted(alive)}
            wanted = [position for topic, position in latest.items() if matches(pattern, topic)]
            consumer.states = {position: State("ready", 0, 0.0) for position in wanted}

    def open(self, name: str) -> None:
        consumer = self.consumers[name]
        consumer.is_open = True
        for position in [position for position, state in consumer.states.items() if state.place == "out"]:
            self._overdue(name, position)
        self.advance(name)

    def available(self, name: str) -> list[tuple[int, int, str, bytes]]:
        """What it may be handed now, in order, with the deliveries that it will then have."""
        consumer = self.consumers[name]
        self.advance(name)
        again = sorted((position, state.deliveries + 1) for position, state in consumer.states.items() if state.place == "ready")
        new = sorted(
            (position, 1)
            for (class_, position), (entry, _) in self.records.items()
            if class_ == consumer.class_ and position > consumer.cursor and matches(consumer.pattern, entry.topic)
            if position not in consumer.states
        )
        found = []
        for position, deliveries in again + new:
            entry, _ = self.records.get((consumer.class_, position), (None, 0))
            if entry is not None and entry.expires_ms > self.passed_ms:
                found.append((position, deliveries, entry.topic, entry.envelope))
        return found

    def handed_out(self, name: str, deliveries: list[tuple[int, int]]) -> None:
        consumer = self.consumers[name]
        wait = self.classes[consumer.class_].ack_wait_ms / 1000
        for position, times in deliveries:
            consumer.states[position] = State("out", times, self.now + wait)
        new = [position for position, times in deliveries if position > consumer.cursor]
        consumer.cursor = max([consumer.cursor, *new])

    def passed_over(self, name: str) -> None:
        """Everything that there was for it was handed out: what expired is done with."""
        consumer = self.consumers[name]
        consumer.cursor = max(consumer.cursor, self.head(consumer.class_))
        consumer.states = {position: state for position, state in consumer.states.items() if state.place != "ready"}

    def within(self, name: str, first: int, last: int, *places: str) -> list[int]:
        return [p for p, state in sorted(self.consumers[name].states.items()) if first <= p <= last and state.place in places]

    def ack(self, name: str, first: int, last: int) -> None:
        for position in self.within(name, first, last, "out", "later", "ready"):
            del self.consumers[name].states[position]

    def nak(self, name: str, first: int, last: int, delay: int | None) -> None:
        consumer = self.consumers[name]
        for position in self.within(name, first, last, "out"):
            state = consumer.states[position]
            if state.deliveries >= self.classes[consumer.class_].max_deliver:
                self._bury(name, position, "max_deliver")
            else:
                wait = redelivery_seconds(state.deliveries) if delay is None else delay / 1000
                consumer.states[position] = State("later", state.deliveries, self.now + wait)

    def term(self, name: str, first: int, last: int, reason: str) -> None:
        for position in self.within(name, first, last, "out"):
            self._bury(name, position, reason)

    def touch(self, name: str, first: int, last: int) -> None:
        consumer = self.consumers[name]
        for position in self.within(name, first, last, "out"):
            consumer.states[position].when = self.now + self.classes[consumer.class_].ack_wait_ms / 1000

    def requeue(self, name: str, original: int) -> None:
        self.consumers[name].states[original] = State("ready", 0, 0.0)

    # ---- time ------------------------------------------------------------------------------------------------------------------

    def advance(self, name: str) -> None:
        states = self.consumers[name].states
        for position in [p for p, state in states.items() if state.place != "ready" and state.when <= self.now]:
            self._overdue(name, position)

    def _overdue(self, name: str, position: int) -> None:
        consumer = self.consumers[name]
        state = consumer.states[position]
        if state.deliveries >= self.classes[consumer.class_].max_deliver:
            self._bury(name, position, "max_deliver")
        else:
            state.place = "ready"

    def _bury(self, name: str, position: int, reason: str) -> None:
        consumer = self.consumers[name]
        state = consumer.states.pop(position)
        self.dead.add((name, position, reason, state.deliveries))

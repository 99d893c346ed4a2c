"""Sessions, delivery, restart, renewal and revocation: one sender, one receiver, and a broker that keeps everything for ever.

The receiver has plain subscriptions to `news` and `other` (policy treats them alike, so they share epochs) and a durable one to
`jobs`. The broker delivers what it has at any time, as often as it likes; another reader holds every epoch key, and forges; in
some scenes the sender's host key is stolen. Window and ledger are the real ones. docs/explanation/the-model.md says the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from bus.errors import VerificationError
from bus.flow.ledger import Ledger, Row
from bus.protocol.replay import Windows
from bus.protocol.skew import SKEW_MS

TICK = 100_000  # longer than the skew, so that it matters
LIVE_MS, DURABLE_MS = TICK, 8 * TICK  # how long an epoch lives, and a message; a session certificate as long as a live epoch
HIGH = 1 << 31

ONCE = "No record of a live topic is handed over twice."
GENUINE = "Nothing is handed over that the named sender did not send to that topic."
FINISHED = "A finished durable record is never handed over again."
UNFINISHED = "An unfinished durable record can always be handed over."
REVOKED = "Nothing of a revoked signer is handed over after the receiver holds the statement."
SEALED_ONCE = "No number of an epoch is sealed twice."
NOT_LOST = "Neither renewal, rotation nor a forgery loses what was sent before."


class Header(NamedTuple):
    topic: str
    epoch: int
    seq: int
    sent: int
    session: int

    def __str__(self) -> str:
        return f"{self.topic} {self.epoch}/{self.seq}"


class Envelope(NamedTuple):
    header: Header
    signed: Header | None  # the header that the sender's host key signed; None: somebody else signed


class Epoch(NamedTuple):
    lives: int
    made: int


class Session(NamedTuple):
    identity: int
    since: int


class Process(NamedTuple):
    """One of the sender's, with what it can seal with: (epoch, next number)."""

    session: int
    live: tuple[int, int] | None = None
    durable: tuple[int, int] | None = None


class World(NamedTuple):
    left: tuple[tuple[str, int], ...]  # which events may still come, and how often
    delivers: bool = True
    now: int = 0
    processes: tuple[Process, ...] = (Process(0),)
    sessions: tuple[Session, ...] = (Session(0, 0),)
    epochs: tuple[Epoch, ...] = ()
    sent: frozenset[Header] = frozenset()
    forged: frozenset[Envelope] = frozenset()
    stolen: bool = False
    revoked: tuple[str, int] | None = None  # reason and date
    knows: bool = False  # the receiver holds the statement that revokes
    began: int = 0
    keys: frozenset[int] = frozenset()  # epochs that the receiver can open
    taken: frozenset[tuple[int, int]] = frozenset()  # committed to its windows
    rows: tuple[Row, ...] = ()  # of its ledger, on disk
    hands: frozenset[tuple[Header, int]] = frozenset()  # durable records that its handlers have
    finished: tuple[tuple[Header, int], ...] = ()  # and are done with; not yet written
    handed: frozenset[Header] = frozenset()  # live ones, in all its lives
    safe: frozenset[tuple[Header, int]] = frozenset()  # durable records that were written or acknowledged
    fault: str = ""


# ---- the receiver: its lines in their order, with the real window and the real ledger --------------------------------------------


@cache
def windows(taken: frozenset[tuple[int, int]], epochs: tuple[Epoch, ...], now: int, ttl: int) -> Windows:
    table = Windows()
    for epoch, seq in sorted(taken):
        table.commit(bytes([epoch]) * 32, seq, sender="S", ends_ms=epochs[epoch].made + epochs[epoch].lives, ttl_ms=ttl)
    table.forget(now)
    return table


def ledger(rows: tuple[Row, ...], finished: tuple[tuple[Header, int], ...]) -> Ledger:
    book = Ledger.load(rows)
    for header, index in finished:
        book.finish(bytes([header.epoch]) * 32, header.seq, (index,), records=2, expires_ms=header.sent + DURABLE_MS)
    return book


@cache
def unfinished(rows: tuple[Row, ...], finished: tuple[tuple[Header, int], ...], header: Header) -> tuple[int, ...]:
    return ledger(rows, finished).decide(bytes([header.epoch]) * 32, header.seq, records=2).unfinished


def is_live(header: Header, broken: str = "") -> bool:
    return header.topic != "jobs" or broken == "durable judged by a window"


def is_new(world: World, header: Header, broken: str) -> tuple[int, ...]:
    """Line 5: the records that may be handed over. Raises VerificationError."""
    if not is_live(header, broken):
        return unfinished(world.rows, world.finished, header)
    if is_live(header) and header.sent < world.began and broken != "began not looked at":
        raise VerificationError("before_session")
    ttl = -SKEW_MS if broken == "window forgotten when its epoch ends" else LIVE_MS
    windows(world.taken, world.epochs, world.now, ttl).check(bytes([header.epoch]) * 32, header.seq, sender="S")
    return (0,) if is_live(header) else (0, 1)


def is_believed(world: World, header: Header, signed: Header | None, broken: str) -> bool:
    """Lines 7 and 8. Line 6 hides from the broker alone."""
    session = world.sessions[header.session]
    if signed is None or (signed != header and broken != "proof of another header taken"):
        return False
    if broken == "papers dropped at renewal" and header.session != world.processes[0].session:
        return False
    return session.since <= header.sent <= session.since + LIVE_MS and not is_revoked(world, header, broken)


def is_revoked(world: World, header: Header, broken: str = "") -> bool:
    if not world.knows or world.revoked is None or world.sessions[header.session].identity != 0:
        return False
    reason, date = world.revoked
    return header.sent >= date or (reason == "compromised" and broken != "revocation judged by sent_ms")


def judge(world: World, envelope: Envelope, broken: str) -> tuple[tuple[int, ...], bool]:
    """Which records are handed over, and whether the window takes the number."""
    header, signed = envelope
    epoch = world.epochs[header.epoch]
    in_time = header.sent - SKEW_MS <= world.now <= header.sent + (LIVE_MS if is_live(header) else DURABLE_MS)  # 3
    if not in_time or header.epoch not in world.keys or not epoch.made - SKEW_MS <= header.sent <= epoch.made + epoch.lives:  # 4
        return (), False
    try:
        indexes = is_new(world, header, broken)
    except VerificationError:
        return (), False
    if not is_believed(world, header, signed, broken):
        return (), broken == "window moved before the proof"
    return indexes, is_live(header, broken)


def delivered(world: World, envelope: Envelope, broken: str) -> World:
    header = envelope.header
    indexes, takes = judge(world, envelope, broken)
    if takes:
        world = world._replace(taken=world.taken | {(header.epoch, header.seq)})
    if not indexes:
        return world
    records = {(header, index) for index in indexes}
    faults = {
        REVOKED: is_revoked(world, header),
        ONCE: header in world.handed,
        FINISHED: bool(records & world.safe),
        GENUINE: header not in world.sent and not world.stolen,
    }
    world = world._replace(fault=next((name for name, holds in faults.items() if holds), ""))
    return world._replace(handed=world.handed | {header}) if is_live(header) else world._replace(hands=world.hands | records)


def fault(world: World, broken: str = "") -> str:
    """What has gone wrong; or could not happen now although it must be possible."""
    if world.fault or world.stolen:  # whoever has the host key can use up numbers: the residue of a stolen key
        return world.fault
    for header in sorted(world.sent):
        indexes, _ = judge(world, Envelope(header, header), broken)
        if header.epoch not in world.keys or (is_revoked(world, header) and world.revoked[0] == "compromised"):
            continue
        if is_live(header):
            due = world.began <= header.sent and world.now <= header.sent + LIVE_MS and header not in world.handed
            if due and not indexes:
                return NOT_LOST
        elif {(header, 0), (header, 1)} - world.safe - {*world.finished} - {(header, index) for index in indexes}:
            return UNFINISHED
    return ""


# ---- what may happen -------------------------------------------------------------------------------------------------------------


def moves(world: World, broken: str = "") -> Iterator[tuple[str, World]]:
    for event, count in () if world.fault else world.left:
        if count:
            spent = world._replace(left=tuple((other, left - (other == event)) for other, left in world.left))
            yield from ((event, after) for after in EVENTS[event](spent, broken))
    if world.fault or not world.delivers:
        return
    for envelope in [*(Envelope(header, header) for header in sorted(world.sent)), *sorted(world.forged, key=str)]:
        forged = "" if envelope.header in world.sent else "forged "
        yield f"the broker delivers {forged}{envelope.header}", delivered(world, envelope, broken)
    for epoch in {process.live[0] for process in world.processes if process.live is not None} - world.keys:
        yield f"the sender grants epoch {epoch} again", world._replace(keys=world.keys | {epoch})
    for header, index in sorted(world.hands):
        finished = tuple(sorted({*world.finished, (header, index)}))
        done = world._replace(hands=world.hands - {(header, index)}, finished=finished)
        early = {*finished} if broken == "ledger committed after the ack" else set()
        yield f"a handler finishes record {index} of {header}", done._replace(safe=world.safe | early)
    if world.finished:
        yield "the ledger is written, and acknowledges", written(world)
    if world.revoked is not None and not world.knows:
        yield "the receiver gets the statement", world._replace(knows=True)


def written(world: World) -> World:
    changes = ledger(world.rows, world.finished).changes()
    rows = {(row.epoch, row.start): row for row in world.rows if (row.epoch, row.start) not in changes.drop}
    rows |= {(row.epoch, row.start): row for row in changes.put}
    return world._replace(rows=tuple(sorted(rows.values())), finished=(), safe=world.safe | {*world.finished})


def publish(world: World, topic: str) -> Iterator[World]:
    for place, process in enumerate(world.processes):
        slot, lives = ("durable", DURABLE_MS) if topic == "jobs" else ("live", LIVE_MS)
        epoch, seq = getattr(process, slot) or (len(world.epochs), 0)
        header = Header(topic, epoch, seq, world.now, process.session)
        if world.now > world.sessions[process.session].since + LIVE_MS:
            continue
        epochs = world.epochs if epoch < len(world.epochs) else (*world.epochs, Epoch(lives, world.now))
        keys = world.keys | {epoch} if epochs != world.epochs else world.keys  # a new epoch is granted to whoever may hear
        twice = any((other.epoch, other.seq) == (epoch, seq) for other in world.sent)
        after = process._replace(**{slot: (epoch, seq + 1)})
        processes = (*world.processes[:place], after, *world.processes[place + 1 :])
        world_after = world._replace(epochs=epochs, keys=keys, processes=processes, sent=world.sent | {header})
        yield world_after._replace(fault=SEALED_ONCE if twice else "")


def renew(world: World, *, identity: int | None = None) -> World:
    """The first process has a new session certificate, and its live epoch ends."""
    new = Session(world.sessions[-1].identity if identity is None else identity, world.now)
    first = world.processes[0]._replace(session=len(world.sessions), live=None)
    return world._replace(sessions=(*world.sessions, new), processes=(first, *world.processes[1:]))


def restart_sender(world: World, broken: str) -> Iterator[World]:
    durable = world.processes[0].durable
    kept = (durable[0], 0) if durable and broken == "epoch restored after a restart" else None
    new = renew(world)
    yield new._replace(processes=(new.processes[0]._replace(durable=kept),))


def fork(world: World, broken: str) -> Iterator[World]:
    child = world.processes[0] if broken == "epochs kept over fork" else Process(world.processes[0].session)
    yield world._replace(processes=(*world.processes, child))


def rotate(world: World, broken: str) -> Iterator[World]:
    date = world.now + (broken != "rotation dated before the switch")
    yield renew(world._replace(now=world.now + 1, revoked=("rotated", date)), identity=1)


def forge(world: World, _: str) -> Iterator[World]:
    for header in sorted(world.sent):
        high, elsewhere = header._replace(seq=HIGH), header._replace(topic="other", seq=header.seq + 1)
        yield world._replace(forged=world.forged | {Envelope(high, None)})
        yield world._replace(forged=world.forged | {Envelope(elsewhere, header)})


def steal(world: World, _: str) -> Iterator[World]:
    for header in sorted(world.sent):
        back_dated = header._replace(seq=HIGH)
        yield world._replace(stolen=True, forged=world.forged | {Envelope(back_dated, back_dated)})


def restart_receiver(world: World, _: str) -> Iterator[World]:
    inbox = frozenset(epoch for epoch in world.keys if world.epochs[epoch].lives == DURABLE_MS)
    now = world.now + 1  # a restart takes a millisecond
    yield world._replace(now=now, began=now, keys=inbox, taken=frozenset(), hands=frozenset(), finished=())


EVENTS: dict[str, Callable[[World, str], Iterator[World]]] = {
    "the sender publishes news": lambda world, _: publish(world, "news"),
    "the sender publishes other": lambda world, _: publish(world, "other"),
    "the sender publishes jobs": lambda world, _: publish(world, "jobs"),
    "the sender renews": lambda world, _: iter((renew(world),)),
    "the sender restarts": restart_sender,
    "the sender forks": fork,
    "the sender's identity key is rotated": rotate,
    "the sender's identity is revoked": lambda world, _: iter(
        (world._replace(now=world.now + 1, revoked=("compromised", world.now + 1)),)
    ),
    "a reader forges": forge,
    "the sender's host key is stolen": steal,
    "the receiver restarts": restart_receiver,
    "the receiver renews": lambda world, broken: iter(
        (world._replace(taken=frozenset()) if broken == "windows dropped at renewal" else world,)
    ),
    "time passes": lambda world, _: iter((world._replace(now=world.now + TICK),)),
}

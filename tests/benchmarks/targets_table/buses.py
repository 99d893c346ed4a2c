"""Rows that are measured beside another bus, or this bus used otherwise: in pairs, by the workers of `tpmbus bench peers`."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

from bus.bench.peers.catalogue import CONTENDERS, OURS, VARIANTS
from bus.bench.peers.comparison import Measured, measured
from bus.bench.peers.contender import Contender
from bus.bench.peers.crew import Crew, Settings, crew
from targets_table.figure import Curve, Figure, short
from targets_table.running import Run

ALL = CONTENDERS | VARIANTS
MANY, PLAIN = "tpmbus-many", "tpmbus"
SECONDS, WARM = 2.0, 0.7
SHARES = (0.10, 0.25, 0.50, 0.75, 0.90)
"""Of the maximum, for the curve; the first, the third and the fourth have targets."""
WITH_TARGET = (0.10, 0.50, 0.75)
UNITS = ("record", "envelope")
"""Of durable topics: each record in an envelope of its own, as it is unless policy says otherwise, or what gathers together."""
DURABLE_RATE = 30_000


# ---- one to one ------------------------------------------------------------------------------------------------------------------


async def one_to_one(run: Run) -> None:
    """Each other bus beside both ways to publish. One that is not installed, or that fails, is a failure of the row, at its end."""
    missing: list[str] = []
    async with _crew(run, PLAIN) as own:
        for name, targets in (
            ("nats", {MANY: (2.0, None), PLAIN: (1.8, None)}),
            ("zenoh", {MANY: (0.9, 1.0)}),
            ("zmq-curve", {MANY: (0.8, None)}),
            ("slim-mls", {MANY: (50.0, None)}),
        ):
            runs: list[Measured] = []
            try:
                await _beside(run, "1to1", own, name, runs, turns=5)
            except Exception as error:  # noqa: BLE001  whatever it is: the next bus can still be measured
                missing.append(f"{name}: {error}")
            finally:  # also of a row that is stopped, the pairs that are whole
                for ours, (target, aim) in targets.items():
                    run.outcome.figures.append(_ratio(f"{_called(ours)} / {_called(name)}", runs, ours, name, target, aim=aim))
                _note(run, runs, "a second", *OURS, name)
    if missing:
        raise RuntimeError("; ".join(missing))


async def _beside(run: Run, workload: str, own: Crew, name: str, found: list[Measured], *, turns: int) -> None:
    """Pairs of this bus, in each of its ways, and another one; who is first changes. `found` grows."""
    if lacking := CONTENDERS[name].lacking():
        raise RuntimeError(f"without {', '.join(lacking)}: {CONTENDERS[name].install}")
    ways = [CONTENDERS[one] for one in OURS if CONTENDERS[one].can(workload)]
    async with _crew(run, name) as other:
        await _in_turns(run, workload, [*((own, way) for way in ways), (other, other.contender)], found, turns=turns)


async def _in_turns(run: Run, workload: str, both: Sequence[tuple[Crew, Contender]], found: list[Measured], *, turns: int) -> None:
    """One after the other, and the other way round the next time. `found` grows."""
    settings = Settings(workload, seconds=run.seconds(SECONDS), warm_seconds=run.seconds(WARM))
    for turn in range(run.turns(turns)):
        for one, way in both if turn % 2 == 0 else reversed(both):
            run.told(f"pair {turn + 1} of {run.turns(turns)}: {way.title}")
            found.append(measured(way.name, turn, await one.run(settings, way), by_the_clock=False))


def _note(run: Run, runs: list[Measured], unit: str, *names: str) -> None:
    """The medians alone, for whoever wants to know; and what should not be."""
    found = [(name, [one.figure for one in runs if one.bus == name]) for name in names]
    run.outcome.notes += [f"{_called(name)}: {short(statistics.median(figures))} {unit}" for name, figures in found if figures]
    wrong = [one for one in runs if one.lost or one.duplicated]
    run.outcome.notes += [f"{_called(one.bus)} lost {one.lost} and doubled {one.duplicated}" for one in wrong]


_crews = count(1)


@asynccontextmanager
async def _crew(run: Run, name: str) -> AsyncIterator[Crew]:
    async with crew(ALL[name], run.place / f"{next(_crews)}") as one:
        yield one


# ---- the same by the clock -------------------------------------------------------------------------------------------------------


async def open_loop(run: Run) -> None:
    """At parts of the highest rate, which is found first, in the same minute."""
    async with _crew(run, PLAIN) as own:
        for name in (MANY, PLAIN):
            way, most = CONTENDERS[name], []
            for turn in range(run.turns(2)):
                run.told(f"{way.title}, at its most, {turn + 1}")
                most.append((await _once(run, own, way, None, turn)).figure)
            highest, points = statistics.median(most), []
            run.outcome.notes.append(f"{_called(name)} at its most: {highest:,.0f} a second")
            for share in SHARES:
                turns = run.turns(3 if share in WITH_TARGET else 1)
                found = []
                for turn in range(turns):
                    run.told(f"{way.title}, at {share:.0%} of its most, {turn + 1} of {turns}")
                    found.append((await _once(run, own, way, max(share * highest, 1.0), turn)).latency)
                points.append(
                    (share * highest, statistics.median(one.p50 for one in found), statistics.median(one.p99 for one in found))
                )
                if share in WITH_TARGET:
                    what, fewer = f"{_called(name)} at {share:.0%}", {"unit": "ms", "more_is_better": False}
                    run.outcome.figures.append(Figure(f"{what}: p50", target=2, values=tuple(one.p50 for one in found), **fewer))
                    run.outcome.figures.append(Figure(f"{what}: p99", target=20, values=tuple(one.p99 for one in found), **fewer))
            run.outcome.curves.append(Curve(way.title, points))


async def _once(run: Run, own: Crew, way: Contender, rate: float | None, turn: int) -> Measured:
    settings = Settings("1to1", seconds=run.seconds(SECONDS), warm_seconds=run.seconds(WARM), rate=rate)
    return measured(way.name, turn, await own.run(settings, way), by_the_clock=rate is not None)


# ---- others ----------------------------------------------------------------------------------------------------------------------


async def signed_by_the_tpm(run: Run) -> None:
    """Both `accepted`, as live topics have it. Beside them, without a target, one that waits for each 1,024 records until they are
    signed, as it does on topics of the identity key unless it says otherwise."""
    session, tpm, waited = (VARIANTS[name] for name in ("tpmbus-session", "tpmbus-tpm", "tpmbus-tpm-sent"))
    found: list[Measured] = []
    try:
        async with _crew(run, session.name) as own:
            for turn in range(run.turns(5)):
                ways = (session, tpm) if turn % 2 == 0 else (tpm, session)
                for way in (*ways, waited) if turn < 2 else ways:
                    run.told(f"pair {turn + 1} of {run.turns(5)}: {way.title}")
                    found.append(await _once(run, own, way, None, turn))
    finally:
        run.outcome.figures.append(_ratio("every batch signed by the TPM / by the session", found, tpm.name, session.name, 0.8))
        _note(run, found, "a second", session.name, tpm.name, waited.name)


async def requests(run: Run) -> None:
    wanted = {PLAIN: ("a request's time / nats-py's", 2.0, 1.5)}
    await _beside_nats(run, "reqrep", "ms", wanted, turns=5, more_is_better=False)


async def fan_out(run: Run) -> None:
    wanted = {name: (f"{_called(name)} to 75 / nats-py to 75", 1.0, None) for name in (MANY, PLAIN)}
    await _beside_nats(run, "1to75", "deliveries a second", wanted, turns=3)


async def durable(run: Run) -> None:
    """Both units at one hub, each beside JetStream that syncs what it acknowledges, and as it comes: it syncs every two minutes."""
    units = [VARIANTS[f"tpmbus-unit-{unit}"] for unit in UNITS]
    jetstreams = {"JetStream, synced": VARIANTS["nats-synced"], "JetStream, not synced": CONTENDERS["nats"]}
    run.outcome.notes.append("tpmbus acknowledges after an fsync, and each record by itself, whatever travels together")
    found: list[Measured] = []
    async with AsyncExitStack() as stack:
        stack.callback(_say_durable, run, found, jetstreams)
        own = await stack.enter_async_context(_crew(run, units[0].name))
        both = [(own, unit) for unit in units]
        for one in jetstreams.values():
            if lacking := one.lacking():
                raise RuntimeError(f"without {', '.join(lacking)}: {one.install}")
            both.append((await stack.enter_async_context(_crew(run, one.name)), one))
        await _in_turns(run, "durable", both, found, turns=3)


def _say_durable(run: Run, found: list[Measured], jetstreams: Mapping[str, Contender]) -> None:
    for unit in UNITS:
        ours = f"tpmbus-unit-{unit}"
        for other, one in jetstreams.items():
            run.outcome.figures.append(_ratio(f"unit: {unit} / {other}", found, ours, one.name, 1.0))
        rates = tuple(one.figure for one in found if one.bus == ours)
        run.outcome.figures.append(Figure(f"unit: {unit}, stored and acknowledged", "a second", DURABLE_RATE, rates))
    _note(run, found, "a second", *(f"tpmbus-unit-{unit}" for unit in UNITS), *(one.name for one in jetstreams.values()))


Wanted = tuple[str, float, float | None]
"""What a figure is called, its target, and what would be better still."""


async def _beside_nats(
    run: Run, workload: str, unit: str, wanted: Mapping[str, Wanted], *, turns: int, more_is_better: bool = True
) -> None:
    """`wanted`: by the way to use this bus."""
    found: list[Measured] = []
    try:
        async with _crew(run, PLAIN) as own:
            await _beside(run, workload, own, "nats", found, turns=turns)
    finally:
        for ours, (what, target, aim) in wanted.items():
            run.outcome.figures.append(_ratio(what, found, ours, "nats", target, aim=aim, more_is_better=more_is_better))
        _note(run, found, unit, *wanted, "nats")


# ---- pairs -----------------------------------------------------------------------------------------------------------------------


def _ratio(
    what: str, runs: list[Measured], ours: str, other: str, target: float, *, aim: float | None = None, more_is_better: bool = True
) -> Figure:
    """This bus's figure through the other's, pair by pair. Processor time is turned round where more is better."""
    both = [
        (one, another) for one in runs for another in runs if (one.bus, another.bus) == (ours, other) and one.pair == another.pair
    ]
    spent = [(one.cpu_us, another.cpu_us) for one, another in both if one.cpu_us and another.cpu_us]
    return Figure(
        what=what,
        unit="x",
        target=target,
        values=tuple(one.figure / another.figure for one, another in both),
        more_is_better=more_is_better,
        by_processor=tuple(theirs / mine if more_is_better else mine / theirs for mine, theirs in spent),
        aim=aim,
    )


def _called(name: str) -> str:
    return {MANY: "publish_many", PLAIN: "publish", "nats": "nats-py", "zenoh": "zenoh-python"}.get(name, ALL[name].title)

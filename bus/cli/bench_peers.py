"""`tpmbus bench peers`: this bus beside others, in one run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output

if TYPE_CHECKING:
    from bus.bench.peers.comparison import Comparison


class _Finite(click.FloatRange):
    """Of no end, or no number at all, nothing could be measured."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of a measurement.", param, ctx)
        return float(number)


@click.command()
@click.option("--only", metavar="NAME,..", help="nats, zenoh, zmq, zmq-curve, slim-mls, slim, agentmesh.  [default: all]")
@click.option(
    "--workload",
    type=click.Choice(["1to1", "reqrep", "1to75", "durable"]),
    default="1to1",
    show_default=True,
    help="One sender and one reader, requests one at a time, 75 readers, or stored before it is acknowledged.",
)
@click.option(
    "--pairs", type=click.IntRange(1, 1_000), default=5, show_default=True, help="Runs of each bus, in turns with tpmbus."
)
@click.option("--seconds", type=_Finite(min=0.05), default=3.0, show_default=True, help="Of each run's window.")
@click.option("--warm", type=_Finite(min=0.01), default=1.0, show_default=True, help="Seconds before it, thrown away.")
@click.option("--size", type=click.IntRange(64, 65_536), default=256, show_default=True, help="Bytes of a body.")
@click.option(
    "--rate",
    type=_Finite(min=1),
    help="Messages a second by the clock: latencies.  [default: as many as the reader takes]",
)
@command()
def peers(
    *,
    only: str | None,
    workload: str,
    pairs: int,
    seconds: float,
    warm: float,
    size: int,
    rate: float | None,
    output: Output,
) -> int:
    """Measure other buses and tpmbus in turns, and say what each of them secures.

    Every bus has the same bodies, processes, event loop and counting; each is used at its fastest in a sensible program. One pair
    is a run of tpmbus and one of the other right after it, or before: its ratio is what a busy machine changes least.
    What is not installed is named, with how to install it: `pip install 'tpmbus[peers]'` and a nats-server, or in a checkout
    `make bench-peers`. Exit code 1 where a bus failed, or lost or doubled something.
    """
    from bus.bench.peers.crew import CrewError, Settings
    from bus.bench.peers.running import able, compared, names_of_others, ways
    from bus.cli.loop import run, until_stopped

    if rate is not None and workload == "reqrep":
        raise click.UsageError("requests go one at a time: there is no rate for them")
    try:
        others = names_of_others([name.strip() for name in only.split(",")] if only else [])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from error
    settings = Settings(workload, seconds=seconds, warm_seconds=warm, size=size, rate=rate)
    with output.progress() as progress:
        runs = sum(len(ways(workload)) + 1 for _ in able(others, workload)[0]) or len(ways(workload))
        bar = progress.add_task(workload, total=pairs * runs)

        async def measure() -> tuple[Comparison | None, int]:
            found = None
            async with until_stopped() as stopped:
                found = await compared(
                    settings,
                    others,
                    pairs=pairs,
                    told=lambda name: progress.update(bar, advance=1, description=f"{workload}: {name}"),
                )
            return found, stopped.exit_code

        try:
            comparison, code = run(measure)
        except CrewError as error:
            output.note(f"tpmbus: it could not be measured itself: {error}")
            return EXIT_NO
    if comparison is None:
        return code
    _show(comparison, output)
    wrong = any(row.lost or row.duplicated for row in comparison.rows) or any(one.reason == "failed" for one in comparison.absent)
    return EXIT_NO if wrong else 0


def _show(comparison: Comparison, output: Output) -> None:
    from bus.bench.peers import table

    output.document(comparison.document())
    for columns, lines in table.tables(comparison, width=output.width):
        output.table(columns, lines)
    left_out = table.what_is_left_out(width=output.width)
    for note in (*([left_out] if left_out else []), *table.notes(comparison)):
        output.paragraph(note)

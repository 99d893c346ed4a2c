"""`tpmbus bench`: load tests with honest clocks, their reports, and what changed between two of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.bench_peers import peers
from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output

if TYPE_CHECKING:
    from rich.progress import Progress

    from bus.bench.compare import Change
    from bus.bench.crowd import Delay, Look
    from bus.bench.result import Result, Spread
    from bus.bench.running import Wanted
    from bus.bench.scenario import Scenario
    from bus.bench.step import Step


@click.group()
def bench() -> None:
    """Load tests: what a message costs here, how many there can be, and what changed."""


bench.add_command(peers)


@bench.command("list")
@command()
def list_scenarios(*, output: Output) -> None:
    """The scenarios that come with the package. Your own are files: docs/how-to/measure.md."""
    from bus.bench.scenario import find, load, shipped

    found = [load(find(name)) for name in shipped()]
    output.document([scenario.document() for scenario in found])
    output.table(("name", "what it is", "kind", "delivery", "transport"), [_listed(scenario) for scenario in found])


def _listed(scenario: Scenario) -> tuple[object, ...]:
    return scenario.name, scenario.about, scenario.kind, scenario.delivery, scenario.transport


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from bus.policy.values import parse_size

        try:
            return int(value) if str(value).isdecimal() else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_MOST_DELAY_SECONDS = 10.0
"""Opening a hub asks for a dozen operations, one after the other, and waits for them no longer than for a chip."""


class _TpmDelay(click.ParamType["Delay"]):
    name = "delay"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Delay:
        from bus.bench.crowd import Delay
        from bus.policy.values import parse_duration

        parts = [part.strip().partition("=")[::2] for part in str(value).split(",")]
        words = dict(parts)
        if set(words) - {"ecc", "rsa"} or len(words) < len(parts):
            self.fail(f"{value!r}: write ecc=40ms, rsa=120ms, or both with a comma between", param, ctx)
        try:
            seconds = {name: parse_duration(text) / 1e3 for name, text in words.items()}
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if max(seconds.values()) > _MOST_DELAY_SECONDS:
            self.fail(f"{value!r}: at most {_MOST_DELAY_SECONDS:.0f} seconds, which no chip takes", param, ctx)
        return Delay(seconds.get("ecc", 0.0), seconds.get("rsa", 0.0))


@bench.command()
@click.argument("scenario", metavar="NAME|FILE")
@click.option(
    "--rate", "rates", type=click.FloatRange(min=0, min_open=True), multiple=True, help="Messages a second; again for a step each."
)
@click.option(
    "--search", is_flag=True, help="Look for the highest rate of which 99.9 % are delivered in time, from the first rate on."
)
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Of each step's window.")
@click.option("--warm", type=click.FloatRange(min=0.01), help="Seconds before it that are thrown away.")
@click.option("--runs", type=click.IntRange(1, 100), help="How often all of it is done: their spread is the noise.")
@click.option("--size", type=_Size(), help="Of a body: 64B to 64KiB.")
@click.option("--processes", type=click.IntRange(1, 256), help="That senders and readers are spread over.")
@click.option(
    "--transport",
    type=click.Choice(["embedded", "unix", "tls", "nats"]),
    help="How the processes reach the hub; nats: who only reads is at a gateway, and a nats-server in between.",
)
@click.option(
    "--tpm", help="Which TPM: swtpm, software, a TCTI string, or several (swtpm*3, A;B).  [default: TPMBUS_TPM, else swtpm]"
)
@click.option(
    "--tpm-delay", type=_TpmDelay(), metavar="ecc=40ms,rsa=120ms", help="Make each operation of a TPM key take so much longer."
)
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="A folder to keep between measurements.  [default: a new one]"
)
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a line a step there."
)
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a report there: one file."
)
@command()
def run(
    *,
    scenario: str,
    rates: tuple[float, ...],
    search: bool,
    seconds: float | None,
    warm: float | None,
    runs: int | None,
    size: int | None,
    processes: int | None,
    transport: str | None,
    tpm: str | None,
    tpm_delay: Delay | None,
    state: Path | None,
    csv_file: Path | None,
    html_file: Path | None,
    output: Output,
) -> int:
    """Play a scenario and measure it, in processes of its own.

    Messages leave by the clock (an open loop), and a latency counts from when the message was due. What is lost, comes twice or
    out of order is counted. Exit code 1 where something was lost or came twice although the scenario kills nobody, or where a
    search found no rate that was kept. `--json > A.json` keeps the result for `tpmbus bench compare`.
    """
    from bus.bench.running import Wanted
    from bus.bench.scenario import changed, find, load
    from bus.cli.loop import run as run_loop

    words = {"rates": rates or None, "seconds": seconds, "warm_seconds": warm, "runs": runs, "size": size}
    try:
        plan = changed(load(find(scenario)), **words, processes=processes, transport=transport)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if search and plan.kind == "start":
        raise click.UsageError("there is no rate to search for: a start is done one after the other")
    for file in (csv_file, html_file):  # known before minutes have been spent
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"{file.parent} is no folder")
    wanted = Wanted(is_search=search, state=state, tpm=tpm, delay=tpm_delay)
    with output.progress() as progress:
        result, code = run_loop(_measured, plan, wanted, _Watcher(progress, plan, is_search=search))
    if result is None:
        output.note("Stopped before the end: there is no result.")
        return int(code)
    _write(result, csv_file, html_file)
    output.document(result.document())
    _show(result, output)
    return _exit(result, plan)


async def _measured(plan: Scenario, wanted: Wanted, watcher: _Watcher) -> tuple[Result | None, int]:
    """No result, and how to end, where a signal came first: what was started has ended then, too."""
    from bus.bench.running import measure
    from bus.cli.loop import until_stopped

    found: list[Result] = []
    async with until_stopped() as stopped:
        found.append(await measure(plan, wanted, watcher))
    return (found[0], 0) if found else (None, stopped.exit_code or EXIT_NO)


class _Watcher:
    """A bar and live numbers, on a terminal."""

    def __init__(self, progress: Progress, plan: Scenario, *, is_search: bool) -> None:
        self._progress, self._plan = progress, plan
        self._run, self._ended = "", 0
        self._task = progress.add_task(plan.name, total=None if is_search else plan.runs * len(plan.rates))

    def run_begins(self, run: int, runs: int) -> None:
        self._run = f"{self._plan.name}, run {run} of {runs}"
        self._progress.update(self._task, description=f"{self._run}: starting")

    def looked(self, look: Look) -> None:
        told = f"{self._run}, {look.order.rate:,.0f}/s: {look.sent:,} sent, {look.heard:,} heard"
        begin_ns, end_ns = look.order.begin_ns, look.order.end_ns
        share = min(max((time.monotonic_ns() - begin_ns) / (end_ns - begin_ns), 0.0), 1.0)
        self._progress.update(self._task, description=told, completed=self._ended + share)

    def step_ended(self, step: Step) -> None:
        told = f"{self._run}, {step.rate:,.0f}/s: p50 {step.latency.p50:.2f} ms, p99 {step.latency.p99:.2f} ms"
        self._ended += 1
        self._progress.update(self._task, description=told, completed=self._ended)


def _write(result: Result, csv_file: Path | None, html_file: Path | None) -> None:
    if csv_file is not None:
        from bus.bench.report.table import as_csv

        csv_file.write_text(as_csv(result))
    if html_file is not None:
        from bus.bench.report.page import as_html

        html_file.write_text(as_html(result))


def _show(result: Result, output: Output) -> None:
    from bus.bench.report import done
    from bus.bench.report.table import BRIEF, brief

    shown, rows = brief(result), result.rows()
    title = f"{result.name}: {result.scenario['about']}"
    output.table(BRIEF, shown, title=title)
    for columns, lines in (
        (done.APART, done.apart(rows)),
        (done.PROVED, done.proved(rows)),
        (done.DONE, done.done(rows)),
        done.processes(rows),
    ):
        if told := list(lines):
            output.table(columns, told)
    if not shown:
        output.line("No rate was kept: begin the search lower with --rate.")
    for note in result.notes:
        output.line(note)


def _exit(result: Result, plan: Scenario) -> int:
    steps = [step for run in result.runs for step in run.steps]
    if result.is_search:
        return 0 if all(run.best is not None for run in result.runs) else EXIT_NO
    is_damaged = any(step.lost or step.duplicated for step in steps)
    return EXIT_NO if is_damaged and not plan.kill_broker else 0


@bench.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@command()
def compare(*, before: Path, after: Path, output: Output) -> int:
    """What changed between two results (files of `run --json`), beyond the noise of their runs.

    A figure has changed when the ratio of the medians is more than both spreads together, and more than 3 %. More that is lost,
    twice or out of order is worse in any case. Exit code 0: nothing is worse; 1: something is; 2: they cannot be compared.
    """
    from bus.bench.compare import compare as compare_results

    try:
        comparison = compare_results(_read(before), _read(after))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    output.document(
        {"worse": comparison.is_worse, "notes": [*comparison.notes], "changes": [_told(one) for one in comparison.changes]}
    )
    output.table(("rate", "what", "before", "after", "change", "verdict"), [_compared(change) for change in comparison.changes])
    for note in comparison.notes:
        output.line(note)
    return EXIT_NO if comparison.is_worse else 0


def _read(path: Path) -> Result:
    from bus.bench.result import Result

    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        document = None  # no JSON is no result either, which is what is said of it
    try:
        return Result.of_document(document)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _told(change: Change) -> dict[str, object]:
    return {
        "rate": change.rate,
        "what": change.what,
        "unit": change.unit,
        "before": change.before._asdict(),
        "after": change.after._asdict(),
        "percent": change.percent,
        "verdict": change.verdict,
    }


def _compared(change: Change) -> tuple[str, ...]:
    from bus.bench.report.table import number

    def shown(spread: Spread) -> str:
        return f"{number(spread.median)} ±{number(spread.width / 2)} {change.unit}".strip()

    rate = "highest" if change.rate is None else number(change.rate)
    percent = "" if change.percent is None else f"{change.percent:+.1f} %"
    return rate, change.what, shown(change.before), shown(change.after), percent, change.verdict

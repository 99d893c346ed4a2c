"""`tpmbus run`: the hub of a state folder, and the whole fleet on it, until Ctrl-C."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output
from bus.cli.run_gateway import run_gateway
from bus.cli.run_part import be_a_part, command_of
from bus.cli.run_plan import Plan, Wanted, crew_of, planned
from bus.errors import StateInUseError

if TYPE_CHECKING:
    import bus
    from bus.fleet.running import Fleet
    from bus.hub.state import State

RATE = 200.0
ENDING = "what was said is still taken in"
TAKEN_OVER = "SessionReplacedError"
"""Why an agent was lost that somebody else took over: on purpose, so it is no failure of the run."""


@click.command(short_help="Run the hub and the whole fleet, and show what they do.")
@click.option(
    "--listen", multiple=True, metavar="URL", help="Also listen there (unix:///path, tls://host:port); may be given again."
)
@click.option("--fleet", "roster", metavar="ROSTER", help="A roster file in place of the policy's agents; `none` for a hub alone.")
@click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Spread the agents over so many processes."
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so long.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=RATE,
    show_default=True,
    help="Messages a second of the reference traffic; 0: none.",
)
@click.option("--mix", metavar="FILE", help="Another traffic than agents/mix.yaml; `none` for none.")
@click.option(
    "--backbone",
    envvar="TPMBUS_BACKBONE",
    metavar="URL[,URL]...",
    help="Keep durable topics on these NATS servers (nats://host:4222).  [TPMBUS_BACKBONE, else this folder's journal]",
)
@click.option("--nats-key", metavar="FILE", help="The broker's nkey seed, to log in to NATS.  [default: TPMBUS_NATS_NKEY]")
@click.option("--nats-creds", metavar="FILE", help="Or credentials that nsc wrote.  [default: TPMBUS_NATS_CREDS]")
@click.option(
    "--tpm", help="Which TPM: swtpm, software, a TCTI string, or several (swtpm*3, A;B).  [default: TPMBUS_TPM, else swtpm]"
)
@click.option("--part", type=int, hidden=True, help="Be this one of the processes.")
@command(state=True, policy=True)
def run(
    *,
    listen: tuple[str, ...],
    roster: str | None,
    processes: int,
    seconds: float | None,
    rate: float,
    mix: str | None,
    backbone: str | None,
    nats_key: str | None,
    nats_creds: str | None,
    tpm: str | None,
    part: int | None,
    state: Path | None,
    policy: str | None,
    output: Output,
) -> int:
    """Start the TPM service, the broker and all agents, and show what they do, until Ctrl-C or SIGTERM.

    The broker is a process of its own: it has its own key and what is kept, and can get at nothing else.

    Each agent does what its role does (agents/handlers), and beside that all play the reference traffic (agents/mix.yaml). Others
    reach the bus at the state folder's own socket: `tpmbus sub`, `pub`, `request`, `status`.

    SIGHUP has the policy read anew. It also ends when the terminal is closed that it was started on, unless `nohup` says otherwise.

    In the state folder of a gateway (`tpmbus host gateway`) it is the broker alone, on the NATS servers of --backbone.

    With --seconds and --json, one document at the end. In its `books` every message is counted once for each reader:
    published = delivered + dropped + refused + unaccounted. Exit code 1 where something is unaccounted for, or an agent was
    lost that nobody took over. (For an agent that was lost, messages are due all the same.)
    """
    from bus.cli.loop import run as run_loop

    wanted = Wanted(listen, roster, processes, part, seconds, rate, mix, tpm, state, policy, backbone)
    if output.json and seconds is None and part is None:
        raise click.UsageError("--json prints one document at the end: say when with --seconds")
    log_in_with(nats_key, nats_creds)
    return run_loop(be_a_part if part is not None else _run, wanted, output)


def log_in_with(nats_key: str | None, nats_creds: str | None) -> None:
    """The broker's process looks there; what the command line names counts in place of what the environment does."""
    from bus.backbone.nats.login import CREDENTIALS_FILE, NKEY_FILE

    if nats_key is not None or nats_creds is not None:
        for name, value in ((NKEY_FILE, nats_key), (CREDENTIALS_FILE, nats_creds)):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


async def _run(wanted: Wanted, output: Output) -> int:
    from anyio import to_thread

    from bus.clock import SystemClock
    from bus.fleet.running import Measured, running
    from bus.hub.open import authority_is_elsewhere, supervise
    from bus.hub.state import open_state

    if await to_thread.run_sync(lambda: authority_is_elsewhere(open_state(wanted.state))):
        return await run_gateway(wanted, output)
    plan = await to_thread.run_sync(planned, wanted)
    await _provision(wanted, plan, output)
    async with AsyncExitStack() as stack:
        with output.waiting("The hub begins"):
            hub = await stack.enter_async_context(
                supervise(
                    policy=wanted.policy, state=wanted.state, listen=wanted.listen, agents=dict(plan.joined), tpm=wanted.tpm,
                    backbone=wanted.backbone,
                )
            )  # fmt: skip
        output.note(f"The bus listens at {', '.join(hub.urls)}")
        with output.waiting("The agents begin"):
            crew = None if wanted.processes > 1 else await to_thread.run_sync(crew_of, hub, plan, list(plan.roles))
            commands = [command_of(wanted, number) for number in range(wanted.processes)] if crew is None else []
            speakers = running(Measured(hub.statistics), crew, commands, plan.mix, clock=SystemClock())
            fleet = await stack.enter_async_context(speakers)
        report = await _play(fleet, hub, plan, wanted, output)
        _say_what_was(report, output)
    output.document(report)
    output.line(f"Ended after {report['seconds']:.0f} s.")
    unaccounted, lost = report.get("books", {}).get("unaccounted", 0), set(report["lost"])
    return EXIT_NO if (unaccounted and not lost) or lost - {TAKEN_OVER} else 0  # for whom was lost, messages were due all the same


async def _play(fleet: Fleet, hub: bus.Hub, plan: Plan, wanted: Wanted, output: Output) -> dict[str, Any]:
    """Until it is to end, and has come to rest; the report."""
    import anyio

    from bus.cli.loop import until_stopped
    from bus.cli.run_screen import screen
    from bus.cli.terminal import reloading
    from bus.tpm.serving import notify

    is_drawn = not output.json and sys.stdout.isatty()
    async with reloading(hub, output) as gone, screen(fleet, is_drawn=is_drawn) as shown:
        async with until_stopped(also=gone):
            output.note(f"{len(plan.roles)} agents listen")  # whoever reads this may say at once that it is enough
            await fleet.speak_up(rate=wanted.rate)
            notify("READY=1")
            with anyio.move_on_after(wanted.seconds):
                await anyio.sleep_forever()
        notify("STOPPING=1")
        shown.end(f"ending: {ENDING}")
        if not (is_drawn or output.json):
            output.note(f"Ending: {ENDING}.")
        last = await fleet.come_to_rest()
        shown.stay(fleet.whole(last))
    return fleet.report(last)


async def _provision(wanted: Wanted, plan: Plan, output: Output) -> None:
    """Keys and certificates of all that lack them: together, because their TPM operations share batches."""
    from anyio import to_thread

    from bus.cli.provision import provision_with_progress
    from bus.hub.fleet_papers import Order
    from bus.hub.state import holder_of, open_state

    opened = await to_thread.run_sync(open_state, wanted.state)
    holder = await to_thread.run_sync(holder_of, opened.hub_lock)
    if holder is not None:  # said before anything is made or waited for
        raise StateInUseError(holder["pid"], str(holder.get("url", "")))
    if not await to_thread.run_sync(_all_have_papers, opened, plan):
        order = Order(plan.listed, plan.texts, tuple(plan.roles), plan.joined)
        await provision_with_progress(opened, order, policy=wanted.policy, tpm=wanted.tpm, output=output)


def _all_have_papers(opened: State, plan: Plan) -> bool:
    """At a glance: what is wrong with somebody's papers is found, and made good, when that agent is opened."""
    return set(plan.roles) <= {path.stem for path in (opened.trust / "public" / "certificates").glob("*.pem")}


def _say_what_was(report: dict[str, Any], output: Output) -> None:
    sent, received = report["hosts"].get("sent", {}), report["hosts"].get("received", {})
    output.line(f"{sent.get('published', 0):,} messages published in all, and delivered {received.get('delivered', 0):,} times.")
    books = report.get("books")
    if books is None:
        return
    output.line(f"Of these the reference traffic: {books['messages']:,} messages, {books['published']:,} times for a reader:")
    dropped, refused = sum(books["dropped"].values()), sum(books["refused"].values())
    fates = f"{books['delivered']:,} delivered, {dropped:,} dropped, {refused:,} refused, {books['unaccounted']:,} unaccounted for"
    output.line(fates + ".")

"""`tpmbus doctor`: what works here, what does not, what to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output

if TYPE_CHECKING:
    from bus.hub.doctor import Report
    from bus.hub.state import State

_MARKS = {"ok": "ok", "warning": "!", "problem": "PROBLEM"}


@click.command(short_help="What works on this machine, what does not, and what to do about it.")
@click.option(
    "--tpm", help="Which TPM: swtpm, software, a TCTI string, or several (swtpm*3, A;B).  [default: TPMBUS_TPM, else swtpm]"
)
@click.option("--no-timing", is_flag=True, help="Leave out the timing table, which makes a few keys.")
@command(state=True, policy=True)
def doctor(*, tpm: str | None, no_timing: bool, state: Path | None, policy: str | None, output: Output) -> int:
    """Look at the TPM, the state folder and the vault. Exit code 1 if there is a problem."""
    import anyio

    from bus.hub.state import open_state

    report = anyio.run(_examine, open_state(state), policy, tpm, not no_timing, output)
    _show(report, output)
    return EXIT_NO if report.problems else 0


async def _examine(state: State, policy: str | None, tpm: str | None, timing: bool, output: Output) -> Report:
    from bus.errors import BusError
    from bus.hub import doctor as facts
    from bus.hub.tpm_process import open_engine
    from bus.protocol.suites import IDENTITY_SUITES

    report = facts.Report([*facts.software(), *facts.hardware()])
    try:
        async with open_engine(state, policy=policy, tpm=tpm) as engine:
            report.findings += [finding async for finding in facts.tpm(engine, state)]
            if timing:
                with output.progress() as progress:
                    bar = progress.add_task("Measuring suites", total=len(IDENTITY_SUITES))
                    async for found in facts.timings(engine):
                        progress.advance(bar)
                        if isinstance(found, facts.Finding):
                            report.findings.append(found)
                        else:
                            report.timings.append(found)
    except BusError as error:
        report.findings.append(facts.Finding("TPM", "problem", str(error), "fix this first, then run `tpmbus doctor` again"))
    report.findings += [*facts.folders(state), *facts.vault(state)]
    return report


def _show(report: Report, output: Output) -> None:
    output.table(
        ("", "about", "found", "next step"),
        ((_MARKS[finding.status], finding.about, finding.text, finding.next_step) for finding in report.findings),
    )
    if report.timings:
        output.table(
            ("suite", "how this chip signs with it", "create ms", "sign ms"),
            ((timing.suite, timing.path, f"{timing.create * 1000:.1f}", f"{timing.sign * 1000:.2f}") for timing in report.timings),
        )
    output.line(f"{report.problems} problems" if report.problems else "No problems found.")
    output.document(
        {
            "findings": [asdict(finding) for finding in report.findings],
            "timings": [asdict(timing) for timing in report.timings],
            "problems": report.problems,
        }
    )

"""`tpmbus host`: agents on another machine than the hub's. One command there, which reaches the hub's machine by ssh (or anything
that gives it a standard input and output), and one on the hub's machine, which ssh starts.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bus.cli.authority import date
from bus.cli.completing import agent_names
from bus.cli.gateway import gateway
from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.hub.far_host import Member


@click.group(short_help="Bring agents of another machine to a hub.")
def host() -> None:
    """A machine without a hub of its own: its agents' keys are made there, and their papers come from the hub's."""


host.add_command(gateway)


@host.command()
@click.option("--gateways", is_flag=True, help="For who may make gateways: certify the keys of their brokers, and nothing else.")
@command(state=True)
def desk(*, gateways: bool, state: Path | None, output: Output) -> None:
    """On the hub's machine: answer the other machine, over standard input and output, until it hangs up.

    It hears what is public, and enrols whom an operator has let in (`tpmbus trust enroll --token`, `--ek`). So this may be the one
    command that its ssh key is good for. With --gateways it is the operator's own, for `tpmbus host gateway`.
    """
    import anyio

    from bus.hub import gateway_papers
    from bus.hub.admin import MAX_REQUEST_BYTES
    from bus.hub.far_desk import VERBS, answered
    from bus.hub.state import open_state

    if output.json:
        raise click.UsageError("what it speaks is JSON already, and not for people")
    socket = open_state(state).admin_socket
    while line := sys.stdin.buffer.readline(MAX_REQUEST_BYTES + 1):
        sys.stdout.buffer.write(anyio.run(answered, socket, line, gateway_papers.VERBS if gateways else VERBS))
        sys.stdout.buffer.flush()


@host.command()
@click.option("--tpm", help="Which TPM: swtpm, a TCTI string, or several (swtpm*3, A;B).  [default: TPMBUS_TPM, else swtpm]")
@command(state=True)
def chip(*, tpm: str | None, state: Path | None, output: Output) -> None:
    """On the other machine: what its chip is called, for `tpmbus trust enroll --ek` on the hub's."""
    import anyio

    from bus.hub.join_advice import chip_ca
    from bus.hub.state import open_state
    from bus.hub.which_tpm import chosen_tpm
    from bus.tpm.spelling import OWN_SWTPM, tpms_of

    name = anyio.run(_chip, tpm, state)
    output.line(name)
    ca: list[str] = []
    if tpms_of(chosen_tpm(tpm))[0] == OWN_SWTPM:
        ca = [str(path) for path in chip_ca(open_state(state))]
        if not output.json:
            output.note(f"A hub believes this software TPM when {ca[0]} is in its STATE/trust/chips/software")
            output.note(f"and {ca[1]} in its STATE/trust/chips/between.")
    output.document({"ek": name, "ca": ca})


@host.command()
@click.argument("agents", nargs=-1, required=True, metavar="AGENT...", shell_complete=agent_names)
@click.option("--over", required=True, metavar="COMMAND", help="What leads to the hub's desk: 'ssh hub.example tpmbus host desk'.")
@click.option("--token", "tokens", multiple=True, metavar="AGENT=TOKEN", help="The one-time token of an agent that is new.")
@click.option(
    "--tpm", help="Which TPM: swtpm, software, a TCTI string, or several (swtpm*3, A;B).  [default: TPMBUS_TPM, else swtpm]"
)
@command(state=True)
def join(
    agents: tuple[str, ...], *, over: str, tokens: tuple[str, ...], tpm: str | None, state: Path | None, output: Output
) -> None:
    """On the other machine: make these agents' keys here, and get their papers from the hub.

    Then `bus.connect("tls://hub.example:7443", agent=AGENT)` works in this state folder. Call it again each day (cron, a systemd
    timer): TLS certificates last a day, and what is not due is not made again.
    """
    import anyio

    asked, words = _tokens(tokens), shlex.split(over)
    if not words:
        raise click.UsageError("--over names no command")
    members = anyio.run(_join, agents, words, asked, tpm, state)
    rows = [(one.name, "enrolled" if one.enrolled else "was there", date(one.certificate.not_after_ms)) for one in members]
    output.table(("agent", "certificate", "ends"), rows)
    output.document(
        {"agents": [{"agent": one.name, "enrolled": one.enrolled, "not_after_ms": one.certificate.not_after_ms} for one in members]}
    )


async def _chip(tpm: str | None, state: Path | None) -> str:
    from anyio import to_thread

    from bus.hub.state import open_state
    from bus.hub.tpm_process import open_engine
    from bus.trust.endorsement import key_hash

    async with open_engine(await to_thread.run_sync(open_state, state), tpm=tpm) as engine:
        return key_hash((await engine.endorsement()).spki).hex()


async def _join(
    agents: tuple[str, ...], words: list[str], tokens: dict[str, bytes], tpm: str | None, state: Path | None
) -> list[Member]:
    from anyio import to_thread

    from bus.clock import SystemClock
    from bus.hub.far_desk import way_over
    from bus.hub.far_host import FarHost
    from bus.hub.state import open_state
    from bus.hub.tpm_process import open_engine

    opened = await to_thread.run_sync(open_state, state)
    async with way_over(words) as way:
        here = FarHost(opened, way, SystemClock())
        policy = await here.take_trust()
        async with open_engine(opened, tpm=tpm) as engine:
            return await here.join(engine, agents, tokens, environ=os.environ, policy=policy)


def _tokens(given: tuple[str, ...]) -> dict[str, bytes]:
    try:
        return {name: bytes.fromhex(token) for name, _, token in (one.partition("=") for one in given)}
    except ValueError as error:
        raise click.UsageError("a token is given as AGENT=TOKEN, as `tpmbus trust enroll --token AGENT` showed it") from error

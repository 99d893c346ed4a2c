"""`tpmbus provision`: every agent of the fleet gets its identity key."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from bus.cli.options import command
from bus.cli.output import Output


@click.command(short_help="Give every agent of the fleet its identity key.")
@click.argument("agents", nargs=-1, metavar="[AGENT]...")
@click.option("--fleet", "roster", help="A roster file (agents and their roles) in place of the policy's own.")
@click.option(
    "--tpm", help="Which TPM: swtpm, software, or a TCTI string such as device:/dev/tpmrm0.  [default: TPMBUS_TPM, else swtpm]"
)
@command(state=True, policy=True)
def provision(
    agents: tuple[str, ...], *, roster: str | None, tpm: str | None, state: Path | None, policy: str | None, output: Output
) -> None:
    """Make what is missing, and show every agent's key. Doing it again makes nothing twice.

    The first time, this makes a software TPM in the state folder, unless another TPM is named.
    """
    import anyio

    anyio.run(lambda: _provision(agents, roster=roster, tpm=tpm, state=state, policy_path=policy, output=output))


async def _provision(
    agents: tuple[str, ...], *, roster: str | None, tpm: str | None, state: Path | None, policy_path: str | None, output: Output
) -> None:
    from bus.fleet.roster import with_roster
    from bus.hub.state import open_state
    from bus.hub.tpm_process import open_engine
    from bus.identity.provision import Provisioned, plan
    from bus.identity.provision import provision as make
    from bus.policy import open_policy

    policy = open_policy(policy_path)
    if roster is not None:
        policy = with_roster(policy, Path(roster))
    names = agents or tuple(policy.agents)
    for name in names:
        policy.role_of(name)
    begun = time.perf_counter()
    done: list[Provisioned] = []
    async with open_engine(open_state(state), policy=policy_path, tpm=tpm) as engine:
        facts = await engine.facts()
        wanted = plan(policy, names, origin=facts.origin, environ=os.environ)
        with output.progress() as progress:
            bar = progress.add_task("Provisioning", total=len(wanted))
            async for one in make(engine, wanted):
                done.append(one)
                progress.update(bar, advance=1, description=f"{one.wanted.agent:<20.20}")
    _show(done, seconds=time.perf_counter() - begun, where=f"{facts.description} ({facts.origin})", output=output)


def _show(done: list[Any], *, seconds: float, where: str, output: Output) -> None:
    from bus.identity.export import fingerprint

    output.table(
        ("agent", "role", "key", "where", "generation", "fingerprint", "ms"),
        (
            (
                one.wanted.agent,
                one.wanted.role,
                one.key.suite,
                one.key.origin,
                one.key.generation,
                fingerprint(one.key)[:26],
                f"{one.seconds * 1000:.0f}" if one.made else "-",
            )
            for one in done
        ),
    )
    made = sum(one.made for one in done)
    output.line(f"{len(done)} agents have their keys: {made} made, {len(done) - made} were there; {seconds:.1f} s on {where}")
    output.document(
        {
            "agents": [
                {
                    "agent": one.wanted.agent,
                    "role": one.wanted.role,
                    "suite": one.key.suite,
                    "origin": one.key.origin,
                    "generation": one.key.generation,
                    "fingerprint": fingerprint(one.key),
                    "made": one.made,
                    "seconds": round(one.seconds, 6),
                }
                for one in done
            ],
            "made": made,
            "seconds": round(seconds, 6),
            "tpm": where,
        }
    )

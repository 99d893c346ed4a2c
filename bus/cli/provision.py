"""`tpmbus provision`: every agent of the fleet gets its identity key, its certificate and its inbox key."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.authority import clock_option, date, fingerprint, first_line, passphrase_option
from bus.cli.completing import agent_names
from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output

if TYPE_CHECKING:
    from bus.hub.fleet_papers import Fleet, Member, Order
    from bus.hub.state import State


@click.command(short_help="Give every agent of the fleet its key and its certificate.")
@click.argument("agents", nargs=-1, metavar="[AGENT]...", shell_complete=agent_names)
@click.option("--fleet", "roster", help="A roster file (agents and their roles) in place of the policy's own.")
@click.option(
    "--tpm",
    help="Which TPM: swtpm, software, a TCTI string such as device:/dev/tpmrm0, or several (swtpm*3, A;B).  "
    "[default: TPMBUS_TPM, else swtpm]",
)
@passphrase_option
@clock_option
@command(state=True, policy=True)
def provision(
    agents: tuple[str, ...],
    *,
    roster: str | None,
    tpm: str | None,
    passphrase_file: Path | None,
    clock_is_right: bool,
    state: Path | None,
    policy: str | None,
    output: Output,
) -> int:
    """Make what is missing, and show every agent's key and certificate. Doing it again makes nothing twice.

    The first time, this makes the authority of the domain and, unless another TPM is named, a software TPM in the state folder.
    Exit code 1 where an agent was revoked and so gets no certificate.
    """
    import anyio

    passphrase = None if passphrase_file is None else first_line(passphrase_file)

    async def run() -> int:
        return await _provision(
            agents,
            roster=roster,
            tpm=tpm,
            passphrase=passphrase,
            clock_is_right=clock_is_right,
            state=state,
            policy_path=policy,
            output=output,
        )

    return anyio.run(run)


async def _provision(
    agents: tuple[str, ...],
    *,
    roster: str | None,
    tpm: str | None,
    passphrase: str | None,
    clock_is_right: bool,
    state: Path | None,
    policy_path: str | None,
    output: Output,
) -> int:
    from bus.fleet.roster import with_roster
    from bus.hub.fleet_papers import Order
    from bus.hub.state import open_state
    from bus.policy import files, load

    texts = files.read(policy_path)
    listed = load(texts)
    policy = listed if roster is None else with_roster(listed, Path(roster))
    names = agents or tuple(policy.agents)
    for name in names:
        policy.role_of(name)
    joined = {} if roster is None else dict(policy.agents)
    listed.with_agents(joined)  # what is wrong with it is said before a TPM is asked
    order = Order(listed, texts, names, joined, passphrase, clock_is_right)
    begun = time.perf_counter()
    fleet = await provision_with_progress(open_state(state), order, policy=policy_path, tpm=tpm, output=output)
    _show(fleet, seconds=time.perf_counter() - begun, output=output)
    return 0 if all(member.certificate for member in fleet.members) else EXIT_NO


async def provision_with_progress(state: State, order: Order, *, policy: str | None, tpm: str | None, output: Output) -> Fleet:
    """Make what is missing, with a bar where there is a terminal."""
    from bus.clock import SystemClock
    from bus.hub.core_dumps import forbid_core_dumps
    from bus.hub.fleet_papers import KEYS, provision_fleet
    from bus.hub.tpm_process import open_engine

    forbid_core_dumps()
    with output.progress() as progress:
        bar = progress.add_task("The TPM begins", total=2 * len(order.names))  # one of its own is made first, which takes seconds

        def tell(phase: str, name: str) -> None:
            what = "key" if phase == KEYS else "certificate"
            progress.update(bar, advance=1, description=f"{what:<11} {name:<20.20}")

        async with open_engine(state, policy=policy, tpm=tpm) as engine:
            return await provision_fleet(state, engine, order, environ=os.environ, clock=SystemClock(), tell=tell)


def _show(fleet: Fleet, *, seconds: float, output: Output) -> None:
    members, public = fleet.members, fleet.public
    where = f"{fleet.facts.description} ({fleet.facts.origin})"
    columns = ("agent", "role", "key", "generation", "where", "certificate", "ends", "inbox", "ms")
    output.table(columns, map(_row, members), spare=("ms", "generation", "inbox", "ends", "role"))
    made = sum(member.key.made for member in members)
    certified = [member for member in members if member.certificate is not None]
    enrolled = sum(member.enrolled for member in members)
    there = len(members) - made
    output.paragraph(f"{len(members)} agents have their keys: {made} made, {there} were there; {seconds:.1f} s on {where}")
    output.paragraph(
        f"{len(certified)} agents have their certificates: {enrolled} issued, {len(certified) - enrolled} were there; "
        f"they are in {fleet.folder / 'certificates'}"
    )
    output.paragraph(f"{public.domain}: root {fingerprint(public.root.digest)[:23]}.., until {date(public.root.not_after_ms)}")
    if public.bundle is not None and public.statement is not None:
        output.paragraph(
            f"policy version {public.bundle.version} is signed; trust statement {public.statement.number} "
            f"is good until {date(public.statement.next_update_ms)}"
        )
    for member in members:
        if member.certificate is None:
            output.note(f"{member.name} was revoked: `tpmbus trust enroll --uid {os.getuid()} {member.name}` lets it in again")
    output.document(_document(fleet, made=made, seconds=seconds, where=where))


def _row(member: Member) -> tuple[object, ...]:
    key, certificate, newest = member.key, member.certificate, member.inbox.record.newest if member.inbox else None
    return (
        member.name,
        key.wanted.role,
        key.key.suite,
        key.key.generation,
        key.key.origin,
        "revoked" if certificate is None else f"{certificate.serial:x}"[:12] + "..",
        "" if certificate is None else date(certificate.not_after_ms)[:10],
        "" if newest is None else f"{newest.kind} {newest.counter}",
        f"{key.seconds * 1000:.0f}" if key.made else "-",
    )


def _document(fleet: Fleet, *, made: int, seconds: float, where: str) -> dict[str, Any]:
    public, statement, bundle = fleet.public, fleet.public.statement, fleet.public.bundle
    return {
        "agents": [_as_json(member) for member in fleet.members],
        "made": made,
        "enrolled": sum(member.enrolled for member in fleet.members),
        "seconds": round(seconds, 6),
        "tpm": where,
        "domain": public.domain,
        "root": {"sha256": fingerprint(public.root.digest), "not_after_ms": public.root.not_after_ms},
        "policy_version": bundle and bundle.version,
        "statement": statement and {"number": statement.number, "next_update_ms": statement.next_update_ms},
        "certificates": str(fleet.folder / "certificates"),
    }


def _as_json(member: Member) -> dict[str, Any]:
    from bus.identity.export import fingerprint as key_fingerprint

    key, certificate, newest = member.key, member.certificate, member.inbox.record.newest if member.inbox else None
    return {
        "agent": member.name,
        "role": key.wanted.role,
        "suite": key.key.suite,
        "origin": key.key.origin,
        "generation": key.key.generation,
        "fingerprint": key_fingerprint(key.key),
        "made": key.made,
        "seconds": round(key.seconds, 6),
        "certificate": certificate
        and {
            "serial": f"{certificate.serial:x}",
            "origin": certificate.origin,
            "level": certificate.level,
            "not_before_ms": certificate.not_before_ms,
            "not_after_ms": certificate.not_after_ms,
            "sha256": certificate.signer.hex(),
            "issued": member.enrolled,
        },
        "inbox": newest
        and {"counter": newest.counter, "kind": newest.kind, "id": newest.id.hex(), "not_after_ms": newest.body.not_after_ms},
    }

"""`tpmbus keys`: what is in the vault. Listing and exporting need no TPM; rotating does."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.completing import agent_names
from bus.cli.keys_inbox import inbox
from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.tpm.interface import KeyInfo
    from bus.tpm.vault import FolderVault


_LONGEST_MS = 366 * 86_400_000


@click.group(short_help="List, show, rotate and export the agents' keys, inbox keys too.")
def keys() -> None:
    """The agents' keys: wrapped or sealed by the TPM, kept in the state folder."""


keys.add_command(inbox)


@keys.command("list")
@command(state=True)
def list_keys(*, state: Path | None, output: Output) -> None:
    """Every key of the vault, older generations included."""
    from bus.identity.export import fingerprint
    from bus.protocol.names import is_agent_name

    entries = [entry for entry in _vault(state).entries() if is_agent_name(entry.info.name)]
    infos = [entry.info for entry in entries]
    output.table(
        ("key", "suite", "where", "TPM", "made", "signs until", "fingerprint"),
        (
            (
                one.info.id,
                one.info.suite,
                one.info.origin,
                one.tpm or "-",
                _date(one.info.created_ms),
                _until(one.info),
                fingerprint(one.info),
            )
            for one in entries
        ),
        spare=("fingerprint", "made", "TPM"),
    )
    output.line(f"{len(infos)} keys of {len({info.name for info in infos})} names")
    output.document({"keys": [_as_json(entry.info) | {"tpm": entry.tpm or None} for entry in entries]})


@keys.command()
@click.argument("key", metavar="AGENT", shell_complete=agent_names)
@click.option("--auth", is_flag=True, help="Also the key's auth value, for tpm2-tools and OpenSSL. Asks first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command(state=True)
def show(key: str, *, auth: bool, yes: bool, state: Path | None, output: Output) -> None:
    """One key: AGENT for its current generation, AGENT.2 for the second."""
    from bus.identity.export import fingerprint

    vault = _vault(state)
    entry = vault.find(key)
    if auth and not yes:
        click.confirm(
            f"Whoever has this value and reaches the TPM can sign as {entry.info.name}. Show it?",
            abort=True,
            err=True,
            default=False,
        )
    vault.read(entry)  # damaged files are to be heard of here
    folder = vault.folder
    facts = {
        "key": entry.info.id,
        "suite": entry.info.suite,
        "origin": entry.info.origin,
        "made": _date(entry.info.created_ms),
        "signs_until": _until(entry.info),
        "fingerprint": fingerprint(entry.info),
        "file": str(folder / f"{entry.info.id}.pem"),
        "public_area": str(folder / f"{entry.info.id}.pub"),
        "parent_name": entry.parent.hex() or None,
        "tpm": entry.tpm or None,
    }
    if auth:
        facts["auth"] = vault.auth(entry.info).decode()
    for name, value in facts.items():
        output.line(f"{name.replace('_', ' '):<12} {value or '-'}")
    output.document(facts)


@keys.command()
@click.argument("agents", nargs=-1, required=True, metavar="AGENT...", shell_complete=agent_names)
@click.option(
    "--keep", default="7d", show_default=True, help="How long the old key still signs: 90s, 15m, 12h, 7d; 0s ends it now."
)
@command(state=True, policy=True)
def rotate(agents: tuple[str, ...], *, keep: str, state: Path | None, policy: str | None, output: Output) -> None:
    """A new key for each AGENT, in the suite that policy names now. The old one signs until its end date."""
    import anyio

    anyio.run(_rotate, agents, _milliseconds(keep), state, policy, output)


@keys.command()
@click.argument("key", metavar="AGENT", shell_complete=agent_names)
@click.option("--format", "form", type=click.Choice(["pem", "jwk", "ssh"]), default="pem", show_default=True)
@command(state=True)
def export(key: str, *, form: str, state: Path | None, output: Output) -> None:
    """The public half, for other programs."""
    from bus.identity.export import export as write

    info = _vault(state).find(key).info
    text = write(info, form)
    if not output.json:
        click.echo(text, nl=False)
    output.document({"key": info.id, "format": form, "text": text})


async def _rotate(agents: tuple[str, ...], keep_ms: int, state: Path | None, policy_path: str | None, output: Output) -> None:
    from bus.hub.state import open_state
    from bus.hub.tpm_process import open_engine
    from bus.policy import open_policy

    policy = open_policy(policy_path)
    suites = {agent: policy.role_of(agent).suite for agent in agents}
    made = []
    async with open_engine(open_state(state), policy=policy_path) as engine:
        with output.progress() as progress:
            for agent in progress.track(agents, description="Rotating"):
                until = time.time_ns() // 1_000_000 + keep_ms
                made.append(await engine.rotate(agent, keep_until_ms=until, suite=suites[agent]))
                output.line(f"{made[-1].id}: {made[-1].suite}; {agent}.{made[-1].generation - 1} signs until {_date(until)}")
    output.document({"keys": [_as_json(info) for info in made]})


def _vault(state: Path | None) -> FolderVault:
    from bus.hub.state import open_state
    from bus.tpm.vault import FolderVault

    return FolderVault(open_state(state).vault)


def _milliseconds(text: str) -> int:
    units = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    if not text[:-1].isdecimal() or text[-1:] not in units:
        raise click.BadParameter(f"{text!r} is no duration: a number and one of s, m, h, d", param_hint="--keep")
    milliseconds = int(text[:-1]) * units[text[-1]]
    if milliseconds > _LONGEST_MS:
        raise click.BadParameter("a retired key signs for a year at most", param_hint="--keep")
    return milliseconds


def _as_json(info: KeyInfo) -> dict[str, Any]:
    from bus.identity.export import fingerprint

    return {
        "key": info.id,
        "agent": info.name,
        "generation": info.generation,
        "current": info.ends_ms is None,
        "suite": info.suite,
        "origin": info.origin,
        "created_ms": info.created_ms,
        "ends_ms": info.ends_ms,
        "fingerprint": fingerprint(info),
    }


def _date(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "for ever"


def _until(info: KeyInfo) -> str:
    return "current" if info.ends_ms is None else _date(info.ends_ms)

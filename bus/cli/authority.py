"""What the commands that need the authority's keys have in common: the passphrase, the word on the clock, and opening it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.identity.authority import Authority
    from bus.identity.authority.statements import Statements
    from bus.trust.statement import Statement

_LONGEST = 4_096


def passphrase_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
        help="The authority's keys are protected by the first line of this file (- for stdin), not by the TPM.",
    )(function)


def clock_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--clock-is-right",
        is_flag=True,
        help="The authority did nothing for more than 90 days, and this machine's clock is right nevertheless.",
    )(function)


def run_with_authority(
    work: Callable[[Authority], Any],
    *,
    state: Path | None,
    policy: str | None,
    passphrase_file: Path | None,
    clock_is_right: bool,
) -> Any:
    """Open the authority (or make it, for the policy's domain) and do this in a worker thread; gives what it gives."""
    import anyio
    import anyio.to_thread

    from bus.hub.authority import open_state_authority
    from bus.hub.state import open_state

    opened = open_state(state)
    passphrase = None if passphrase_file is None else first_line(passphrase_file)
    domain = _domain(opened.trust / "public", policy)

    async def run() -> Any:
        async with open_state_authority(
            opened, domain=domain, policy=policy, passphrase=passphrase, clock_is_right=clock_is_right
        ) as authority:
            return await anyio.to_thread.run_sync(work, authority)

    return anyio.run(run)


def issue_statement(authority: Authority) -> Statement:
    """Say what has changed to everybody."""
    return _statements(authority).issue()


def issue_what_was_left_unsaid(authority: Authority) -> None:
    """By a command that was killed between its work and its statement."""
    statements = _statements(authority)
    if not statements.is_current():
        statements.issue()


def _statements(authority: Authority) -> Statements:
    from bus.clock import SystemClock
    from bus.identity.authority.statements import Statements

    return Statements(authority, clock=SystemClock())


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def date(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def fingerprint(digest: bytes) -> str:
    """As openssl writes it."""
    return ":".join(f"{byte:02X}" for byte in digest)


def write_file(output: Output, place: Path, data: bytes, *, what: str) -> None:
    from bus.errors import ConnectError

    try:
        place.write_bytes(data)
    except OSError as error:
        raise ConnectError(f"{place} cannot be written: {error.strerror}; choose another file with --out") from error
    output.line(f"{what} is in {place}")


def _domain(public: Path, policy: str | None) -> str:
    """Of the authority that is there; of the policy where there is none yet."""
    from bus.errors import VaultError
    from bus.identity.public_trust import domain_of, read_root
    from bus.policy import open_policy

    try:
        return domain_of(read_root(public))
    except VaultError as error:
        if error.code != "missing":
            raise
        return open_policy(policy).domain


def first_line(place: Path) -> str:
    """Of a file, or of stdin."""
    try:
        text = sys.stdin.readline(_LONGEST) if str(place) == "-" else place.read_text()[:_LONGEST]
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{place} cannot be read: {error}", param_hint="--passphrase-file") from error
    line = (text.splitlines() or [""])[0]
    if not line:
        raise click.BadParameter(
            "its first line is empty, and an empty passphrase protects nothing", param_hint="--passphrase-file"
        )
    return line

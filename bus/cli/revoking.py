"""`tpmbus trust revoke`: what is taken back of whom, and that everybody hears of it.

    agent, broker     its certificates; an agent's generation rises, and its name is off the enrolment list
    --sessions        only the sessions that an agent has
    --trust-signer    the certificate of the key that signs trust statements; a new key signs the next one at once

A command that was killed between its work and its statement is finished by calling it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.authority import date, issue_statement, issue_what_was_left_unsaid
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.identity.authority import Authority
    from bus.identity.authority.desk import Desk
    from bus.trust.certificates import Profile


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a command line asks for."""

    name: str
    profile: Profile
    reason: str
    sessions: bool

    @classmethod
    def of(cls, name: str | None, reason: str, *, sessions: bool, broker: bool, trust_signer: bool) -> Wanted:
        """Raises UsageError for what does not go together."""
        from bus.identity.authority import TRUST_NAME
        from bus.protocol.names import is_agent_name
        from bus.trust.certificates import Profile

        if trust_signer:
            if name is not None or sessions or broker:
                raise click.UsageError("--trust-signer stands alone: there is one, and it has neither sessions nor another name")
            return cls(TRUST_NAME, Profile.TRUST, reason, sessions=False)
        if name is None:
            raise click.UsageError("whose? Give a NAME, or --trust-signer")
        if not is_agent_name(name):
            raise click.UsageError(f"{name[:64]!r} is no name: 1 to 32 of A-Z 0-9, a letter first")
        if sessions and broker:
            raise click.UsageError("--sessions ends the sessions of an agent; a broker's are ended by revoking it")
        return cls(name, Profile.BROKER if broker else Profile.AGENT, reason, sessions)


def revoke(authority: Authority, wanted: Wanted) -> dict[str, Any]:
    """Do it, and issue a statement. Raises AttestationError("not_enrolled") where there is nothing to revoke."""
    if wanted.sessions:
        at = authority.end_sessions(wanted.name)
        return {"sessions_not_before_ms": at, "statement": issue_statement(authority).number}
    return _revoke(authority, wanted)


def by_the_hub(wanted: Wanted, *, state: Path | None) -> dict[str, Any] | None:
    """Where a bus runs, it has the authority: it is asked, and its agents hear of it at once. None where none runs."""
    from bus.cli.desk import ask, runs

    if not runs(state):
        return None
    if wanted.sessions:
        return dict(ask(state, "end_sessions", name=wanted.name))
    profile = wanted.profile.name.lower()
    return {"reason": wanted.reason, **ask(state, "revoke", name=wanted.name, reason=wanted.reason, profile=profile)}


def tell(output: Output, wanted: Wanted, done: dict[str, Any]) -> None:
    if wanted.sessions:
        output.line(f"{wanted.name}: sessions from before {date(done['sessions_not_before_ms'])} count no more")
    else:
        what = f"generation {done['generation']}" if "generation" in done else "a new key signs statements"
        output.line(f"{wanted.name}: revoked ({wanted.reason}), {what}, revocation list {done['crl_number']}")
    output.line(f"Trust statement {done['statement']} says so to everybody.")
    for step in next_steps(wanted):
        output.line(step)


def next_steps(wanted: Wanted) -> list[str]:
    """What no statement does."""
    from bus.trust.certificates import Profile

    if wanted.profile is not Profile.BROKER:
        return []
    key = f"On NATS the key of {wanted.name} still lets it in, where it can read what goes by, all of it ciphertext. Leave it out"
    return [f"{key} with `tpmbus backbone nats-config .. --force`, and have each server read that: nats-server --signal reload=PID"]


def _revoke(authority: Authority, wanted: Wanted) -> dict[str, Any]:
    from bus.errors import AttestationError
    from bus.trust.certificates import Profile
    from bus.trust.revocations import Reason

    name, reason = wanted.name, Reason(wanted.reason)
    closes = wanted.profile is Profile.AGENT and reason is not Reason.ROTATED
    if closes:
        _ = _desk(authority).listed  # read now: what cannot be read must not stop a revocation half-way
    try:
        crl = authority.revoke(name, reason, profile=wanted.profile)
    except AttestationError as error:
        revoked_before = closes and authority.standings().get(name, (0, 0))[0] > 0
        if revoked_before:  # by a command that may have been killed here
            _desk(authority).unlist(name)
        issue_what_was_left_unsaid(authority)
        if revoked_before:
            detail = "it was revoked before; whatever was left to say of that is said now"
            raise AttestationError("not_enrolled", agent=name, detail=detail) from error
        raise
    if closes:
        _desk(authority).unlist(name)  # else the same chip, or an open token, takes the name again
    statement = issue_statement(authority)
    done = {"reason": wanted.reason, "crl_number": crl.number, "statement": statement.number}
    if wanted.profile is Profile.TRUST:
        return done | {"signer": statement.signer.signer.hex()}
    return done | {"generation": authority.standings().get(name, (0, 0))[0]}


def _desk(authority: Authority) -> Desk:
    from bus.identity.authority.desk import Desk
    from bus.policy import Policy
    from bus.trust.endorsement import Roots

    return Desk(authority, policy=Policy, roots=Roots())

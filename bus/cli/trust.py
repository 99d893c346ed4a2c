"""`tpmbus trust`: whom the agents of this domain believe, and what an operator does about it.

status, ca and crl read STATE/trust/public and need neither TPM nor keys. enroll and revoke have the hub of the state folder do it,
where one runs; else they open the authority, which no other process may have open at the same time.

Exit codes: 0 done, or fresh · 1 stale, or something does not verify, or there is nobody to revoke · 2 wrong usage · 3 the policy
is wrong · 4 the authority is in use · 5 the TPM or the authority's files · 6 a file cannot be written.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.authority import (
    clock_option,
    counted,
    date,
    fingerprint,
    passphrase_option,
    run_with_authority,
    write_file,
)
from bus.cli.completing import agent_names
from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output

if TYPE_CHECKING:
    from bus.identity.public_trust import PublicTrust

_FORMS = click.Choice(["pem", "der"])
_OUT = click.Path(path_type=Path, dir_okay=False)


@click.group(short_help="Whom the agents believe: the authority, its certificates and revocations.")
def trust() -> None:
    """The authority of the state folder: its root, the trust statement, who is enrolled and who was revoked."""


@trust.command()
@command(state=True)
def status(*, state: Path | None, output: Output) -> int:
    """Root, trust statement, revocation list, policy, agents. Exit code 1 when the statement is stale."""
    from bus.policy.values import show_duration

    found, now_ms = _public(state), time.time_ns() // 1_000_000
    problem = _problem(found, now_ms)
    policy, statement, crl = found.bundle, found.statement, found.revocations
    rows: list[tuple[str, object]] = [
        ("domain", found.domain),
        ("root", fingerprint(found.root.digest)),
        ("root ends", date(found.root.not_after_ms)),
    ]
    if statement is not None:
        life = statement.next_update_ms - now_ms
        rows += [
            ("statement", f"{statement.number}, issued {date(statement.issued_ms)}"),
            (
                "next update",
                f"{date(statement.next_update_ms)} ({'in ' if life > 0 else ''}{_rough(life)}{'' if life > 0 else ' ago'})",
            ),
        ]
    rows += [("revocation list", f"{crl.number}, {counted(len(crl.revoked), 'certificate')}, next {date(crl.next_update_ms)}")]
    if policy is not None:
        rows += [
            ("policy", f"version {policy.version}, signed {date(policy.made_ms)}, {counted(len(policy.files), 'file')}"),
            ("policy digest", policy.digest.hex()),
            ("statements last", show_duration(policy.policy().trust_max_age_ms)),
        ]
    rows += [("agents enrolled", len(found.agents)), ("agents revoked", ", ".join(found.revoked) or 0)]
    rows += [("is it fresh", problem or "yes")]
    output.table(("what", "value"), rows, title="Trust")
    output.document(_status_document(found, now_ms, problem))
    return EXIT_NO if problem and not problem.startswith(_WORRY) else 0


@trust.command()
@click.option("--form", type=_FORMS, default="pem", show_default=True)
@click.option("--out", type=_OUT, help="Write the certificate to this file.")
@command(state=True)
def ca(*, form: str, out: Path | None, state: Path | None, output: Output) -> None:
    """The root certificate. Its fingerprint is on stderr, so that stdout can go into a file."""
    from bus.hub.state import open_state
    from bus.identity.public_trust import domain_of, pem, read_root

    root = read_root(open_state(state).trust / "public")
    domain, text = domain_of(root), pem("CERTIFICATE", root.der)
    facts: dict[str, Any] = {"domain": domain, "sha256": fingerprint(root.digest), "not_after_ms": root.not_after_ms, "pem": text}
    if out is not None:
        write_file(output, out, text.encode() if form == "pem" else root.der, what="The root certificate")
    elif not output.json:
        sys.stdout.buffer.write(text.encode() if form == "pem" else root.der)
    if not output.json:
        output.note(f"{domain}, until {date(root.not_after_ms)}, SHA-256 {facts['sha256']}")
    output.document(facts)


@trust.command()
@click.option("--form", type=_FORMS, help="Print the list itself, in this form, in place of the table.")
@click.option("--out", type=_OUT, help="Write the list to this file, as PEM or in the form given.")
@command(state=True)
def crl(*, form: str | None, out: Path | None, state: Path | None, output: Output) -> None:
    """The revocation list, for people, or for openssl and TLS servers."""
    from bus.identity.public_trust import pem

    found = _public(state).revocations
    text = pem("X509 CRL", found.der)
    data = found.der if form == "der" else text.encode()
    if out is not None:
        write_file(output, out, data, what="The revocation list")
    elif form and not output.json:
        sys.stdout.buffer.write(data)
    else:
        rows = ((f"{serial:x}", date(one.date_ms), one.reason.value) for serial, one in found.revoked.items())
        output.table(("serial", "revoked", "reason"), rows, title=f"Revocation list {found.number}")
        output.line(
            f"{counted(len(found.revoked), 'certificate')}; made {date(found.this_update_ms)}, next {date(found.next_update_ms)}"
        )
    revoked = [
        {"serial": f"{serial:x}", "date_ms": one.date_ms, "reason": one.reason.value} for serial, one in found.revoked.items()
    ]
    facts = {"number": found.number, "this_update_ms": found.this_update_ms, "next_update_ms": found.next_update_ms}
    output.document(facts | {"revoked": revoked, "pem": text})


@trust.command()
@click.argument("name", required=False, shell_complete=agent_names)
@click.option(
    "--reason",
    type=click.Choice(["compromised", "retired", "rotated"]),
    default="compromised",
    show_default=True,
    help="rotated: what the key signed until now stays good, and the name keeps its epochs.",
)
@click.option("--sessions", is_flag=True, help="End only the sessions that there are: its certificate stays, it opens new ones.")
@click.option("--broker", is_flag=True, help="NAME is a broker's.")
@click.option("--trust-signer", is_flag=True, help="In place of NAME: the key that signs trust statements; it gets a successor.")
@passphrase_option
@clock_option
@command(state=True, policy=True)
def revoke(
    *,
    name: str | None,
    reason: str,
    sessions: bool,
    broker: bool,
    trust_signer: bool,
    passphrase_file: Path | None,
    clock_is_right: bool,
    state: Path | None,
    policy: str | None,
    output: Output,
) -> None:
    """Take back what NAME has. A new revocation list and trust statement are issued at once."""
    from bus.cli import revoking

    wanted = revoking.Wanted.of(name, reason, sessions=sessions, broker=broker, trust_signer=trust_signer)
    done = revoking.by_the_hub(wanted, state=state)
    if done is None:
        done = run_with_authority(
            lambda authority: revoking.revoke(authority, wanted),
            state=state,
            policy=policy,
            passphrase_file=passphrase_file,
            clock_is_right=clock_is_right,
        )
    revoking.tell(output, wanted, done)
    output.document({"name": wanted.name, **done, "next": revoking.next_steps(wanted)})


@trust.command()
@click.option("--token", metavar="NAME", help="A one-time token for this name, good for an hour.", shell_complete=agent_names)
@click.option("--ek", nargs=2, metavar="HASH NAME", help="The chip with this endorsement key (SHA-256, hex) may have this name.")
@click.option(
    "--uid",
    nargs=2,
    type=(click.IntRange(0, (1 << 32) - 2), str),
    metavar="UID NAME",
    help="This local user may enroll this name (* for every name).",
)
@click.option("--remove", metavar="NAME", help="Nobody may enroll under this name any more.", shell_complete=agent_names)
@click.option("--list", "show", is_flag=True, help="Who may enroll under which name.")
@passphrase_option
@clock_option
@command(state=True, policy=True)
def enroll(
    *,
    token: str | None,
    ek: tuple[str, str] | None,
    uid: tuple[int, str] | None,
    remove: str | None,
    show: bool,
    passphrase_file: Path | None,
    clock_is_right: bool,
    state: Path | None,
    policy: str | None,
    output: Output,
) -> None:
    """Say who may be enrolled: by a token, by its chip, or as a local user."""
    from bus.cli.enrolment_list import apply, as_document, by_the_hub, check, tell
    from bus.hub.letting_in import Change

    change = Change(token=token, ek=ek, uid=uid, remove=remove)
    check(change)
    done = by_the_hub(change, state=state)
    if done is None:
        done = run_with_authority(
            lambda authority: apply(authority, change),
            state=state,
            policy=policy,
            passphrase_file=passphrase_file,
            clock_is_right=clock_is_right,
        )
    tell(output, change, done, show=show)
    output.document(as_document(done))


_WORRY = "half of its life"


def _public(state: Path | None) -> PublicTrust:
    from bus.hub.state import open_state
    from bus.identity.public_trust import read_public

    return read_public(open_state(state).trust / "public")


def _problem(found: PublicTrust, now_ms: int) -> str | None:
    """What keeps agents from believing this folder, or may soon; None if nothing does."""
    from bus.errors import VerificationError
    from bus.protocol.skew import SKEW_MS

    try:
        view = found.view()
        view.check_fresh(now_ms)
    except VerificationError as error:
        return f"no: {error}"
    if view.statement.issued_ms > now_ms + SKEW_MS:
        return "no: clock_behind: this machine's clock is behind the statement's date: set it, or that of the authority was wrong"
    return f"{_WORRY} has passed: is the authority running?" if view.half_life_passed(now_ms) else None


def _status_document(found: PublicTrust, now_ms: int, problem: str | None) -> dict[str, Any]:
    statement, policy, crl = found.statement, found.bundle, found.revocations
    return {
        "domain": found.domain,
        "root": {"sha256": fingerprint(found.root.digest), "not_after_ms": found.root.not_after_ms},
        "fresh": problem is None or problem.startswith(_WORRY),
        "problem": problem,
        "statement": statement
        and {
            "number": statement.number,
            "issued_ms": statement.issued_ms,
            "age_ms": now_ms - statement.issued_ms,
            "next_update_ms": statement.next_update_ms,
            "policy_version": statement.policy_version,
            "crl_number": statement.crl_number,
        },
        "crl": {"number": crl.number, "revoked": len(crl.revoked), "next_update_ms": crl.next_update_ms},
        "policy": policy and {"version": policy.version, "made_ms": policy.made_ms, "digest": policy.digest.hex()},
        "agents": {"enrolled": [one.name for one in found.agents], "revoked": list(found.revoked)},
    }


def _rough(ms: int) -> str:
    seconds = abs(ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

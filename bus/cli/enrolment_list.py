"""What `tpmbus trust enroll` does with the enrolment list, and how it looks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.authority import date
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.hub.letting_in import Change, Done
    from bus.identity.authority import Authority
    from bus.trust.enrolment_list import EnrolmentList


def check(change: Change) -> None:
    """Raises UsageError for a name or hash that is none."""
    try:
        change.check()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def apply(authority: Authority, change: Change) -> Done:
    from bus.hub import letting_in
    from bus.identity.authority import policies
    from bus.identity.authority.desk import Desk
    from bus.policy import Policy
    from bus.trust.endorsement import Roots

    signed = policies.in_force(authority)
    return letting_in.apply(Desk(authority, policy=Policy, roots=Roots()), change, None if signed is None else signed.policy())


def by_the_hub(change: Change, *, state: Path | None) -> Done | None:
    """Where a bus runs, it has the list. None where none runs."""
    from bus.cli.desk import ask, runs
    from bus.hub.letting_in import Done
    from bus.trust.enrolment_list import EnrolmentList

    if not runs(state):
        return None
    said = ask(state, "let_in", **change._asdict())
    token = None if said["token"] is None else bytes.fromhex(said["token"])
    return Done(token, EnrolmentList.parse(said["listed"].encode()))


def tell(output: Output, change: Change, done: Done, *, show: bool) -> None:
    if done.token is not None:
        output.line(done.token.hex())
        if not output.json:
            output.note(
                f"A token for {change.token}, good for an hour and for one enrolment. It is kept nowhere and not shown again."
            )
    if change.ek is not None:
        output.line(f"The chip {change.ek[0]} may be {change.ek[1]}.")
    if change.uid is not None:
        output.line(f"The local user {change.uid[0]} may enroll {'every name' if change.uid[1] == '*' else change.uid[1]}.")
    if change.remove is not None:
        output.line(f"Nobody may enroll as {change.remove} any more.")
    if show or not any(change):
        output.table(("name", "by", "what"), _rows(done.listed), title="Who may enroll")


def as_document(done: Done) -> dict[str, Any]:
    listed = done.listed
    document: dict[str, Any] = {
        "chips": {name: sorted(chip.hex() for chip in chips) for name, chips in listed.chips.items()},
        "tokens": [{"name": one.name, "ends_ms": one.ends_ms, "used": one.used} for one in listed.tokens.values()],
        "uids": {name: sorted(uids) for name, uids in listed.uids.items()},
    }
    return {"token": done.token.hex(), **document} if done.token is not None else document


def _rows(listed: EnrolmentList) -> list[tuple[str, str, str]]:
    now_ms = time.time_ns() // 1_000_000
    rows = [(name, "chip", chip.hex()) for name, chips in listed.chips.items() for chip in sorted(chips)]
    rows += [(name, "local user", str(uid)) for name, uids in listed.uids.items() for uid in sorted(uids)]
    for one in listed.tokens.values():
        state = "used" if one.used else f"until {date(one.ends_ms)}" if one.ends_ms > now_ms else "ended"
        rows.append((one.name, "token", state))
    return sorted(rows)

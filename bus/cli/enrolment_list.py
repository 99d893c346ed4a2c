"""What `tpmbus trust enroll` does with the enrolment list, and how it looks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from bus.cli.authority import date
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.identity.authority import Authority
    from bus.trust.enrolment_list import EnrolmentList


class Change(NamedTuple):
    token: str | None
    ek: tuple[str, str] | None
    uid: tuple[int, str] | None
    remove: str | None
    show: bool


class Done(NamedTuple):
    token: bytes | None
    listed: EnrolmentList


def apply(authority: Authority, change: Change) -> Done:
    """Raises UsageError for a name or hash that is none."""
    from bus.identity.authority.desk import Desk
    from bus.policy import Policy
    from bus.trust.endorsement import Roots

    desk = Desk(authority, policy=Policy, roots=Roots())
    token = None
    try:
        if change.remove is not None:
            desk.unlist(change.remove)
        if change.ek is not None:
            desk.list_chip(change.ek[1], bytes.fromhex(change.ek[0].replace(":", "")))
        if change.uid is not None:
            desk.list_uid(change.uid[1], change.uid[0])
        if change.token is not None:
            token = desk.new_token(change.token)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return Done(token, desk.listed)


def tell(output: Output, change: Change, done: Done) -> None:
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
    if change.show or not any(change[:4]):
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

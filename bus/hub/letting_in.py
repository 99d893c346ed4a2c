"""What an operator writes into the enrolment list, by `tpmbus trust enroll`: here, or at the desk of the hub that has it open.

A change is checked before anything is opened or asked, so that a name or a hash that is none is the same mistake in both places.
"""

from __future__ import annotations

from typing import NamedTuple

from bus.identity.authority.desk import Desk
from bus.trust.enrolment_list import EnrolmentList
from bus.trust.enrolment_messages import TOKEN_BYTES


class Change(NamedTuple):
    token: str | None = None
    """The name that a new token is for."""
    ek: tuple[str, str] | None = None
    """A chip (SHA-256 of its endorsement key, hex) and the name that it may have."""
    uid: tuple[int, str] | None = None
    """A local user and the name that they may enrol."""
    remove: str | None = None
    """Nobody may enrol under this name any more."""

    def check(self) -> None:
        """Raises ValueError for a name, a hash or a user that is none."""
        empty = EnrolmentList()
        if self.ek is not None:
            empty.with_chip(self.ek[1], self.chip)
        if self.uid is not None:
            empty.with_uid(self.uid[1], self.uid[0])
        if self.token is not None:
            empty.with_token(self.token, bytes(TOKEN_BYTES), now_ms=0)

    @property
    def chip(self) -> bytes:
        return b"" if self.ek is None else bytes.fromhex(self.ek[0].replace(":", ""))


class Done(NamedTuple):
    token: bytes | None
    """It is kept nowhere."""
    listed: EnrolmentList

    def __repr__(self) -> str:
        return f"Done({self.listed!r})"


def apply(desk: Desk, change: Change) -> Done:
    """Blocks. Raises ValueError as `check` does, before anything is changed."""
    change.check()
    if change.remove is not None:
        desk.unlist(change.remove)
    if change.ek is not None:
        desk.list_chip(change.ek[1], change.chip)
    if change.uid is not None:
        desk.list_uid(change.uid[1], change.uid[0])
    token = None if change.token is None else desk.new_token(change.token)
    return Done(token, desk.listed)

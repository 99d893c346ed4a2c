"""What an operator writes into the enrolment list, by `tpmbus trust enroll`: here, or at the desk of the hub that has it open.

A change is checked before anything is opened or asked, so that a name or a hash that is none is the same mistake in both places.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bus.errors import NotPermittedError
from bus.identity.authority.desk import Desk
from bus.policy import Policy
from bus.trust.enrolment_list import EVERY_NAME, EnrolmentList
from bus.trust.enrolment_messages import TOKEN_BYTES

SHOWN: Final = 12
"""Of the policy's agents: more are no help."""


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

    def check_known(self, policy: Policy) -> None:
        """Raises NotPermittedError for a name that this policy does not have: what lets it in would serve nobody."""
        for name in (self.token, self.ek and self.ek[1], self.uid and self.uid[1]):
            if name and name != EVERY_NAME:
                _check_known(name, policy)

    @property
    def chip(self) -> bytes:
        return b"" if self.ek is None else bytes.fromhex(self.ek[0].replace(":", ""))


class Done(NamedTuple):
    token: bytes | None
    """It is kept nowhere."""
    listed: EnrolmentList

    def __repr__(self) -> str:
        return f"Done({self.listed!r})"


def apply(desk: Desk, change: Change, policy: Policy | None) -> Done:
    """Blocks. Raises what `check` and `check_known` do, before anything is changed. `policy`: what was signed last, if anything."""
    change.check()
    if policy is not None:
        change.check_known(policy)
    if change.remove is not None:
        desk.unlist(change.remove)
    if change.ek is not None:
        desk.list_chip(change.ek[1], change.chip)
    if change.uid is not None:
        desk.list_uid(change.uid[1], change.uid[0])
    token = None if change.token is None else desk.new_token(change.token)
    return Done(token, desk.listed)


def _check_known(name: str, policy: Policy) -> None:
    try:
        policy.role_of(name)
    except NotPermittedError as error:
        agents = sorted(policy.agents)
        known = f"Its agents are {', '.join(agents)}" if len(agents) <= SHOWN else f"It has {len(agents)} agents (`tpmbus agents`)"
        step = f"add it to `agents:` with one of the roles {', '.join(sorted(policy.roles))}, then `tpmbus policy reload`"
        rule = error.rule.partition("; add")[0]
        end = "" if rule.endswith("?") else "."
        raise NotPermittedError(name, "be enrolled", f"{rule}{end} {known}; {step}") from error

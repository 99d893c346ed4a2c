"""Which local user may have the TPM service do what. Pure: the kernel says who asks, policy says what that one may.

The service's own user and root may do everything: they could read the vault anyway. Anybody else may do what policy grants
(`uids:` of a role), and of that only signing with keys of that role's agents for the purposes named; beside it, what everybody
who may sign needs to know: the endorsement key, the attestation key's Name, and the keys that it may use. Nobody else ever
makes, rotates, seals, unseals, certifies, quotes or activates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bus.errors import NotPermittedError
from bus.policy import Policy
from bus.protocol.contexts import Purpose

ROOT_UID: Final = 0
SIGN: Final = "signMany"
FOR_SIGNERS: Final = frozenset({SIGN, "ping", "keys", "getEK", "getAttestationData", "endorsement", "attestationKey"})
"""What somebody may call whom policy lets sign at all."""


@dataclass(frozen=True, slots=True)
class Permissions:
    owner_uid: int
    policy: Policy
    _grants: Mapping[int, Mapping[str, frozenset[Purpose]]] = field(init=False, repr=False)
    """By uid and role: the purposes."""

    def __post_init__(self) -> None:
        grants: dict[int, dict[str, frozenset[Purpose]]] = {}
        for role in self.policy.roles.values():
            for grant in role.uids:
                mine = grants.setdefault(grant.uid, {})
                mine[role.name] = mine.get(role.name, frozenset()) | grant.purposes
        object.__setattr__(self, "_grants", grants)

    def owns(self, uid: int) -> bool:
        return uid in (self.owner_uid, ROOT_UID)

    def knows(self, uid: int) -> bool:
        """Whether this user may ask for anything at all."""
        return self.owns(uid) or uid in self._grants

    @property
    def strangers(self) -> frozenset[int]:
        """Users other than the owner whom policy lets in."""
        return frozenset(uid for uid in self._grants if not self.owns(uid))

    def check(
        self, uid: int, command: str, *, key: str | None = None, purpose: Purpose | None = None, beside: str | None = None
    ) -> None:
        """Return if this user may; else raise NotPermittedError."""
        if self.owns(uid):
            return
        if uid not in self._grants:
            raise NotPermittedError(f"uid {uid}", "use the TPM service", "no role of the policy lists this uid under `uids:`")
        if command not in FOR_SIGNERS:
            raise NotPermittedError(f"uid {uid}", f"call {command}", "only the service's own user may")
        if beside is not None and not self.may_see(uid, beside.partition(".")[0]):
            raise NotPermittedError(f"uid {uid}", f"name the key {beside}", "the `uids:` of no role show it to this user")
        if command == SIGN:
            self._check_signing(uid, key or "", purpose)

    def may_see(self, uid: int, name: str) -> bool:
        """Whether `keys` shows this user the key of this name."""
        return self.owns(uid) or bool(self._purposes(uid, name))

    def _check_signing(self, uid: int, key: str, purpose: Purpose | None) -> None:
        name = key.partition(".")[0]
        if purpose is None or purpose not in self._purposes(uid, name):
            wish = f"sign with the key of {name} for the purpose {purpose.name.lower() if purpose else 'none'}"
            raise NotPermittedError(f"uid {uid}", wish, "the `uids:` of that agent's role do not grant it")

    def _purposes(self, uid: int, name: str) -> frozenset[Purpose]:
        # Not `role_of`: that looks for names like the one that it does not know, which is a favour for people, not for strangers.
        role = self.policy.agents.get(name)
        return self._grants.get(uid, {}).get(role, frozenset()) if role is not None else frozenset()

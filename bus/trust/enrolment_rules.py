"""Who may be enrolled, as whom, with which key: the enrolment list, the signed policy, and who holds the name.

Nobody learns whether a name is held who may not have it anyway: the list is asked before anything else is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from bus.errors import AttestationError, NotPermittedError
from bus.policy import Policy, rollout
from bus.protocol import kem
from bus.protocol.suites import Suite
from bus.trust import attestation, endorsement
from bus.trust.endorsement import HARDWARE, SOFTWARE, SOFTWARE_TPM, Roots
from bus.trust.enrolment_list import EnrolmentList
from bus.trust.enrolment_messages import LISTED, LOCAL, RENEWAL, TOKEN, Applicant, Request
from bus.trust.extension import ORIGINS
from bus.trust.tpm_keys import TpmKey

LEVELS: Final = {SOFTWARE: 0, SOFTWARE_TPM: 1, HARDWARE: 2}
"""The assurance level that each origin stands for: a fact that the authority checked, not a claim."""
_MAY_LEAVE_THE_TPM: Final = "allow"


class Held(NamedTuple):
    """Who has a name: the chip (empty: none) and the identity key of its newest certificate that is not revoked."""

    ek_hash: bytes
    spki: bytes
    suite: Suite


@dataclass(frozen=True, slots=True)
class Known:
    """All that the authority decides by, at one moment."""

    policy: Policy
    roots: Roots
    listed: EnrolmentList
    holder: Callable[[str], Held | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the keys of a request are: in a chip that is believed, or in no chip."""

    origin: str
    ek_hash: bytes = b""
    endorsement: TpmKey | None = None
    attester: TpmKey | None = None

    @property
    def ak_name(self) -> bytes:
        return self.attester.name if self.attester is not None else b""


def place_of(request: Request, roots: Roots, *, now_ms: int) -> Place:
    """Raises AttestationError: ek_untrusted, ek_mismatch, ak_unrestricted; RemoteProtocolError("malformed")."""
    if request.chip is None:
        return Place(SOFTWARE)
    shown = request.chip
    endorsed = endorsement.verify(
        shown.certificate, shown.endorsement, roots=roots, intermediates=shown.intermediates, now_ms=now_ms
    )
    return Place(endorsed.origin, endorsed.hash, endorsed.key, attestation.attestation_key(shown.attester))


def admit(applicant: Applicant, place: Place, listed: EnrolmentList, *, uid: int | None, now_ms: int) -> None:
    """Whether the enrolment list lets this agent in; renewals are judged by who holds the name."""
    if place.attester is None and applicant.way != LOCAL:
        raise AttestationError("uid_unknown", detail="keys of the software keystore are enrolled by their local user alone")
    if applicant.way == LISTED:
        listed.check_chip(applicant.name, place.ek_hash)
    elif applicant.way == TOKEN:
        listed.check_token(applicant.name, applicant.token, now_ms=now_ms)
    elif applicant.way == LOCAL:
        listed.check_uid(applicant.name, uid)


def must_succeed(applicant: Applicant, place: Place, known: Known) -> bool:
    """Whether policy allows it, and whether the old identity key must sign for the new one."""
    held = known.holder(applicant.name)
    if applicant.way == RENEWAL and (held is None or held.ek_hash != place.ek_hash):
        raise AttestationError("not_listed", detail="this chip has no certificate of that name to renew")
    _check_policy(applicant, place.origin, known.policy)
    if held is None:
        return False
    elsewhere = held.ek_hash != place.ek_hash or (not place.ek_hash and held.spki != applicant.spki)
    return elsewhere or applicant.way == RENEWAL


def _check_policy(applicant: Applicant, origin: str, policy: Policy) -> None:
    """By the signed policy, without any environment: whoever sets that of a process does not choose for the authority."""
    try:
        role, verdict = policy.role_of(applicant.name), rollout(policy, applicant.name, {})
    except NotPermittedError as error:
        raise AttestationError("unknown_agent", detail=error.rule) from error
    if ORIGINS.index(origin) < ORIGINS.index(role.key_origin):
        raise AttestationError("origin_refused", detail=f"role {role.name} demands key_origin {role.key_origin}, not {origin}")
    if origin == SOFTWARE and verdict.uses_tpm and role.environment != _MAY_LEAVE_THE_TPM:
        raise AttestationError("origin_refused", detail=f"policy has {role.name} on the TPM, and says environment: forbid")
    if applicant.suite != role.suite:
        raise AttestationError("suite_refused", detail=f"role {role.name} has keys {role.suite}, not {applicant.suite}")
    if applicant.kem < kem.BY_WORD[role.inbox]:
        raise AttestationError("kem_too_weak", detail=f"role {role.name} has inbox keys {role.inbox}")

"""The authority's half of an enrolment: from a request to a verdict, what may be certified. It decides and does nothing.

What it decides by is given at each step (`Known`): the signed policy, the roots of chips, the enrolment list, and who holds
which name. It judges twice, when it is asked and when it has the proof: what was free five minutes ago may be taken now.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from bus.errors import AttestationError, VerificationError
from bus.protocol import signatures
from bus.protocol.contexts import Purpose
from bus.protocol.proof import Proof, key_signer
from bus.protocol.suites import Suite
from bus.trust import attestation, credential
from bus.trust.endorsement import SOFTWARE
from bus.trust.enrolment import REASONS, Binding, Event, Half
from bus.trust.enrolment_messages import (
    NONCE_BYTES,
    SECRET_BYTES,
    Answer,
    Applicant,
    Challenge,
    Evidence,
    Granted,
    Refused,
    Request,
)
from bus.trust.enrolment_rules import LEVELS, Held, Known, Place, admit, must_succeed, place_of
from bus.trust.tpm_keys import TpmKey

NONCE_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the authority may certify."""

    name: str
    spki: bytes
    suite: Suite
    origin: str
    level: int
    ek_hash: bytes
    kem: int
    inbox_key: bytes
    succeeds: bool
    """The old identity key signed for this one."""


@dataclass(slots=True)
class _Pending:
    request: Request
    place: Place
    nonce: bytes = b""
    secret: bytes = field(default=b"", repr=False)
    ends_ms: int = 0


class AuthorityHalf(Half):
    """One enrolment: `request`, `challenge`, `proof`, `grant`, in this order; a failure of any makes it forget everything."""

    _pending: _Pending | None = None

    def reset(self) -> None:
        super().reset()
        self._pending = None

    @property
    def ends_ms(self) -> int:
        """When the challenge ends; 0 where there is none."""
        return self._pending.ends_ms if self._pending is not None else 0

    @property
    def tokens(self) -> Sequence[bytes]:
        """What the agents of this enrolment showed."""
        return self._pending.request.tokens if self._pending is not None else ()

    def request(self, data: bytes) -> Request:
        """What is asked."""
        with self.moving(Event.REQUEST):
            request = Request.parse(data)
            self._pending = _Pending(request, Place(SOFTWARE))
        return request

    def challenge(self, known: Known, *, uid: int | None, now_ms: int, nonce: bytes, secret: bytes, randomness: bytes) -> bytes:
        """The challenge, if all that is asked may be.

        `uid`: the local user at the other end, from the kernel. `nonce`, `secret` (32 bytes each) and `randomness`
        (credential.RANDOMNESS_BYTES) are random and new.
        """
        with self.moving(Event.CHALLENGE):
            if len(nonce) != NONCE_BYTES or len(secret) != SECRET_BYTES:
                raise ValueError("a challenge takes a nonce and a secret of 32 random bytes each")
            pending = self._its()
            pending.place = place = place_of(pending.request, known.roots, now_ms=now_ms)
            needed = []
            for index, applicant in enumerate(pending.request.applicants):
                with _about(applicant):
                    admit(applicant, place, known.listed, uid=uid, now_ms=now_ms)
                    if must_succeed(applicant, place, known):
                        needed.append(index)
            pending.nonce, pending.secret, pending.ends_ms = nonce, secret, now_ms + NONCE_MS
            made = credential.Credential(b"", b"")
            if place.endorsement is not None:
                made = credential.make(place.endorsement, place.ak_name, secret, randomness=randomness)
            return Challenge(nonce, *made, tuple(needed)).encode()

    def proof(self, data: bytes, known: Known, *, uid: int | None, now_ms: int) -> tuple[Verdict, ...]:
        """A verdict for each agent, in the order of the request; all of them, or AttestationError.

        Before any of them is certified, their tokens have to be used up (`tokens`): two may have been challenged by one.
        """
        with self.moving(Event.PROOF):
            pending, answer = self._its(), Answer.parse(data)
            if not hmac.compare_digest(answer.nonce, pending.nonce):
                raise AttestationError("nonce_unknown", detail="this answers another challenge")
            if now_ms >= pending.ends_ms:
                raise AttestationError("nonce_expired", detail="five minutes are over; begin again")
            if len(answer.evidence) != len(pending.request.applicants):
                raise AttestationError("malformed", detail="evidence for another number of agents than asked")
            expected = pending.secret if pending.place.attester is not None else b""
            if not hmac.compare_digest(answer.secret, expected):
                raise AttestationError("wrong_secret", detail="the chip did not open the credential")
            verdicts = []
            for applicant, evidence in zip(pending.request.applicants, answer.evidence, strict=True):
                with _about(applicant):
                    admit(applicant, pending.place, known.listed, uid=uid, now_ms=now_ms)
                    verdicts.append(_verdict(applicant, evidence, pending, known))
        return tuple(verdicts)

    def grant(self, certificates: Sequence[bytes]) -> bytes:
        """The last message. The enrolment is over, and this half can take the next."""
        with self.moving(Event.GRANT):
            answer = Granted(tuple(certificates)).encode()
        self.reset()
        return answer

    def _its(self) -> _Pending:
        if self._pending is None:  # `moving` saw to the state already, so this is for the type alone
            raise ValueError("no request was taken")
        return self._pending


def refusal(error: VerificationError) -> bytes:
    """The last message, instead of any other: the reason's word, the agent's name, and of details nothing."""
    return Refused(error.reason if error.reason in REASONS else "failed", error.agent).encode()


def _verdict(applicant: Applicant, evidence: Evidence, pending: _Pending, known: Known) -> Verdict:
    place = pending.place
    binding = Binding.of(applicant, nonce=pending.nonce, ek_hash=place.ek_hash, ak_name=place.ak_name)
    _check_key(applicant, evidence, place.attester, binding)
    needed = must_succeed(applicant, place, known)
    if needed:
        _check_succession(evidence.succession, known.holder(applicant.name), binding)
    elif evidence.succession is not None:
        raise AttestationError("malformed", detail="a succession that nobody asked for")
    return Verdict(
        applicant.name,
        applicant.spki,
        applicant.suite,
        place.origin,
        LEVELS[place.origin],
        place.ek_hash,
        applicant.kem,
        applicant.inbox_key,
        succeeds=needed,
    )


def _check_key(applicant: Applicant, evidence: Evidence, attester: TpmKey | None, binding: Binding) -> None:
    """By the chip's word, or, where there is none, by the key's own."""
    if attester is not None:
        if evidence.own is not None:
            raise AttestationError("malformed", detail="a key in a chip is certified by that chip, and needs no word of its own")
        key = attestation.identity_key(applicant.public, spki=applicant.spki, suite=applicant.suite)
        attestation.check_certify(attester, evidence.attest, evidence.signature, subject=key, qualifying=binding.qualifying)
        return
    if evidence.own is None or evidence.attest or evidence.signature:
        raise AttestationError("malformed", detail="a software key proves itself, and nobody certifies it")
    _check_signature(evidence.own, applicant.spki, applicant.suite, binding, reason="wrong_identity_key")


def _check_succession(proof: Proof | None, held: Held | None, binding: Binding) -> None:
    if proof is None or held is None:
        raise AttestationError("name_taken", detail="the name is held, and its old identity key must sign for its successor")
    _check_signature(proof, held.spki, held.suite, binding, reason="wrong_successor")


def _check_signature(proof: Proof, spki: bytes, suite: Suite, binding: Binding, *, reason: str) -> None:
    if proof.suite != suite.number or proof.signer != key_signer(spki) or proof.cosignature:
        raise AttestationError(reason, detail="signed by another key, or with another suite")
    try:
        tbs = proof.tbs(Purpose.ENROLL, binding.content(suite, blind=proof.blind))
        signatures.verify(suite, signatures.load_public(spki), tbs, proof.signature)
    except VerificationError as error:
        raise AttestationError(reason, detail=str(error)) from error


@contextmanager
def _about(applicant: Applicant) -> Iterator[None]:
    """Whose fault it is, where one request is for many."""
    try:
        yield
    except AttestationError as error:
        error.agent = error.agent or applicant.name
        raise

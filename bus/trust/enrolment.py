"""An enrolment: what its two halves share. The moves, what a chip or key must sign, and why one is refused.

Each message moves both halves alike, whoever sends it, so one table is the law of both; the diagram in the docs is drawn from
it. Whatever goes wrong ends in `idle`, with nothing left of what was said before: no half-finished enrolment can be taken up.

    binding     [nonce, name, EK hash, AK Name, identity Name, kem, inbox key]
    qualifying  SHA-256("tpmbus/1 enroll" | binding)                  what the chip is asked with, when it certifies the key
    content     H("tpmbus/1 enroll request" | blind | binding)        purpose 4: what an old key signs for its successor

The nonce is the authority's and counts once, so neither can be moved to another enrolment. Where no chip is (keys of the
software keystore) both hashes of the chip are empty, the digest of the bare key takes the identity Name's place, and the key
signs the content itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from bus.errors import AttestationError, LocalProtocolError, RemoteProtocolError
from bus.protocol import codec, contexts
from bus.protocol.proof import key_signer
from bus.protocol.suites import Suite
from bus.protocol.tpm_structures import PublicArea
from bus.trust.enrolment_messages import Applicant


class State(Enum):
    IDLE = "idle"
    ASKED = "asked"
    CHALLENGED = "challenged"
    PROVEN = "proven"


class Event(Enum):
    REQUEST = "request"
    CHALLENGE = "challenge"
    PROOF = "proof"
    GRANT = "granted"
    REFUSE = "refused, or any failure"


MOVES: Final[Mapping[State, Mapping[Event, State]]] = {
    State.IDLE: {Event.REQUEST: State.ASKED},
    State.ASKED: {Event.CHALLENGE: State.CHALLENGED, Event.REFUSE: State.IDLE},
    State.CHALLENGED: {Event.PROOF: State.PROVEN, Event.REFUSE: State.IDLE},
    State.PROVEN: {Event.GRANT: State.IDLE, Event.REFUSE: State.IDLE},
}

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "malformed": "the message does not parse, or is not the one that is due",
        "busy": "too many enrolments wait for their proof; try again in a minute",
        "failed": "the authority could not finish for a reason of its own; its log has it",
        "unknown_agent": "the signed policy knows no agent of this name",
        "not_listed": "the enrolment list does not have this chip for this name, or there is no certificate to renew",
        "token_unknown": "no such token was given out",
        "token_used": "somebody was enrolled by this token before; it counts once",
        "token_expired": "the token is older than an hour",
        "token_other_name": "the token was given out for another name",
        "uid_unknown": "the local user may not enrol this name, or the carrier names no local user",
        "name_taken": "the name is held from another chip or key, and its old identity key did not sign for this one",
        "wrong_successor": "what is to be the old identity key's signature for its successor is not",
        "nonce_unknown": "the authority never gave out this nonce, or it was answered already",
        "nonce_expired": "the answer came later than five minutes after the challenge",
        "ek_untrusted": "no trusted root vouches for the endorsement certificate, or it breaks a rule",
        "ek_mismatch": "the endorsement certificate is for another key than the one that is shown",
        "ak_unrestricted": "the attestation key could sign what its chip did not make",
        "wrong_secret": "the credential was not opened: the attestation key is not in that chip",
        "not_certified": "the attestation key did not certify the identity key",
        "wrong_qualifying": "the identity key was certified with another nonce, name or key",
        "wrong_identity_key": "another key was certified than the one that is to be enrolled, or one of another kind",
        "origin_refused": "the signed policy demands a better place for this agent's key",
        "suite_refused": "the signed policy names another suite for this agent",
        "kem_too_weak": "the signed policy names a stronger inbox key for this agent",
        "not_quoted": "the attestation key did not quote these registers",
        "wrong_registers": "other registers were quoted, or they have other values",
    }
)
"""Every reason of AttestationError while enrolling, and its meaning. A refusal on the wire carries one of these words."""


class Binding(NamedTuple):
    """Everything that an enrolment ties together, as bytes; what is signed is made from it alone."""

    data: bytes

    @classmethod
    def of(cls, applicant: Applicant, *, nonce: bytes, ek_hash: bytes, ak_name: bytes) -> Binding:
        """Raises RemoteProtocolError("malformed") for a public area that is none."""
        name = PublicArea.parse(applicant.public).name if applicant.public else key_signer(applicant.spki)
        return cls(codec.pack([nonce, applicant.name, ek_hash, ak_name, name, applicant.kem, applicant.inbox_key]))

    @property
    def qualifying(self) -> bytes:
        return hashlib.sha256(contexts.ENROLL + self.data).digest()

    def content(self, suite: Suite, *, blind: bytes) -> bytes:
        """For the signing key's suite."""
        return suite.digest(contexts.ENROLL_REQUEST + blind + self.data)


class Half:
    """What moves: a state, and how it is lost."""

    def __init__(self) -> None:
        self.state = State.IDLE

    def reset(self) -> None:
        """Forget everything."""
        self.state = State.IDLE

    @contextmanager
    def moving(self, event: Event) -> Iterator[None]:
        """Make a move: legal now, and made when the block ends well. Else everything is forgotten.

        Raises LocalProtocolError for a move out of turn, AttestationError("malformed") for bytes that do not parse.
        """
        ahead = MOVES[self.state].get(event)
        if ahead is None:
            state = self.state
            self.reset()
            raise LocalProtocolError(f"no {event.value} is due in state {state.value}: begin again with a request")
        try:
            yield
        except RemoteProtocolError as error:
            self.reset()
            raise AttestationError("malformed", detail=str(error)) from error
        except BaseException:
            self.reset()
            raise
        self.state = ahead


def mermaid() -> str:
    """The table as a diagram, for the docs."""
    lines = [
        f"    {state.value} --> {ahead.value}: {event.value}" for state, moves in MOVES.items() for event, ahead in moves.items()
    ]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.IDLE.value}", *lines, ""])

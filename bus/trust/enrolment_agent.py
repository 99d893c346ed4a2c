"""The agents' half of an enrolment: what to send, and what to ask the chip for. It holds no key and asks nobody itself.

One request is for all agents of a host that live in the same place: those in its chip, or those of its software keystore.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bus.errors import AttestationError
from bus.trust import endorsement
from bus.trust.enrolment import REASONS, Binding, Event, Half
from bus.trust.enrolment_messages import REFUSED, Answer, Applicant, Challenge, Chip, Evidence, Granted, Refused, Request, kind_of
from bus.trust.tpm_keys import TpmKey


class Task(NamedTuple):
    """What one agent has to prove its key with."""

    applicant: Applicant
    binding: Binding
    needs_succession: bool
    """The name is held: its old identity key must sign the binding's content too."""


class Opening(NamedTuple):
    """A challenge that was understood: a credential for the chip (empty: there is none), and a task for each agent."""

    id_object: bytes
    encrypted_secret: bytes
    tasks: tuple[Task, ...]


class AgentHalf(Half):
    """One enrolment: `request`, `challenge`, `proof`, `granted`, in this order; a failure of any makes it forget everything."""

    _request: Request | None = None
    _nonce: bytes = b""

    def reset(self) -> None:
        super().reset()
        self._request, self._nonce = None, b""

    def request(self, chip: Chip | None, applicants: Sequence[Applicant]) -> bytes:
        with self.moving(Event.REQUEST):
            self._request = Request(chip, tuple(applicants))
            return self._request.encode()

    def challenge(self, data: bytes) -> Opening:
        """Raises AttestationError with the authority's reason, if it refused."""
        with self.moving(Event.CHALLENGE):
            _raise_refusal(data)
            challenge, request = Challenge.parse(data), self._its()
            if challenge.successions and challenge.successions[-1] >= len(request.applicants):
                raise AttestationError("malformed", detail="a succession is wanted of an agent that nobody named")
            if (request.chip is None) != (not challenge.id_object):
                raise AttestationError("malformed", detail="a credential is for a chip, and every chip gets one")
            self._nonce = challenge.nonce
            return Opening(challenge.id_object, challenge.encrypted_secret, _tasks(request, challenge))

    def proof(self, secret: bytes, evidence: Sequence[Evidence]) -> bytes:
        """`secret`: what the chip made of the credential; empty where there is no chip. Evidence in the order of the tasks."""
        with self.moving(Event.PROOF):
            if len(evidence) != len(self._its().applicants):
                raise ValueError("one piece of evidence for each agent")
            return Answer(self._nonce, secret, tuple(evidence)).encode()

    def granted(self, data: bytes) -> tuple[bytes, ...]:
        """The certificates, DER, in the order of the request: to be judged like any other that comes from afar."""
        with self.moving(Event.GRANT):
            _raise_refusal(data)
            certificates = Granted.parse(data).certificates
            if len(certificates) != len(self._its().applicants):
                raise AttestationError("malformed", detail="a certificate for each agent is due")
        self.reset()
        return certificates

    def _its(self) -> Request:
        if self._request is None:  # `moving` saw to the state already, so this is for the type alone
            raise ValueError("no request was made")
        return self._request


def _tasks(request: Request, challenge: Challenge) -> tuple[Task, ...]:
    ek_hash = ak_name = b""
    if request.chip is not None:
        ek_hash = endorsement.key_hash(TpmKey.parse(request.chip.endorsement).spki)
        ak_name = TpmKey.parse(request.chip.attester).name
    return tuple(
        Task(
            applicant,
            Binding.of(applicant, nonce=challenge.nonce, ek_hash=ek_hash, ak_name=ak_name),
            index in challenge.successions,
        )
        for index, applicant in enumerate(request.applicants)
    )


def _raise_refusal(data: bytes) -> None:
    if kind_of(data) != REFUSED:
        return
    refused = Refused.parse(data)
    meaning = REASONS.get(refused.reason)
    raise AttestationError(refused.reason if meaning else "failed", agent=refused.name, detail=meaning or refused.reason)

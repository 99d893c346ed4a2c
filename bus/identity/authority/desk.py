"""The authority's enrolment desk: bytes come in, bytes go out, and what is granted is certified.

It decides nothing itself (`trust.enrolment_authority` does) and keeps what that needs: enrolments that wait for their proof, by
nonce, in memory; and the enrolment list, in trust/private/enrolment.json. A token is used up on disk when the proof is good, before
anything is certified: it enrols once, whoever else was challenged by it, and also if this process is killed in between.

A refusal tells the other end one word of `trust.enrolment.REASONS`; the rest is for the log here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from bus.clock import Clock, SystemClock
from bus.errors import AttestationError, BusError, RemoteProtocolError, VaultError, VerificationError
from bus.flow.quiet import Quiet
from bus.identity.authority.issue import Authority
from bus.policy import Policy
from bus.trust import certificates, credential
from bus.trust.endorsement import Roots
from bus.trust.enrolment_authority import AuthorityHalf, Verdict, refusal
from bus.trust.enrolment_list import EnrolmentList
from bus.trust.enrolment_messages import NONCE_BYTES, PROOF, REQUEST, SECRET_BYTES, TOKEN_BYTES, Answer, kind_of
from bus.trust.enrolment_rules import Held, Known

_log = logging.getLogger(__name__)

LIST_FILE: Final = "enrolment.json"
MAX_PENDING: Final = 64
"""Enrolments that wait for their proof; more are told to come again. Each is as long as its request at most."""
OVERLAP_MS: Final = 16 * 60_000
"""How long an old identity still counts beside its successor: a session certificate's life, and the clocks' difference."""


class Desk:
    """Every method blocks (disk, RSA): call it in a worker thread. Several threads may; one is served at a time."""

    def __init__(
        self,
        authority: Authority,
        *,
        policy: Callable[[], Policy],
        roots: Roots,
        clock: Clock | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`policy` gives the signed policy in force. Raises VaultError("damaged") for an enrolment list that is none."""
        self._authority, self._policy, self._roots = authority, policy, roots
        self._clock, self._random = clock or SystemClock(), random
        self._pending: dict[bytes, tuple[AuthorityHalf, int]] = {}
        self._quiet = Quiet()
        self._lock = Lock()
        self._listed = _read_list(authority)

    # -- enrolling -------------------------------------------------------------------------------------------------------------

    def answer(self, message: bytes, *, uid: int | None = None) -> bytes:
        """The answer to a request or a proof. Never raises for what is in the message, nor for what the authority meets.

        `uid`: the local user at the other end, if the kernel named one.
        """
        with self._lock:
            try:
                return self._answer(message, uid)
            except VerificationError as error:
                self._say(error.reason, error)
                return refusal(error)
            except RemoteProtocolError as error:
                self._say("malformed", error)
                return refusal(AttestationError("malformed"))
            except BusError as error:  # a disk that is full, keys that do not open: ours to mend, not theirs to know
                if self._quiet.may_say(type(error).__name__, now=self._clock.monotonic()):
                    _log.exception("an enrolment could not be finished")
                return refusal(AttestationError("failed"))

    def _say(self, reason: str, error: BusError) -> None:
        """Once a minute and reason: whoever asks is nobody yet, and may ask as often as it likes."""
        if self._quiet.may_say(reason, now=self._clock.monotonic()):
            _log.warning("enrolment refused: %s", error)

    def _answer(self, message: bytes, uid: int | None) -> bytes:
        kind = kind_of(message)
        if kind == REQUEST:
            return self._challenge(message, uid)
        if kind == PROOF:
            return self._grant(message, uid)
        raise AttestationError("malformed", detail="neither a request nor a proof")

    def _challenge(self, message: bytes, uid: int | None) -> bytes:
        now = self._clock.now_ms()
        self._pending = {nonce: waiting for nonce, waiting in self._pending.items() if waiting[1] > now}
        if len(self._pending) >= MAX_PENDING:
            raise AttestationError("busy", detail=f"{MAX_PENDING} enrolments wait for their proof")
        half, known = AuthorityHalf(), self._known()
        half.request(message)
        nonce, secret = self._random(NONCE_BYTES), self._random(SECRET_BYTES)
        randomness = self._random(credential.RANDOMNESS_BYTES)
        answer = half.challenge(known, uid=uid, now_ms=now, nonce=nonce, secret=secret, randomness=randomness)
        self._forget(half.tokens)
        self._pending[nonce] = half, half.ends_ms
        return answer

    def _grant(self, message: bytes, uid: int | None) -> bytes:
        half, _ = self._pending.pop(Answer.parse(message).nonce, (None, 0))
        if half is None:
            raise AttestationError("nonce_unknown", detail="this challenge was answered already, or never given out")
        verdicts = half.proof(message, self._known(), uid=uid, now_ms=self._clock.now_ms())
        self._change(self._listed.without_tokens(half.tokens))
        granted = [self._issue(verdict) for verdict in verdicts]
        _log.info("enrolled %s", ", ".join(verdict.name for verdict in verdicts))
        return half.grant(granted)

    def _forget(self, tokens: Sequence[bytes]) -> None:
        """Of what waits by these tokens: the newest alone, so that who has one token has one place."""
        shown = frozenset(tokens)
        self._pending = {nonce: waiting for nonce, waiting in self._pending.items() if shown.isdisjoint(waiting[0].tokens)}

    def _issue(self, verdict: Verdict) -> bytes:
        return self._authority.issue_identity(
            verdict.name,
            verdict.spki,
            verdict.suite,
            verdict.origin,
            verdict.level,
            verdict.ek_hash,
            overlap_ms=OVERLAP_MS if verdict.succeeds else 0,
            successor=verdict.succeeds,
        )

    def _known(self) -> Known:
        return Known(self._policy(), self._roots, self._listed, self._holder)

    def _holder(self, name: str) -> Held | None:
        holder = self._authority.holder(name)
        if holder is None:
            return None
        certificate = certificates.read(holder.der, root=self._authority.root, domain=self._authority.domain)
        return Held(holder.ek_hash, certificate.spki, certificate.suite)

    # -- the enrolment list ----------------------------------------------------------------------------------------------------

    @property
    def listed(self) -> EnrolmentList:
        return self._listed

    def believe(self, roots: Roots) -> None:
        """Whose word on a chip is taken from now on."""
        with self._lock:
            self._roots = roots

    def list_chip(self, name: str, ek_hash: bytes) -> None:
        """The chip of this endorsement key (SHA-256 of its SubjectPublicKeyInfo) may have this name."""
        with self._lock:
            self._change(self._listed.with_chip(name, ek_hash))

    def list_uid(self, name: str, uid: int) -> None:
        """This local user may enrol this name; with EVERY_NAME, whomever policy knows."""
        with self._lock:
            self._change(self._listed.with_uid(name, uid))

    def new_token(self, name: str) -> bytes:
        """A one-time token for this name, good for an hour. It is kept nowhere: hand it over, and show it to nobody else."""
        token = self._random(TOKEN_BYTES)
        with self._lock:
            self._change(self._listed.with_token(name, token, now_ms=self._clock.now_ms()))
        return token

    def list_token(self, name: str, digest: bytes) -> None:
        """A token that somebody else made, by its SHA-256: good for this name, once, for an hour."""
        with self._lock:
            self._change(self._listed.with_token_hash(name, digest, now_ms=self._clock.now_ms()))

    def unlist(self, name: str) -> None:
        """Nobody may enrol under this name any more. Call it with a revocation, else the same chip takes the name again."""
        with self._lock:
            self._change(self._listed.without(name))
            self._pending.clear()

    def _change(self, listed: EnrolmentList) -> None:
        """On disk before it counts."""
        if listed is not self._listed:
            self._authority.keep(LIST_FILE, listed.encode())
            self._listed = listed


def _read_list(authority: Authority) -> EnrolmentList:
    data = authority.kept(LIST_FILE)
    if data is None:
        return EnrolmentList()
    try:
        return EnrolmentList.parse(data)
    except ValueError as error:
        path = str(authority.private / LIST_FILE)
        text = f"{path}: {error}; restore it from a backup, or remove it and list the agents again"
        raise VaultError("damaged", text, path=path) from error

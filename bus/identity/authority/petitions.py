"""Who asks the authority for something over the bus, and whether they may: signature, right and freshness, judged here alone.

The broker that carried a request is believed nothing: it may have kept it, made it up, or brought it twice. So the identity key
signs, and the certificate that counts is the one in the authority's own books; a request is young, and younger than this authority
has been open, since what was asked before that is remembered by nobody; and it counts once.

What is remembered is bounded by what was signed: only then is an agent's share of requests touched, so nobody can use up another's.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final

from bus.clock import Clock
from bus.errors import NotPermittedError, VerificationError
from bus.identity.authority.issue import Authority
from bus.identity.envelopes.standing import origin_fault
from bus.policy import Policy
from bus.protocol.skew import SKEW_MS
from bus.trust import certificates
from bus.trust.certificates import Certificate, Profile
from bus.trust.petition import RIGHTS, Petition, Signed, Verb

MOST_A_MINUTE: Final = 30
"""Of each agent."""
MINUTE_MS: Final = 60_000
MOST_CERTIFICATES: Final = 6
"""Of each agent in an hour: one lasts a day, and the authority remembers all of them."""
HOUR_MS: Final = 3_600_000
BUSY: Final = "busy"


class Judge:
    """`judge` blocks (a signature): call it in a worker thread. Several may."""

    def __init__(self, authority: Authority, *, policy: Callable[[], Policy], clock: Clock) -> None:
        self._authority, self._policy, self._clock = authority, policy, clock
        self._since_ms = clock.now_ms()
        self._lock = Lock()
        self._seen: dict[bytes, int] = {}
        """By SHA-256 of a body: until when it would be young enough. (A proof can be written in several ways.)"""
        self._shares: dict[tuple[str, int], deque[int]] = {}
        """By agent and span, when it asked."""

    def judge(self, data: bytes) -> Petition:
        """What is asked, by one who may ask it now.

        Raises RemoteProtocolError("malformed"), NotPermittedError, VerificationError: untrusted, revoked, bad_proof, wrong_signer,
        expired, replayed, busy.
        """
        signed = Signed.parse(data)
        petition = Petition.parse(signed.body)
        identity = self._identity(petition)
        signed.check(identity.public_key, identity.suite, identity.signer)
        now_ms = self._clock.now_ms()
        self._check_time(petition, now_ms)
        self._check_right(petition, identity)
        with self._lock:
            self._count(petition, hashlib.sha256(signed.body).digest(), now_ms)
        return petition

    def _identity(self, petition: Petition) -> Certificate:
        """The certificate that counts, in time."""
        authority, name = self._authority, petition.agent
        if petition.domain != authority.domain:
            raise VerificationError("untrusted", agent=name, detail="a request to the authority of another domain")
        holder = authority.holder(name)
        if holder is None:
            raise VerificationError("revoked", agent=name, detail="it has no certificate that counts")
        found = certificates.read(holder.der, root=authority.root, domain=authority.domain, profile=Profile.AGENT)
        if not found.not_before_ms - SKEW_MS <= self._clock.now_ms() <= found.not_after_ms:
            raise VerificationError("untrusted", agent=name, detail="its certificate has ended")
        return found

    def _check_time(self, petition: Petition, now_ms: int) -> None:
        if not max(now_ms - SKEW_MS, self._since_ms) <= petition.made_ms <= now_ms + SKEW_MS:
            detail = f"made {now_ms - petition.made_ms} ms ago, or before this authority was opened: compare the clocks, ask again"
            raise VerificationError("expired", agent=petition.agent, detail=detail)

    def _check_right(self, petition: Petition, identity: Certificate) -> None:
        policy, right = self._policy(), RIGHTS.get(petition.verb)
        role = policy.role_of(petition.agent)
        if right is not None and right not in role.may:
            raise NotPermittedError(petition.agent, f"ask for {petition.verb}", f"role {role.name} has no `may: [{right}]`")
        fault = origin_fault(identity, policy, needs_identity=False)
        if fault is not None:
            raise fault.error(petition.agent)

    def _count(self, petition: Petition, digest: bytes, now_ms: int) -> None:
        self._seen = {one: until_ms for one, until_ms in self._seen.items() if until_ms >= now_ms}
        if digest in self._seen:
            raise VerificationError("replayed", agent=petition.agent, detail="this request came before")
        most, span_ms = (MOST_CERTIFICATES, HOUR_MS) if petition.verb is Verb.TLS else (MOST_A_MINUTE, MINUTE_MS)
        share = self._shares.setdefault((petition.agent, span_ms), deque())
        while share and share[0] <= now_ms - span_ms:
            share.popleft()
        if len(share) >= most:
            raise VerificationError(BUSY, agent=petition.agent, detail=f"more than {most} requests in {span_ms // 60_000} min")
        share.append(now_ms)
        self._seen[digest] = petition.made_ms + SKEW_MS

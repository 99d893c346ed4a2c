"""Whose session is this? Papers, read and verified: every equation that does not depend on the time or on what was revoked since.

    papers -> session certificate <- signed by - identity certificate <- signed by - the pinned root
                                  <- names ---- trust statement       <- signed by - the trust signer <- ..

What is left to ask of every envelope is in `standing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.errors import VerificationError
from bus.identity.envelopes.verifier import Verifier
from bus.protocol.papers import InboxBody, InboxCertificate, Papers, SessionBody, SessionCertificate, host_signer
from bus.protocol.skew import SKEW_MS
from bus.trust.certificates import Certificate, Profile
from bus.trust.statement import Statement


@dataclass(frozen=True, slots=True, eq=False)
class Believed:
    """A session whose papers hold together."""

    papers: Papers = field(repr=False)
    session: SessionCertificate = field(repr=False)
    id: bytes
    name: str
    identity: Certificate = field(repr=False)
    statement: Statement = field(repr=False)
    host_key: bytes = field(repr=False)
    host_signer: bytes = field(repr=False)
    not_before_ms: int
    not_after_ms: int

    @property
    def begun_ms(self) -> int:
        """Before what its papers say is older than this. Who may use an identity key for a moment can date sessions ahead, and so
        outlive the end of all sessions; but nobody has a statement that is not issued yet."""
        return min(self.not_before_ms, self.statement.issued_ms)


@dataclass(frozen=True, slots=True, eq=False)
class BelievedInbox:
    """An inbox certificate that its identity signed."""

    inbox: InboxCertificate = field(repr=False)
    identity: Certificate = field(repr=False)

    @property
    def name(self) -> str:
        return self.inbox.body.name


def believe(data: bytes, verifier: Verifier, *, now_ms: int, profile: Profile = Profile.AGENT) -> Believed:
    """Raises RemoteProtocolError("malformed"), VerificationError("untrusted", "bad_proof")."""
    papers = Papers.parse(data)
    session = SessionCertificate.parse(papers.session)
    body = session.body
    identity = _identity(papers.identity, body, verifier, profile=profile, now_ms=now_ms)
    session.check(identity.public_key, identity.suite, identity.signer)
    if not identity.not_before_ms - SKEW_MS <= body.not_before_ms < body.not_after_ms <= identity.not_after_ms:
        raise _untrusted(body.name, "a session that is not within its identity's time")
    return Believed(
        papers=papers,
        session=session,
        id=session.id,
        name=body.name,
        identity=identity,
        statement=_statement(papers, session, verifier, now_ms=now_ms),
        host_key=body.host_key,
        host_signer=host_signer(body.host_key),
        not_before_ms=body.not_before_ms,
        not_after_ms=body.not_after_ms,
    )


def believe_inbox(data: bytes, identity_der: bytes, verifier: Verifier, *, now_ms: int) -> BelievedInbox:
    """Raises RemoteProtocolError("malformed"), VerificationError("untrusted", "bad_proof")."""
    inbox = InboxCertificate.parse(data)
    body = inbox.body
    identity = _identity(identity_der, body, verifier, profile=Profile.AGENT, now_ms=now_ms)
    inbox.check(identity.public_key, identity.suite, identity.signer)
    return BelievedInbox(inbox, identity)


def _identity(der: bytes, body: SessionBody | InboxBody, verifier: Verifier, *, profile: Profile, now_ms: int) -> Certificate:
    identity = verifier.certificate(der, profile=profile, now_ms=now_ms)
    if (body.domain, body.name, body.identity) != (verifier.domain, identity.name, identity.signer):
        raise _untrusted(body.name, "its identity certificate is of another agent, or of another domain")
    return identity


def _statement(papers: Papers, session: SessionCertificate, verifier: Verifier, *, now_ms: int) -> Statement:
    """The statement that the session was made under: so that none is dated beyond one that exists."""
    body = session.body
    statement = verifier.statement(papers.statement, now_ms=now_ms)
    if (statement.number, statement.digest) != (body.trust_number, body.trust_digest):
        raise _untrusted(body.name, "the trust statement in the papers is not the one that the session names")
    if not statement.issued_ms - SKEW_MS <= body.not_before_ms <= statement.next_update_ms:
        raise _untrusted(body.name, "a session that begins outside the time of its trust statement")
    return statement


def _untrusted(name: str, detail: str) -> VerificationError:
    return VerificationError("untrusted", agent=name, detail=detail)

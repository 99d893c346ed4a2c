"""Part 6, what envelopes and grants share: is the trust view fresh, and are the sender's papers good at this moment (line 8)?"""

from __future__ import annotations

from .header import Header
from .papers import Papers
from .proof import Proof, Signed
from .refusal import demand
from .world import World

SKEW_MS = 60_000


def fresh(world: World, clock_ms: int) -> int:
    """Now, or trust_stale."""
    now = world.now(clock_ms)
    demand(now <= world.statement.body.next_update_ms, "trust_stale")
    return now


def in_time(header: Header, now: int, *, until_ms: int) -> None:
    """Line 3, checks 1 and 2."""
    demand(header.sent_ms <= now + SKEW_MS, "from_future")
    demand(now <= until_ms, "expired")


def known_papers(world: World, header: Header) -> Papers:
    """Line 7.1."""
    found = world.papers.get(header.session)
    demand(found, "missing_papers")
    return world.papers[header.session]


def signature(papers: Papers, proof: Proof, signed: Signed, host_signer: bytes) -> None:
    """Line 7, checks 4 and 5."""
    who = (proof.suite, proof.signer)
    by_host = who == (1, host_signer)
    demand(by_host or who == (papers.identity.suite, papers.identity.signer), "untrusted", "another signer")
    proof.verify(papers.session.host_key if by_host else papers.identity.spki, signed.tbs)


def papers_now(world: World, papers: Papers, header: Header) -> None:
    """Line 8."""
    session, crl = papers.session, world.crl
    demand(session.name == header.sender, "untrusted", "papers of another name")
    demand(not crl.at(papers.statement.signer.serial, papers.statement.body.issued_ms), "revoked", "the statement's signer")
    demand(not crl.ever(papers.identity.serial), "revoked", "the identity")
    since = world.statement.body.of(session.name)[1]
    demand(session.not_before >= since and papers.statement.body.issued_ms >= since, "revoked", "the session")
    demand(session.not_before <= header.sent_ms <= session.not_after, "untrusted", "not in its session's time")
    demand(not crl.at(papers.identity.serial, header.sent_ms), "revoked", "the identity, at that time")

"""Part 6, line 9: the reader's own policy, now."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import suites
from .header import Header
from .names import AUDIT
from .papers import Papers
from .policy import Rule
from .proof import Proof, Signed
from .refusal import demand
from .world import Request, World


@dataclass(frozen=True)
class Matter:
    world: World
    header: Header
    rule: Rule
    request: Request | None
    """That this is the reply to."""
    dead: bool = field(kw_only=True)


def entitled(matter: Matter, papers: Papers, proof: Proof, signed: Signed) -> None:
    world, header, rule = matter.world, matter.header, matter.rule
    demand(_may_say(matter), "not_permitted", "the sender")
    demand(papers.identity.origin >= world.policy.demanded_origin(header.sender), "wrong_signer", "origin")
    if rule.identity:
        demand(suites.has_sha3(papers.identity.suite), "wrong_signer", "no SHA-3")
    if rule.cosign:
        vouched = world.statement.body.vouches(header.sender, papers.ml_dsa)
        demand(vouched, "wrong_signer", "nobody vouches for its ML-DSA key")
    if rule.identity:
        demand(proof.suite != 1, "wrong_signer", "not by the identity")
    if rule.cosign:
        demand(proof.cosignature, "wrong_signer", "no cosignature")
        demand(suites.ml_dsa(papers.ml_dsa, signed.tbs, proof.cosignature), "bad_proof", "cosignature")
    demand(_may_hear(matter), "not_permitted", "this agent")


def _may_say(matter: Matter) -> bool:
    policy, header = matter.world.policy, matter.header
    if policy.role(header.sender) is None:
        return False
    if matter.request is not None:
        return policy.may(header.sender, "subscribe", matter.request.topic)
    audit = AUDIT.fullmatch(header.topic)
    return audit[1] == header.sender if audit else policy.may(header.sender, "publish", header.topic)


def _may_hear(matter: Matter) -> bool:
    policy, me, topic = matter.world.policy, matter.world.agent, matter.header.topic
    if matter.request is not None:
        return True  # line 2 found that this agent asked
    if matter.dead:
        return policy.stands_for(matter.rule.dead_readers, me)
    if AUDIT.fullmatch(topic):
        return policy.stands_for(policy.audit_readers, me)
    return policy.may(me, "subscribe", topic)

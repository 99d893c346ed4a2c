"""A host's half of the handshake: whatever poses as its broker hears no proof, and so learns no more than papers."""

from __future__ import annotations

import os
from typing import Any

import pytest
from played import broker_session
from small_world import MINUTE, World

from bus.agent.greeting import Greeting
from bus.errors import VerificationError
from bus.identity.host.session import Session
from bus.protocol.frames import Frame, parse
from bus.protocol.handshake import HelloB, Limits, agent_tbs, broker_tbs, transcript
from bus.protocol.signatures import verify_host
from bus.protocol.skew import SKEW_MS
from bus.transport.link import Peer
from bus.trust.revocations import Reason, Revocation

Leaves = dict[str, bytes]


def greeted(
    world: World, session: Session, *, papers: bytes = b"", brokers: tuple[str, ...] = ("BROKER",), over: Leaves, signed: Leaves
) -> None:
    """A host greets this broker over a link with these certificates, and it signs for one with those."""
    agent = world.agent("DIRECTOR")
    greeting = Greeting(
        [agent.papers], agent.host, peer=Peer("tls", "here", **over), brokers=brokers, snapshot=world.snapshot,
        verifier=world.verifier, now_ms=world.now, random=os.urandom,
    )  # fmt: skip
    hello_a = parse(greeting.begin())[1]
    hello_b = HelloB(1, os.urandom(32), papers or session.papers, Limits(), world.now).encode()
    assert greeting.take([Frame.HELLO_B, hello_b]) is None
    t = transcript(hello_a, hello_b, server_leaf=signed.get("server_leaf"), client_leaf=signed.get("client_leaf"))
    answer = greeting.take([Frame.PROVE, session.keys.sign(broker_tbs(t))])
    assert answer is not None
    verify_host(agent.host.public, agent_tbs(t), parse(answer)[1])
    assert greeting.is_open


LEAVES = {"server_leaf": b"of the server", "client_leaf": b"of the client"}
LINKS: dict[str, tuple[Leaves, Leaves]] = {
    "another server's certificate": (LEAVES, LEAVES | {"server_leaf": b"another"}),
    "another client's certificate": (LEAVES, LEAVES | {"client_leaf": b"another"}),
    "a link without certificates": (LEAVES, {}),
}


@pytest.mark.parametrize("leaves", [{}, LEAVES])
def test_its_broker_hears_a_proof_for_this_link(world: World, leaves: Leaves):
    greeted(world, broker_session(world), over=leaves, signed=leaves)


@pytest.mark.parametrize("case", LINKS)
def test_a_broker_that_proves_itself_on_another_link_is_refused(world: World, case: str):
    over, signed = LINKS[case]
    with pytest.raises(VerificationError) as caught:
        greeted(world, broker_session(world), over=over, signed=signed)
    assert caught.value.reason == "bad_proof"


@pytest.mark.parametrize("how", ["not pinned", "an agent's papers", "another's papers", "revoked", "ended", "not begun"])
def test_who_is_not_the_broker_now_is_refused(world: World, how: str):
    session, changes = broker_session(world), dict[str, Any]()
    reason = "untrusted"
    if how == "not pinned":
        changes["brokers"] = ("ANOTHER",)
    elif how == "an agent's papers":
        changes["papers"] = world.agent("MONITOR").papers
    elif how == "another's papers":
        changes["papers"], reason = broker_session(world).papers, "bad_proof"
    elif how == "revoked":
        world.trust(revoked={session.holder.identity.serial: Revocation(world.now, Reason.COMPROMISED)})
        reason = "revoked"
    elif how == "ended":
        world.now += 15 * MINUTE + SKEW_MS + 1
    else:
        world.now -= SKEW_MS + 1
    with pytest.raises(VerificationError) as caught:
        greeted(world, session, over={}, signed={}, **changes)
    assert caught.value.reason == reason

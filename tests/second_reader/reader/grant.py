"""Part 6: "Receiving a grant"."""

from __future__ import annotations

from dataclasses import dataclass

from . import digests, kem_keys, now
from .body import GrantBody, read_grant_body, read_params, read_plaintext
from .header import Header, read_envelope, read_header
from .names import GRANT
from .papers import Papers
from .proof import Proof, Signed
from .refusal import demand
from .world import PrivateKey, World

MAX_TO_OTHERS = 32_768


@dataclass(frozen=True)
class Granted:
    header: Header
    body: GrantBody
    papers: Papers
    proof: Proof
    signed: Signed
    header_bytes: bytes
    sealed: bytes
    plaintext: bytes
    body_bytes: bytes


def open_grant(world: World, data: bytes, clock_ms: int) -> Granted:
    clock = now.fresh(world, clock_ms)
    header_bytes, sealed = read_envelope(data)
    header = read_header(header_bytes)
    name = _form(header)
    demand(len(data) <= MAX_TO_OTHERS or header.sender == name, "malformed", "too long for a grant to another")
    key = _key(world, header, name)
    now.in_time(header, clock, until_ms=header.expires_ms)
    plaintext = kem_keys.open_sealed(key.kem, key.private, sealed, digests.grant_info(header_bytes))
    proof, body_bytes = read_plaintext(plaintext)
    body = _body(body_bytes, name, key)
    _epoch(world, header, body, key)
    papers = now.known_papers(world, header)
    content = digests.envelope_content(proof.known_suite(), proof.blind, header_bytes, body_bytes)
    signed = proof.signed(1, content)
    now.signature(papers, proof, signed, digests.host_signer(papers.session.host_key))
    now.papers_now(world, papers, header)
    demand(proof.suite == 1, "wrong_signer", "not by the host key")
    if header.epoch not in world.epochs:
        known = [(epoch.params.sender, epoch.params.durable) for epoch in world.epochs.values()]
        demand(world.takes_another(header.sender, known, durable=read_params(body.params).durable), "too_many_epochs")
    return Granted(header, body, papers, proof, signed, header_bytes, sealed, plaintext, body_bytes)


def _form(header: Header) -> str:
    """The reader's name."""
    topic = GRANT.fullmatch(header.topic)
    form = (header.kind, header.flags, header.seq, header.before, header.priority, header.records, len(header.ref))
    demand(topic and form == (2, 0, 0, 0, 0, 1, 16), "malformed", "no header of a grant")
    return topic[1] if topic else ""


def _key(world: World, header: Header, name: str) -> PrivateKey:
    found = [key for key in world.keys if key.agent == name == world.agent and key.id == header.ref]
    demand(found, "unsolicited", "no such key")
    return found[0]


def _body(data: bytes, name: str, key: PrivateKey) -> GrantBody:
    body = read_grant_body(data)
    demand(body.reader == name, "malformed", "another reader")
    demand(len(body.reader_session) == (16 if key.sessions else 0), "malformed", "reader_session")
    read_params(body.params)
    return body


def _epoch(world: World, header: Header, body: GrantBody, key: PrivateKey) -> None:
    params = read_params(body.params)
    demand(digests.epoch_id(body.secret, body.params) == header.epoch, "wrong_epoch", "id")
    demand(params.sender == header.sender and params.domain == world.domain, "wrong_epoch", "sender or domain")
    demand(body.reader_session in key.sessions if key.sessions else params.durable, "wrong_epoch", "key")

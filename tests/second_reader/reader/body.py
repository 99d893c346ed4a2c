"""Parts 3 and 5: what is inside a seal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import pack, shape
from .header import MAX_ENVELOPE
from .proof import Proof
from .refusal import demand


def read_plaintext(data: bytes) -> tuple[Proof, bytes]:
    """(proof, the bytes of the body)."""
    proof, body = shape.array(pack.parse(data, MAX_ENVELOPE), 2)
    return Proof.of(proof), shape.binary(body)


@dataclass(frozen=True)
class Record:
    index: int
    kind: int
    payload: bytes
    headers: list[list[str]]


def read_body(data: bytes) -> list[Record]:
    kinds, payloads, extras = shape.array(pack.parse(data, MAX_ENVELOPE), 3)
    shape.items(payloads, 1, 1_024)
    demand(len(shape.binary(kinds)) == len(payloads) and set(kinds) <= {0, 1}, "malformed", "kinds")
    shape.items(extras, 0, len(payloads))
    found = {shape.number(index, 0, len(payloads) - 1): _pairs(pairs) for index, pairs in (shape.array(e, 2) for e in extras)}
    shape.ascending(extras, lambda extra: extra[0])
    return [Record(i, kinds[i], shape.binary(payload), found.get(i, [])) for i, payload in enumerate(payloads)]


def _pairs(value: Any) -> list[list[str]]:
    pairs = [[shape.text(part) for part in shape.array(pair, 2)] for pair in shape.items(value, 1, 64)]
    demand(len({name for name, _ in pairs}) == len(pairs), "malformed", "a name twice")
    return pairs


@dataclass(frozen=True)
class Params:
    domain: str
    sender: str
    audience: bytes
    durable: bool
    priority: int
    signed_by: int
    aead: int
    kem: int
    made_ms: int
    ends_ms: int


def read_params(data: bytes) -> Params:
    domain, sender, audience, durable, priority, signed_by, aead, kem, made, ends = shape.array(pack.parse(data, 1_024), 10)
    return Params(
        shape.domain(domain),
        shape.agent(sender),
        shape.binary(audience, [32]),
        shape.one_of(durable, [0, 1]) == 1,
        shape.number(priority, 0, 4),
        shape.one_of(signed_by, [0, 1]),
        shape.one_of(aead, [1, 2]),
        shape.one_of(kem, [1, 2]),
        shape.number(made),
        shape.number(ends),
    )


@dataclass(frozen=True)
class GrantBody:
    secret: bytes
    params: bytes
    reader: str
    reader_session: bytes
    names: list[list[Any]]


def read_grant_body(data: bytes) -> GrantBody:
    secret, params, reader, session, names = shape.array(pack.parse(data, MAX_ENVELOPE), 5)
    return GrantBody(
        shape.binary(secret, [32]),
        shape.binary(params, range(1, 1_025)),
        shape.agent(reader),
        shape.binary(session, [0, 16]),
        _names(names),
    )


def _names(value: Any) -> list[list[Any]]:
    """Part 5: a bin that holds the list, or is empty."""
    data = shape.binary(value)
    if not data:
        return []
    members = shape.items(pack.parse(data, MAX_ENVELOPE), 1, 16_384)
    read = [[shape.agent(name), shape.number(generation)] for name, generation in (shape.array(m, 2) for m in members)]
    shape.ascending(read, lambda member: member[0])
    return read

"""Part 8: the two hellos, and the payload of an audit record (part 6)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from . import pack, shape
from .proof import Proof
from .refusal import demand

MAX_HELLO = 1_048_576


def read_hello_a(data: bytes) -> list[Any]:
    versions, nonce, papers = read = shape.array(pack.parse(data, MAX_HELLO), 3)
    for version in shape.items(versions, 1, 16):
        shape.number(version, 1, 255)
    shape.ascending(versions, lambda version: version)
    shape.binary(nonce, [32])
    for one in shape.items(papers, 1, 1_024):
        demand(shape.binary(one), "malformed", "empty papers")
    return read


def read_hello_b(data: bytes, offered: Collection[int]) -> list[Any]:
    version, nonce, papers, limits, time_ms = read = shape.array(pack.parse(data, MAX_HELLO), 5)
    shape.number(version, 0, 255)
    demand(version in offered, "version")
    shape.binary(nonce, [32])
    demand(shape.binary(papers), "malformed", "empty papers")
    envelope, records, topics, subscriptions = shape.array(limits, 4)
    shape.number(envelope, 1_025, 1_048_576)
    shape.number(records, 1, 1_024)
    shape.number(topics, 1, shape.U32)
    shape.number(subscriptions, 1, shape.U32)
    shape.number(time_ms)
    return read


def read_audit(data: bytes) -> list[Any]:
    epoch, seq, content, proof = read = shape.array(pack.parse(data, 5_120), 4)
    shape.binary(epoch, [32])
    shape.number(seq, 0, shape.U32)
    shape.binary(content, [32])
    demand(Proof.of(proof).suite != 1, "wrong_signer", "an audit by a host key")
    return read

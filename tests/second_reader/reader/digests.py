"""Ids, contents, leaves and what is signed: every value that is derived from others (parts 3, 4, 5, 7, 8 and 10)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from fractions import Fraction

from .pack import pack

Hash = Callable[[bytes], bytes]


def _named(name: str) -> Hash:
    return lambda data: hashlib.new(name, data).digest()


sha256 = _named("sha256")
HASHES: dict[int, Hash] = {
    1: sha256,
    **{base + i: _named(name) for base in (16, 32, 48) for i, name in enumerate(("sha256", "sha384", "sha3_256", "sha3_384"))},
}
"""H of each suite."""

PURPOSES = {
    2: b"tpmbus/1 session",
    3: b"tpmbus/1 inbox",
    4: b"tpmbus/1 enroll request",
    5: b"tpmbus/1 audit",
    6: b"tpmbus/1 http",
}


def u32be(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64be(value: int) -> bytes:
    return value.to_bytes(8, "big")


# ---- contents, leaves, tbs


def envelope_content(suite: int, blind: bytes, header: bytes, body: bytes) -> bytes:
    h = HASHES[suite]
    return h(b"tpmbus/1 envelope" + blind + u32be(len(header)) + header + h(body))


def other_content(suite: int, purpose: int, blind: bytes, body: bytes) -> bytes:
    """Purposes 2 to 6. Of purpose 5 the body is the content that is vouched for."""
    return HASHES[suite](PURPOSES[purpose] + blind + body)


def leaf(suite: int, purpose: int, content: bytes) -> bytes:
    return HASHES[suite](b"\x00tpmbus/1 leaf" + bytes([purpose]) + content)


def tbs(suite: int, signer: bytes, n: int, root: bytes) -> bytes:
    return b"tpmbus/1 root\x00" + bytes([suite]) + signer + u32be(n) + root


# ---- who and which


def host_signer(key: bytes) -> bytes:
    return sha256(b"tpmbus/1 host" + key)


def key_signer(spki: bytes) -> bytes:
    return sha256(b"tpmbus/1 key" + spki)


def key_id(kem: int, public: bytes) -> bytes:
    return sha256(b"tpmbus/1 kem key" + bytes([kem]) + public)[:16]


def session_id(body: bytes) -> bytes:
    return sha256(b"tpmbus/1 session id" + body)[:16]


def given_id(sender: str, given: str) -> bytes:
    return sha256(b"tpmbus/1 id" + pack([sender, given]))[:16]


# ---- epochs


def _expand(secret: bytes, info: bytes) -> bytes:
    return hmac.digest(secret, info + b"\x01", "sha256")


def epoch_id(secret: bytes, params: bytes) -> bytes:
    return _expand(secret, b"tpmbus/1 epoch id" + sha256(params))


def content_key(secret: bytes, params: bytes) -> bytes:
    return _expand(secret, b"tpmbus/1 content key" + sha256(params))


def audience(members: list[list[object]]) -> bytes:
    return sha256(b"tpmbus/1 audience" + pack(members))


def grant_info(header: bytes) -> bytes:
    return b"tpmbus/1 grant" + sha256(header)


# ---- samples


def sample_digest(epoch: bytes, seq: int) -> bytes:
    return sha256(b"tpmbus/1 sample" + epoch + u64be(seq))


def sample_threshold(rate: float) -> int:
    return int(Fraction(rate) * 2**64)


def is_sampled(epoch: bytes, seq: int, rate: float) -> bool:
    return int.from_bytes(sample_digest(epoch, seq)[:8], "big") < sample_threshold(rate)


def rolls_out(name: str, percent: Fraction) -> bool:
    return int.from_bytes(sha256(b"tpmbus/1 rollout" + name.encode())[:4], "big") * 100 < percent * 2**32


# ---- handshake and enrolment


def transcript(hello_a: bytes, hello_b: bytes, server_leaf: bytes, client_leaf: bytes) -> bytes:
    """The leaves are DER, or empty off TLS."""
    leaves = [sha256(der) if der else bytes(32) for der in (server_leaf, client_leaf)]
    return sha256(b"tpmbus/1 hello" + hello_a + hello_b + b"".join(leaves))


def broker_tbs(t: bytes) -> bytes:
    return b"tpmbus/1 hello broker" + t


def agent_tbs(t: bytes) -> bytes:
    return b"tpmbus/1 hello agent" + t


def enroll_qualifying(binding: bytes) -> bytes:
    return sha256(b"tpmbus/1 enroll" + binding)

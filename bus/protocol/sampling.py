"""Which session-signed envelopes the identity key vouches for afterwards, and the record that says so.

    sampled   u64be(SHA-256("tpmbus/1 sample" | epoch | u64be(seq))[:8]) < floor(rate * 2^64)
    record    [epoch(32), seq, content(32), proof]                          a payload on `_audit.<NAME>`, purpose 5
    content   of that proof: H("tpmbus/1 audit" | blind | content)          H the suite's hash; content the envelope's own, SHA-256

Everybody can predict what is sampled, so a proof that does not come is noticed. Who has stolen a session key cannot make one:
a proof by a host key is none.

The rate is an IEEE double. Times 2^64 it is scaled by a power of two, which is exact, so all implementations agree on the number
below which a hash is sampled; 0 samples nothing, and 1 everything.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import ldexp
from typing import Final, NamedTuple

from bus.errors import VerificationError
from bus.protocol import contexts
from bus.protocol.codec import array, malformed, pack, sized, unpack, unsigned
from bus.protocol.contexts import Purpose
from bus.protocol.header import EPOCH_ID_BYTES, MAX_SEQ
from bus.protocol.proof import PROOF_FIELDS, Proof
from bus.protocol.suites import BY_NUMBER, HOST_SUITE, Suite

CONTENT_BYTES: Final = 32
MAX_RECORD_BYTES: Final = 5_120
"""More than the longest proof (RSA, the deepest path, a second signature) takes."""


@lru_cache(maxsize=64)
def threshold(rate: float) -> int:
    """floor(rate * 2^64), exactly. Raises ValueError unless the rate is from 0 to 1."""
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate is from 0 to 1, not {rate}")
    return int(ldexp(rate, 64))


def sampled(epoch: bytes, seq: int, rate: float) -> bool:
    """Whether the envelope of this number is one that the identity key vouches for."""
    digest = hashlib.sha256(contexts.SAMPLE + epoch + seq.to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:8], "big") < threshold(rate)


def audit_content(content: bytes, *, blind: bytes, suite: Suite) -> bytes:
    """What the identity key signs for an envelope with this content."""
    return suite.digest(contexts.AUDIT + blind + content)


class AuditRecord(NamedTuple):
    """The identity's word that this envelope was its own."""

    epoch: bytes
    seq: int
    content: bytes
    proof: Proof

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def parse(cls, data: bytes) -> AuditRecord:
        """Raises RemoteProtocolError("malformed")."""
        if len(data) > MAX_RECORD_BYTES:
            raise malformed("an audit record of more than 5 KiB")
        epoch, seq, content, proof = array(unpack(data, longest=PROOF_FIELDS), 4)
        return cls(sized(epoch, EPOCH_ID_BYTES), unsigned(seq, most=MAX_SEQ), sized(content, CONTENT_BYTES), Proof.parse(proof))

    def tbs(self) -> bytes:
        """What the identity's signature must cover. Raises VerificationError("wrong_signer" or "bad_proof")."""
        suite = BY_NUMBER.get(self.proof.suite)
        if suite is None:
            raise VerificationError("bad_proof", detail="no proof has such a suite")
        if suite is HOST_SUITE:
            raise VerificationError("wrong_signer", detail="a host key vouches for itself")
        return self.proof.tbs(Purpose.AUDIT, audit_content(self.content, blind=self.proof.blind, suite=suite))

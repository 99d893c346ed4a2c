"""Line 7 of the receiver: who signed this envelope? The key comes from the papers of the session that the header names."""

from __future__ import annotations

from bus.errors import VerificationError
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.verifier import Verifier
from bus.protocol import envelope as envelopes
from bus.protocol.contexts import Purpose
from bus.protocol.proof import Proof
from bus.protocol.suites import BY_NUMBER, HOST_SUITE


def check_proof(
    proof: Proof, header: bytes, body: bytes, *, believed: Believed, verifier: Verifier, now_ms: int
) -> tuple[bytes, bytes]:
    """The content that was signed, and what the signature covers.

    Raises VerificationError: bad_proof, and untrusted where neither key of the session signed it, each in its one suite.
    """
    suite = BY_NUMBER.get(proof.suite)
    if suite is None:
        raise VerificationError("bad_proof", agent=believed.name, detail="a proof of an unknown suite")
    content = envelopes.content(header, body, blind=proof.blind, hash_name=suite.hash)
    tbs = proof.tbs(Purpose.ENVELOPE, content, climb=verifier.climb(proof.signer) if proof.n > 1 else None)
    if proof.signer == believed.host_signer and suite is HOST_SUITE:
        verifier.check_host(believed.host_key, tbs, proof.signature, now_ms=now_ms)
    elif proof.signer == believed.identity.signer and suite == believed.identity.suite:
        verifier.check_identity(suite, believed.identity.public_key, tbs, proof.signature, now_ms=now_ms)
    else:
        raise VerificationError("untrusted", agent=believed.name, detail="neither key of the session signed it, each in its suite")
    return content, tbs


def check_cosignature(proof: Proof, tbs: bytes, *, key: bytes, agent: str, verifier: Verifier, now_ms: int) -> None:
    """The second signature, where policy demands one. Raises VerificationError: wrong_signer without it, bad_proof.

    Where policy does not, whatever stands in its place is ignored: nobody vouches for it, and a policy that begins to ask for it
    must not turn those deaf who have not heard of that policy yet.
    """
    if not proof.cosignature:
        raise VerificationError("wrong_signer", agent=agent, detail="policy demands an ML-DSA signature too")
    verifier.check_cosignature(key, tbs, proof.cosignature, now_ms=now_ms)

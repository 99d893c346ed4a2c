"""What an identity key signs: never a message, always the root over everything that waited.

    leaf = H(0x00 | "tpmbus/1 leaf" | u8(purpose) | content)
    tbs  = "tpmbus/1 root" | 0x00 | u8(suite) | signer | u32be(n) | root

A batch of one has an empty path, so there is one format and one verifier. On the wire a proof also carries the blind that its
content was made with, so that readers of other contents in the batch cannot test guesses at this one:

    proof = [suite, signer(32), n, index, path: bin, signature: bin, cosignature: bin, blind(16)]
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bus.errors import VerificationError
from bus.protocol import codec, contexts, merkle
from bus.protocol.contexts import Purpose
from bus.protocol.merkle import Climb
from bus.protocol.suites import BY_NUMBER, HASHES, Suite

MAX_BATCH = 65_536
_LEAF_STARTS = {purpose: b"\x00" + contexts.LEAF + bytes([purpose]) for purpose in Purpose}
SIGNER_BYTES = 32
BLIND_BYTES: Final = 16
COSIGNATURE_BYTES: Final = 3_309
"""ML-DSA-65's."""
PROOF_FIELDS: Final = 8
_MAX_PATH_BYTES: Final = 16 * 48
_SIGNATURE_BYTES: Final = (64, 96, 384)
_TYPES: Final = [int, bytes, int, int, bytes, bytes, bytes, bytes]
_TBS_START: Final = contexts.ROOT + b"\x00"


@dataclass(frozen=True, slots=True)
class BatchProof:
    """One content's share of a batch signature. It verifies alone, without the rest of the batch."""

    suite: int
    signer: bytes
    count: int
    index: int
    path: bytes
    signature: bytes

    def tbs(self, purpose: Purpose, content: bytes) -> bytes:
        """What the signature must cover if this content was in the batch. Raises VerificationError("bad_proof")."""
        whole = type(self.suite) is int and type(self.index) is int and type(self.count) is int
        if not (whole and self.suite in BY_NUMBER and self.count <= MAX_BATCH and len(self.signer) == SIGNER_BYTES):
            raise VerificationError("bad_proof", detail="no proof has such a suite, signer, count or index")
        if purpose not in tuple(Purpose):
            raise VerificationError("bad_proof", detail="there is no such purpose")
        hash_name = BY_NUMBER[self.suite].hash
        top = merkle.root_from_path(
            leaf(purpose, content, hash_name=hash_name), index=self.index, count=self.count, path=self.path, hash_name=hash_name
        )
        return root_tbs(self.suite, self.signer, count=self.count, root=top)


class Proof(NamedTuple):
    """A proof as it travels: a batch proof, the blind of its content, and where policy wants it a second signature."""

    suite: int
    signer: bytes
    n: int
    place: int
    """The content's index among the n leaves."""
    path: bytes
    signature: bytes
    cosignature: bytes
    blind: bytes

    @classmethod
    def of(cls, proof: BatchProof, *, blind: bytes, cosignature: bytes = b"") -> Proof:
        return cls(proof.suite, proof.signer, proof.count, proof.index, proof.path, proof.signature, cosignature, blind)

    @classmethod
    def parse(cls, fields: Any) -> Proof:
        """From the array of its fields. Raises RemoteProtocolError("malformed")."""
        if type(fields) is not list or [*map(type, fields)] != _TYPES:
            raise codec.malformed("a proof has these eight fields and no others")
        suite, signer, count, index, path, signature, cosignature, blind = proof = cls._make(fields)
        if not (0 <= suite <= 255 and 0 <= count <= MAX_BATCH and 0 <= index < MAX_BATCH):
            raise codec.malformed("a number that no proof has")
        if len(signer) != SIGNER_BYTES or len(blind) != BLIND_BYTES or len(path) > _MAX_PATH_BYTES:
            raise codec.malformed("a signer, blind or path that no proof has")
        if len(signature) not in _SIGNATURE_BYTES or len(cosignature) not in (0, COSIGNATURE_BYTES):
            raise codec.malformed("a signature of a length that none has")
        return proof

    def tbs(self, purpose: Purpose, content: bytes, *, climb: Climb | None = None) -> bytes:
        """What the signatures must cover if this content was in the batch. Raises VerificationError("bad_proof").

        `climb`: who comes with the contents of one batch in turn need not hash the whole way for each.
        """
        suite = BY_NUMBER.get(self.suite)
        if suite is None:
            raise VerificationError("bad_proof", detail="no proof has such a suite")
        top = (merkle.root_from_path if climb is None else climb.root_from_path)(
            leaf(purpose, content, hash_name=suite.hash), index=self.place, count=self.n, path=self.path, hash_name=suite.hash
        )
        return root_tbs(self.suite, self.signer, count=self.n, root=top)


@dataclass(frozen=True, slots=True)
class Batch:
    """Contents under one root, before the signature."""

    suite: Suite
    signer: bytes
    levels: Sequence[Sequence[bytes]]

    @property
    def tbs(self) -> bytes:
        return root_tbs(self.suite.number, self.signer, count=len(self.levels[0]), root=self.levels[-1][0])

    def proofs(self, signature: bytes) -> list[BatchProof]:
        count = len(self.levels[0])
        return [
            BatchProof(self.suite.number, self.signer, count, index, path, signature)
            for index, path in enumerate(merkle.paths(self.levels))
        ]

    def sealed_proofs(self, signature: bytes, blinds: Sequence[bytes]) -> list[Proof]:
        """The same as they travel, with the blind of each content."""
        number, signer, count = self.suite.number, self.signer, len(self.levels[0])
        return [
            Proof(number, signer, count, place, path, signature, b"", blind)
            for place, (path, blind) in enumerate(zip(merkle.paths(self.levels), blinds, strict=True))
        ]


def leaf(purpose: Purpose, content: bytes, *, hash_name: str) -> bytes:
    return bytes(HASHES[hash_name](_LEAF_STARTS[purpose] + content).digest())


def root_tbs(suite: int, signer: bytes, *, count: int, root: bytes) -> bytes:
    return b"%b%c%b%b%b" % (_TBS_START, suite, signer, count.to_bytes(4, "big"), root)


def check_request(contents: Sequence[object], signer: bytes | None) -> None:
    """How much is signed at once, and by whom: the same for whoever signs. Raises ValueError."""
    if not 0 < len(contents) <= MAX_BATCH:
        raise ValueError(f"sign 1 to {MAX_BATCH} contents at a time, not {len(contents)}")
    if signer is not None and len(signer) != SIGNER_BYTES:
        raise ValueError(f"a signer has {SIGNER_BYTES} bytes, not {len(signer)}")


def batch(suite: Suite, signer: bytes, contents: Sequence[tuple[Purpose, bytes]]) -> Batch:
    """Grow the tree over contents, each the digest that its purpose prescribes, made with the suite's hash."""
    check_request(contents, signer)
    size = suite.digest_bytes
    for _, content in contents:
        if len(content) != size:
            raise ValueError(f"a content for {suite} is a digest of {size} bytes, not {len(content)}")
    new = HASHES[suite.hash]
    leaves = [new(_LEAF_STARTS[purpose] + content).digest() for purpose, content in contents]
    return Batch(suite, signer, merkle.grow(leaves, hash_name=suite.hash))


def alone(suite: Suite, signer: bytes, purpose: Purpose, content: bytes) -> bytes:
    """What is signed for one content by itself: the tbs of `batch` of it, whose root is the leaf and whose path is empty."""
    check_request((content,), signer)
    if len(content) != suite.digest_bytes:
        raise ValueError(f"a content for {suite} is a digest of {suite.digest_bytes} bytes, not {len(content)}")
    return root_tbs(suite.number, signer, count=1, root=leaf(purpose, content, hash_name=suite.hash))


def key_signer(spki: bytes) -> bytes:
    """Who signs before there is a certificate: the digest of the bare key. Verifiers accept it for purpose 4 only."""
    return hashlib.sha256(contexts.KEY + spki).digest()

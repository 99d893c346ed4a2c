"""Parts 3 and 4: the proof, from its bytes to a signature that verifies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import digests, shape, suites, tree
from .refusal import demand


@dataclass(frozen=True)
class Proof:
    suite: int
    signer: bytes
    n: int
    index: int
    path: bytes
    signature: bytes
    cosignature: bytes
    blind: bytes

    @classmethod
    def of(cls, value: Any) -> Proof:
        suite, signer, n, index, path, signature, cosignature, blind = shape.array(value, 8)
        return cls(
            shape.number(suite, 0, 255),
            shape.binary(signer, [32]),
            shape.number(n, 0, 65_536),
            shape.number(index, 0, 65_535),
            shape.binary(path, range(769)),
            shape.binary(signature, [64, 96, 384]),
            shape.binary(cosignature, [0, suites.ML_DSA_SIGNATURE]),
            shape.binary(blind, [16]),
        )

    def known_suite(self) -> int:
        demand(self.suite in digests.HASHES, "bad_proof", "an unknown suite")
        return self.suite

    def signed(self, purpose: int, content: bytes) -> Signed:
        """Line 7.3, after the suite was found known."""
        leaf = digests.leaf(self.suite, purpose, content)
        root = tree.climb(self.suite, leaf, self.n, self.index, self.path)
        return Signed(content, leaf, root, digests.tbs(self.suite, self.signer, self.n, root))

    def verify(self, key: bytes, tbs: bytes) -> None:
        suites.verify(self.suite, key, tbs, self.signature)


@dataclass(frozen=True)
class Signed:
    content: bytes
    leaf: bytes
    root: bytes
    tbs: bytes

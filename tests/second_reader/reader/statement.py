"""Part 7: the trust statement: read, verified, and compared with what was seen."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from . import pack, shape, suites
from .crl import Crl
from .digests import HASHES, sha256
from .identity import Certificate, read_certificate
from .refusal import demand
from .root import Root

MAX_BYTES, MAX_AGE_MS, MAX_AGENTS, SKEW_MS = 1_048_576, 604_800_000, 16_384, 60_000


@dataclass(frozen=True)
class StatementBody:
    domain: str
    number: int
    issued_ms: int
    next_update_ms: int
    policy_version: int
    policy_digest: bytes
    crl_number: int
    crl_digest: bytes
    agents: list[list[Any]]
    ml_dsa: list[list[Any]]

    def of(self, name: str) -> tuple[int, int]:
        """(generation, sessions_not_before)."""
        return next(((generation, begins) for listed, generation, begins in self.agents if listed == name), (0, 0))

    def vouches(self, name: str, key: bytes) -> bool:
        return [name, sha256(key)] in self.ml_dsa


def read_statement_body(data: bytes) -> StatementBody:
    fields = shape.array(pack.parse(data, MAX_BYTES), 10)
    domain, number, issued, next_update, version, digest, crl_number, crl_digest, agents, ml_dsa = fields
    shape.number(issued)
    shape.number(next_update, issued, min(issued + MAX_AGE_MS, shape.U64))
    return StatementBody(
        shape.domain(domain),
        shape.number(number, 1),
        issued,
        next_update,
        shape.number(version),
        shape.binary(digest, [32]),
        shape.number(crl_number),
        shape.binary(crl_digest, [32]),
        _agents(agents),
        _ml_dsa(ml_dsa),
    )


def _agents(value: Any) -> list[list[Any]]:
    for entry in shape.items(value, 0, MAX_AGENTS):
        name, generation, begins = shape.array(entry, 3)
        shape.agent(name)
        demand((shape.number(generation, 0, shape.U32), shape.number(begins)) != (0, 0), "malformed", "nothing to say of it")
    shape.ascending(value, lambda entry: entry[0])
    return value


def _ml_dsa(value: Any) -> list[list[Any]]:
    for entry in shape.items(value, 0, MAX_AGENTS):
        name, digest = shape.array(entry, 2)
        shape.agent(name)
        shape.binary(digest, [32])
    shape.ascending(value, lambda entry: entry[0])
    return value


@dataclass(frozen=True)
class Statement:
    body: StatementBody
    signer: Certificate
    digest: bytes
    body_digest: bytes


@functools.lru_cache(1024)
def verified(data: bytes, root: Root, domain: str, ml_dsa_root: bytes | None) -> Statement:
    """The five steps of verification. `ml_dsa_root`: None or empty where no cosignature is asked for."""
    body, signer_der, signature, cosignature = shape.array(pack.parse(data, MAX_BYTES), 4)
    shape.binary(body)
    shape.binary(signer_der, range(8_193))
    shape.binary(signature, [96])
    shape.binary(cosignature, [0, suites.ML_DSA_SIGNATURE])
    signer = read_certificate(signer_der, "trust", root, domain)
    tbs = b"tpmbus/1 trust" + body
    demand(suites.ecdsa(signer.key, HASHES[51](tbs), signature), "untrusted", "signature")
    if ml_dsa_root:
        demand(suites.ml_dsa(ml_dsa_root, tbs, cosignature), "untrusted", "cosignature")
    read = read_statement_body(body)
    demand(read.domain == domain, "untrusted", "another domain")
    demand(signer.not_before_ms - SKEW_MS <= read.issued_ms <= signer.not_after_ms, "untrusted", "not in its signer's time")
    return Statement(read, signer, sha256(data), sha256(body))


@dataclass(frozen=True)
class Highest:
    number: int = 0
    digest: bytes = b""
    crl_number: int = 0
    crl_digest: bytes = b""
    policy_version: int = 0
    policy_digest: bytes = b""


def accept(statement: Statement, highest: Highest, crl: Crl, crl_digest: bytes) -> None:
    """The table of what is compared; `crl` is the list in hand, and has been verified."""
    new = statement.body
    demand(new.number >= highest.number, "trust_rollback")
    demand(new.number != highest.number or statement.body_digest == highest.digest, "trust_fork")
    demand(new.crl_number >= highest.crl_number, "trust_rollback")
    demand(new.crl_number != highest.crl_number or not highest.crl_digest or new.crl_digest == highest.crl_digest, "trust_fork")
    same_policy = new.policy_version == highest.policy_version and highest.policy_digest
    demand(not same_policy or new.policy_digest == highest.policy_digest, "policy_fork")
    demand((crl.number, crl_digest) == (new.crl_number, new.crl_digest), "untrusted", "another list is in hand")
    demand(not crl.at(statement.signer.serial, new.issued_ms), "revoked")

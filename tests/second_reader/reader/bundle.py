"""Part 7: the policy bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import certificates, pack, shape, suites
from .digests import sha256
from .refusal import demand
from .root import Root
from .statement import Highest

MAX_BYTES, MAX_FILES = 8_388_608, 1_024


@dataclass(frozen=True)
class Bundle:
    domain: str
    version: int
    made_ms: int
    files: list[list[Any]]
    digest: bytes


def read_bundle_body(data: bytes) -> Bundle:
    one, domain, version, made, files = shape.array(pack.parse(data, MAX_BYTES), 5)
    shape.one_of(one, [1])
    for entry in shape.items(files, 1, MAX_FILES):
        path, content = shape.array(entry, 2)
        _path(path)
        shape.binary(content)
    shape.ascending(files, lambda entry: entry[0])
    return Bundle(shape.domain(domain), shape.number(version, 1), shape.number(made), files, sha256(data))


def _path(value: Any) -> None:
    path = shape.text(value, range(1, 256))
    demand(all(" " <= sign <= "~" and sign != "\\" for sign in path), "malformed", "a sign in a path")
    demand(not {"", ".", ".."} & set(path.split("/")), "malformed", "a part of a path")


def verified(data: bytes, root: Root, domain: str, ml_dsa_root: bytes) -> Bundle:
    body, signature, cosignature = shape.array(pack.parse(data, MAX_BYTES), 3)
    shape.binary(body)
    shape.binary(signature, [512])
    shape.binary(cosignature, [0, suites.ML_DSA_SIGNATURE])
    tbs = b"tpmbus/1 policy" + body
    certificates.untrusted(certificates.verify_root)(root.key, tbs, signature)
    if ml_dsa_root:
        demand(suites.ml_dsa(ml_dsa_root, tbs, cosignature), "untrusted", "cosignature")
    bundle = read_bundle_body(body)
    demand(bundle.domain == domain, "untrusted", "another domain")
    return bundle


def accept(bundle: Bundle, highest: Highest) -> None:
    demand(bundle.version >= highest.policy_version, "policy_rollback")
    demand(bundle.version != highest.policy_version or bundle.digest == highest.policy_digest, "policy_fork")

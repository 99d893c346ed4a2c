"""Derived values, signatures, trees and HPKE of the vectors, by the code under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bus.identity.envelopes.seal import given_id
from bus.policy.rollout import place
from bus.protocol import audience, contexts, cosign, envelope, grants, handshake, kem, merkle, papers, proof, sampling, signatures
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import OpenedEpoch, Params, SealingEpoch
from bus.protocol.kem import PrivateKey
from bus.protocol.suites import BY_NUMBER
from bus.trust.enrolment import Binding

Inputs = dict[str, Any]


def _epoch_id(secret: bytes, params: bytes) -> bytes:
    return SealingEpoch.make(secret, Params.parse(params)).id


def _content_key(secret: bytes, params: bytes) -> bytes:
    """The key never leaves an epoch: what it seals shows which it is."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    made = HKDFExpand(SHA256(), 32, contexts.CONTENT_KEY + sha256(params).digest()).derive(secret)
    if Params.parse(params).aead == 1:
        epoch = OpenedEpoch.from_grant(secret, params, id=_epoch_id(secret, params))
        assert epoch.open(bytes(4) + AESGCM(made).encrypt(bytes(12), b"x", b""), seq=0, header=b"") == b"x"
    return made


def _body_content(purpose: Purpose) -> Callable[..., bytes]:
    return lambda suite, blind, body: papers.content(purpose, body, blind=blind, suite=BY_NUMBER[suite])


def _binding(*inputs: Any) -> bytes:
    return Binding(pack(inputs)).qualifying


# Called with the inputs in the order in which they stand in a case.
DERIVED: Final[dict[str, Callable[..., Any]]] = {
    "key id": kem.key_id,
    "session id": lambda body: papers.SessionCertificate(body, None).id,  # type: ignore[arg-type]  # an id needs no proof
    "host signer": papers.host_signer,
    "key signer": proof.key_signer,
    "epoch id": _epoch_id,
    "content key": _content_key,
    "audience": lambda members: audience.digest(tuple((name, generation) for name, generation in members)),
    "given id": given_id,
    "envelope content": lambda suite, blind, header, body: envelope.content(
        header, body, blind=blind, hash_name=BY_NUMBER[suite].hash
    ),
    "session content": _body_content(Purpose.SESSION),
    "inbox content": _body_content(Purpose.INBOX),
    "enroll content": _body_content(Purpose.ENROLL),
    "http content": _body_content(Purpose.HTTP),
    "audit content": lambda suite, blind, content: sampling.audit_content(content, blind=blind, suite=BY_NUMBER[suite]),
    "leaf": lambda suite, purpose, content: proof.leaf(Purpose(purpose), content, hash_name=BY_NUMBER[suite].hash),
    "tbs": lambda suite, signer, n, root: proof.root_tbs(suite, signer, count=n, root=root),
    "grant info": grants.info,
    "sampled": lambda epoch, seq, rate: sampling.sampled(epoch, seq, float(rate)),
    "transcript": lambda hello_a, hello_b, server_leaf, client_leaf: handshake.transcript(
        hello_a, hello_b, server_leaf=server_leaf or None, client_leaf=client_leaf or None
    ),
    "broker tbs": handshake.broker_tbs,
    "agent tbs": handshake.agent_tbs,
    "enroll qualifying": _binding,
    "rollout": lambda name, percent: place(name) <= int(percent),
}
TEXTS: Final = {"name", "sender", "id", "rate", "percent"}
"""Inputs that are text; all other text is bytes in hexadecimal."""


def read_derivation(case: Inputs) -> Any:
    inputs = [
        bytes.fromhex(value) if isinstance(value, str) and name not in TEXTS else value for name, value in case["inputs"].items()
    ]
    found = DERIVED[case["what"]](*inputs)
    return found.hex() if isinstance(found, bytes) else found


def read_signature(case: Inputs) -> bool:
    key, tbs, signature = (bytes.fromhex(case[name]) for name in ("key", "tbs", "signature"))
    if case["suite"] == 0:
        cosign.verify(key, tbs, signature)
    elif case["suite"] == 1:
        signatures.verify_host(signatures.check_host_key(key), tbs, signature)
    else:
        signatures.verify(BY_NUMBER[case["suite"]], signatures.load_public(key), tbs, signature)
    return True


def read_tree(case: Inputs) -> Inputs:
    levels = merkle.grow([bytes.fromhex(leaf) for leaf in case["leaves"]], hash_name=BY_NUMBER[case["suite"]].hash)
    return {"root": levels[-1][0].hex(), "paths": [path.hex() for path in merkle.paths(levels)]}


def read_path(case: Inputs) -> str:
    leaf, path, name = bytes.fromhex(case["leaf"]), bytes.fromhex(case["path"]), BY_NUMBER[case["suite"]].hash
    return merkle.root_from_path(leaf, index=case["index"], count=case["n"], path=path, hash_name=name).hex()


def read_hpke(case: Inputs) -> str:
    key = PrivateKey.from_bytes(case["kem"], bytes.fromhex(case["private"]))
    assert (key.public.hex(), key.id.hex()) == (case["public"], case["key_id"])
    return key.open(bytes.fromhex(case["sealed"]), bytes.fromhex(case["info"])).hex()


READERS: Final[dict[str, Callable[[Inputs], Any]]] = {
    "derivation": read_derivation,
    "signature": read_signature,
    "tree": read_tree,
    "path": read_path,
    "hpke": read_hpke,
}

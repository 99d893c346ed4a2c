"""Values on the way: what is derived, signed, hashed into a tree, and sealed."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import small_world
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from vector_envelopes import P256_ORDER
from vector_keys import Chance, identity_key, rsa_key
from vector_ranges import ED_SMALL
from vector_refusals import ED25519_ORDER, P384_ORDER
from vector_stage import Stage, ml_dsa_key

from bus.identity.envelopes.seal import given_id
from bus.policy.rollout import place as first_percent
from bus.protocol import audience, envelope, grants, handshake, kem, merkle, papers, proof, sampling
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import OpenedEpoch, Params, _derive
from bus.protocol.kem import PrivateKey, PublicKey
from bus.protocol.suites import BY_NUMBER, IDENTITY_SUITES
from bus.trust.enrolment import Binding

chance = Chance("values")
T = 1_800_000_000_000


def make(stage: Stage) -> None:
    derivations(stage)
    contents(stage)
    trees(stage)
    signatures(stage)
    sealed(stage)


def derive(stage: Stage, what: str, label: str, result: Any, /, **inputs: Any) -> None:
    stage.add("derivations", "derivation", f"{what}: {label}", what=what, inputs=inputs, result=result)


def derivations(stage: Stage) -> None:
    for number, size in ((1, 32), (2, 96)):
        key = PrivateKey.from_bytes(number, chance(size))
        derive(stage, "key id", f"kem {number}", key.id, kem=number, key=key.public)
    body, host, spki = chance(200), chance(32), chance(91)
    derive(stage, "session id", "any bytes", papers.SessionCertificate(body, None).id, body=body)  # type: ignore[arg-type]  # no proof needed
    derive(stage, "host signer", "any bytes", papers.host_signer(host), key=host)
    derive(stage, "key signer", "any bytes", proof.key_signer(spki), spki=spki)
    for place in range(4):
        params = Params(
            "vectors.invalid", "A" * (place + 1), chance(32), place % 2, place, 0, 1 + place % 2, 1, T, T + 2**place
        ).encode()
        secret = chance(32)
        number, key_bytes = _derive(secret, params)
        derive(stage, "epoch id", f"example {place}", number, secret=secret, params=params)
        derive(stage, "content key", f"example {place}", key_bytes, secret=secret, params=params)
        assert OpenedEpoch.from_grant(secret, params, id=number)
    for name, found in {
        "nobody": (),
        "one": (("MONITOR", 0),),
        "generations": (("A", 1), ("B", 127), ("C", 128), ("D", 2**32 - 1)),
        "sixteen": tuple((f"A{n:02}", n) for n in range(16)),
    }.items():
        derive(stage, "audience", name, audience.digest(found), members=[list(one) for one in found])
    for text in ("", "order-17", "x" * 300):
        derive(stage, "given id", f"{len(text)} characters", given_id("DIRECTOR", text), sender="DIRECTOR", id=text)
    header = chance(120)
    derive(stage, "grant info", "any bytes", grants.info(header), header=header)
    for rate in ("0", "0.01", "0.5", "0.999", "1"):
        for seq in (0, 1, 2, 3, 2**32 - 1):
            result = sampling.sampled(bytes(32), seq, float(rate))
            derive(stage, "sampled", f"number {seq} at the rate {rate}", result, epoch=bytes(32), seq=seq, rate=rate)
    handshakes(stage)
    enrolments(stage)
    rollouts(stage)


def handshakes(stage: Stage) -> None:
    nonce, b_nonce = chance(32), chance(32)
    hello_a = handshake.HelloA((1,), nonce, (b"papers",)).encode()
    hello_b = handshake.HelloB(1, b_nonce, b"papers", handshake.Limits(), T).encode()
    for name, leaves in {"off TLS": (None, None), "over TLS": (b"server", b"client")}.items():
        t = handshake.transcript(hello_a, hello_b, server_leaf=leaves[0], client_leaf=leaves[1])
        said = {"hello_a": hello_a, "hello_b": hello_b, "server_leaf": leaves[0] or b"", "client_leaf": leaves[1] or b""}
        derive(stage, "transcript", name, t, **said)
        derive(stage, "broker tbs", name, handshake.broker_tbs(t), t=t)
        derive(stage, "agent tbs", name, handshake.agent_tbs(t), t=t)


def rollouts(stage: Stage) -> None:
    for name in ("DIRECTOR", "MONITOR", "A", "AGENT7"):
        share = first_percent(name)
        for percent in sorted({0, share - 1, share, 100}):
            derive(stage, "rollout", f"{name} at {percent}", percent >= share, name=name, percent=str(percent))


def enrolments(stage: Stage) -> None:
    keys = {1: PrivateKey.from_bytes(1, chance(32)).public, 2: PrivateKey.from_bytes(2, chance(96)).public}
    for name, number, chip in (("with a chip", 1, True), ("with a chip, hybrid", 2, True), ("without a chip", 1, False)):
        nonce = chance(32)
        ek, ak, own = (chance(32), b"\0\x0b" + chance(32), b"\0\x0b" + chance(32)) if chip else (b"", b"", chance(32))
        binding = Binding(pack([nonce, "MONITOR", ek, ak, own, number, keys[number]]))
        inputs = {"nonce": nonce, "name": "MONITOR", "ek_hash": ek, "ak_name": ak, "identity_name": own, "kem": number}
        derive(stage, "enroll qualifying", name, binding.qualifying, **inputs, inbox_key=keys[number])


def contents(stage: Stage) -> None:
    purposes = {"session": Purpose.SESSION, "inbox": Purpose.INBOX, "enroll": Purpose.ENROLL, "http": Purpose.HTTP}
    for suite in BY_NUMBER.values():
        blind, header, body = chance(16), chance(100), chance(50)
        found = envelope.content(header, body, blind=blind, hash_name=suite.hash)
        derive(stage, "envelope content", str(suite), found, suite=suite.number, blind=blind, header=header, body=body)
        if suite.number != 1:
            for name, purpose in purposes.items():
                said = papers.content(purpose, body, blind=blind, suite=suite)
                derive(stage, f"{name} content", str(suite), said, suite=suite.number, blind=blind, body=body)
            inner = chance(32)
            said = sampling.audit_content(inner, blind=blind, suite=suite)
            derive(stage, "audit content", str(suite), said, suite=suite.number, blind=blind, content=inner)
        for purpose in Purpose if suite.number in (1, 51) else (Purpose.ENVELOPE,):
            leaf = proof.leaf(purpose, found, hash_name=suite.hash)
            derive(
                stage, "leaf", f"{suite}, purpose {purpose.value}", leaf, suite=suite.number, purpose=purpose.value, content=found
            )
        for n in (1, 65_536):
            signer = chance(32)
            tbs = proof.root_tbs(suite.number, signer, count=n, root=found)
            derive(stage, "tbs", f"{suite}, {n}", tbs, suite=suite.number, signer=signer, n=n, root=found)


def trees(stage: Stage) -> None:
    for number in (1, 17, 34, 51):
        suite = BY_NUMBER[number]
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 13, 64) if number == 1 else (1, 3, 7):
            leaves = [sha256(b"%d" % n).digest() + bytes(suite.digest_bytes - 32) for n in range(count)]
            levels = merkle.grow(leaves, hash_name=suite.hash)
            paths = merkle.paths(levels)
            result = {"root": levels[-1][0], "paths": paths}
            stage.add("trees", "tree", f"{count} leaves, {suite}", suite=number, leaves=leaves, result=result)
            if count in (1, 3, 7):
                places(stage, number, leaves, paths, levels[-1][0])


def places(stage: Stage, suite: int, leaves: list[bytes], paths: list[bytes], root: bytes) -> None:
    count, size = len(leaves), len(leaves[0])
    for index in sorted({0, count // 2, count - 1}):
        path, said = paths[index], f"{index} of {count}, suite {suite}"
        facts = {"suite": suite, "leaf": leaves[index], "n": count, "index": index, "path": path}
        stage.add("paths", "path", said, **facts, result=root)
        wrong: dict[str, dict[str, Any]] = {
            "an index beyond": {"index": count},
            "n of 0": {"n": 0},
            "a hash more": {"path": path + bytes(size)},
            "a byte more": {"path": path + b"\0"},
        }
        if path:
            wrong |= {"a hash less": {"path": path[size:]}, "a byte less": {"path": path[1:]}, "no path": {"path": b""}}
        for name, change in wrong.items():
            stage.add("paths", "path", f"{said}: {name}", **(facts | change), code="bad_proof")


def signatures(stage: Stage) -> None:
    def add(name: str, suite: int, key: bytes, tbs: bytes, signature: bytes, *code: str, **more: Any) -> None:
        said: dict[str, Any] = {"code": code[0]} if code else {"result": True, **more}
        stage.add("signatures", "signature", name, suite=suite, key=key, tbs=tbs, signature=signature, **said)

    seed, tbs = chance(32), chance(90)
    host = Ed25519PrivateKey.from_private_bytes(seed)
    public, good = host.public_key().public_bytes_raw(), host.sign(tbs)
    add("ed25519", 1, public, tbs, good, private=seed)
    raised = good[:32] + (int.from_bytes(good[32:], "little") + ED25519_ORDER).to_bytes(32, "little")
    for name, bad in {
        "S is not below the order": raised,
        "zeros": bytes(64),
        "R of small order": b"\1" + bytes(31) + good[32:],
        "a byte less": good[:-1],
        "a byte more": good + b"\0",
        "nothing": b"",
    }.items():
        add(f"ed25519: {name}", 1, public, tbs, bad, "bad_proof")
    add("ed25519: another tbs", 1, public, tbs + b"\0", good, "bad_proof")
    for place, key in enumerate(ED_SMALL):
        add(f"ed25519: a key that is none, {place}", 1, key, tbs, b"\1" + bytes(63), "malformed")
    for suite in IDENTITY_SUITES.values():
        _identity(add, suite)
    cosigner = ml_dsa_key("signature")
    twice = cosigner.sign(tbs)
    add("ml-dsa-65", 0, cosigner.public, tbs, twice, private=cosigner.seed)
    add("ml-dsa-65: another tbs", 0, cosigner.public, tbs + b"\0", twice, "bad_proof")
    add("ml-dsa-65: a bit", 0, cosigner.public, tbs, bytes([twice[0] ^ 1]) + twice[1:], "bad_proof")
    add("ml-dsa-65: a byte less", 0, cosigner.public, tbs, twice[:-1], "bad_proof")
    add("ml-dsa-65: a key that is a byte short", 0, cosigner.public[:-1], tbs, twice, "bad_proof")


def _identity(add: Any, suite: Any) -> None:
    key, tbs = identity_key(f"signature {suite}", suite.kind), chance(90)
    spki = small_world.spki(key)
    good = small_world.signature(key, suite, tbs)
    add(str(suite), suite.number, spki, tbs, good)
    add(f"{suite}: another tbs", suite.number, spki, tbs + b"\0", good, "bad_proof")
    add(f"{suite}: a bit", suite.number, spki, tbs, good[:-1] + bytes([good[-1] ^ 1]), "bad_proof")
    add(f"{suite}: zeros", suite.number, spki, tbs, bytes(len(good)), "bad_proof")
    add(f"{suite}: a byte more in front", suite.number, spki, tbs, b"\0" + good, "bad_proof")
    if suite.hash == "sha256":
        other = next(one for one in IDENTITY_SUITES.values() if one.kind == suite.kind and one.hash == "sha3-256")
        add(f"{suite}: under {other}", other.number, spki, tbs, good, "bad_proof")
        far = next(one for one in IDENTITY_SUITES.values() if one.kind != suite.kind)
        add(f"{suite}: a key of this kind under {far}", far.number, spki, tbs, bytes(far.signature_bytes), "bad_proof")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        half, order = len(good) // 2, P256_ORDER if suite.kind == "ecc256" else P384_ORDER
        twin = good[:half] + (order - int.from_bytes(good[half:], "big")).to_bytes(half, "big")
        add(f"{suite}: its twin", suite.number, spki, tbs, twin)
        add(f"{suite}: s is the order", suite.number, spki, tbs, good[:half] + order.to_bytes(half, "big"), "bad_proof")
    elif suite.hash == "sha3-384":
        small = rsa_key("signature", 2_048)
        assert isinstance(small, rsa.RSAPrivateKey)
        add(f"{suite}: RSA-2048", suite.number, small_world.spki(small), tbs, bytes(384), "bad_proof")


def sealed(stage: Stage) -> None:
    for number, size in ((1, 32), (2, 96)):
        raw, info, plaintext = chance(size), chance(46), chance(60)
        key = PrivateKey.from_bytes(number, raw)
        facts = {"kem": number, "private": raw, "public": key.public, "key_id": key.id, "info": info}
        for name, text in {"sixty bytes": plaintext, "an empty plaintext": b""}.items():
            data = PublicKey(number, key.public).seal(text, info)
            stage.add("hpke", "hpke", f"kem {number}: {name}", **facts, sealed=data, result=text)
        data = PublicKey(number, key.public).seal(plaintext, info)
        end = kem.ENC_BYTES[number]
        zero = data[: end - 32] + bytes(32) + data[end:]
        wrong: dict[str, dict[str, bytes]] = {
            "another info": {"info": info + b"\0"},
            "a bit of its share": {"sealed": bytes([data[0] ^ 1]) + data[1:]},
            "a bit of its end": {"sealed": data[:-1] + bytes([data[-1] ^ 1])},
            "a byte less": {"sealed": data[:-1]},
            "a byte more": {"sealed": data + b"\0"},
            "only the share": {"sealed": data[:end]},
            "less than the share": {"sealed": data[: end - 1]},
            "nothing": {"sealed": b""},
            "a share of zeros": {"sealed": zero},
        }
        for name, change in wrong.items():
            stage.add("hpke", "hpke", f"kem {number}: {name}", **({**facts, "sealed": data} | change), code="bad_seal")

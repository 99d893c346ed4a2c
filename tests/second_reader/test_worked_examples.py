"""Every block marked `hex` in docs/spec, made again by the second reader from the inputs that the text names."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hpke
from nacl.bindings import crypto_scalarmult_base
from reader import aead, body, certificates, digests, ed25519, header, identity, pack, tree
from reader.proof import Proof
from reader.refusal import Refused

SPEC = Path(__file__).parents[2] / "docs/spec"
T = 1_800_000_000_000


def written() -> dict[str, str]:
    """name = value, over all pages; a value may go on over lines that are indented."""
    found: dict[str, str] = {}
    for page in sorted(SPEC.glob("*.md")):
        for block in re.findall(r"```hex\n(.*?)```", page.read_text(), re.DOTALL):
            for name, value in re.findall(r"^(\S[^=\n]*?) =((?:.|\n )*)$", block, re.MULTILINE):
                assert name not in found, name
                found[name] = "".join(value.split())
    return found


WRITTEN = written()
SEED, BLIND, SECRET, GUARD, ID, RANDOM = (bytes([i]) * n for i, n in ((1, 32), (2, 16), (3, 32), (4, 4), (5, 16), (6, 16)))


def made() -> dict[str, bytes]:
    m: dict[str, bytes] = {
        "pack []": pack.pack([]),
        "pack 5": pack.pack(5),
        "pack 300": pack.pack(300),
        'pack "DIRECTOR"': pack.pack("DIRECTOR"),
        'pack [1, 0x00ff, "A"]': pack.pack([1, b"\x00\xff", "A"]),
        "oid agent": identity.PROFILES["agent"].usages[0],
        "oid extension": certificates.PINNED,
        "root algorithm": certificates.ALGORITHM,
        "pinned extension": bytes.fromhex("300c0201010201330a0101020102"),
    }
    m |= session()
    m |= epoch(m)
    m |= envelope(m)
    m |= batch(m)
    m |= grant(m)
    m |= hello()
    m |= enrolment()
    m["given id"] = digests.given_id("DIRECTOR", "order-17")
    m["sample threshold"] = digests.sample_threshold(0.01).to_bytes(8, "big")
    m["sample digest"] = digests.sample_digest(m["epoch id"], 0)
    return m


def session() -> dict[str, bytes]:
    host, kem = ed25519.public_of(SEED), crypto_scalarmult_base(bytes([7]) * 32)
    cert, trust = digests.sha256(b"identity certificate"), digests.sha256(b"trust statement")
    said = pack.pack([1, "example.org", "DIRECTOR", cert, host, 1, kem, T, T + 900_000, 1, trust, RANDOM])
    return {
        "host public key": host,
        "kem public key": kem,
        "kem key id": digests.key_id(1, kem),
        "session body": said,
        "session id": digests.session_id(said),
        "host signer": digests.host_signer(host),
    }


def epoch(m: dict[str, bytes]) -> dict[str, bytes]:
    members = [["MONITOR", 0]]
    audience = digests.audience(members)
    params = pack.pack(["example.org", "DIRECTOR", audience, 0, 3, 0, 1, 1, T, T + 900_000])
    return {
        "audience list": pack.pack(members),
        "audience": audience,
        "params": params,
        "epoch id": digests.epoch_id(SECRET, params),
        "content key": digests.content_key(SECRET, params),
    }


def proven(m: dict[str, bytes], head: bytes, inner: bytes, blind: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """(content, leaf, tbs, signature, plaintext)."""
    content = digests.envelope_content(1, blind, head, inner)
    leaf = digests.leaf(1, 1, content)
    tbs = digests.tbs(1, m["host signer"], 1, leaf)
    signature = ed25519.sign(SEED, tbs)
    plaintext = pack.pack([[1, m["host signer"], 1, 0, b"", signature, b"", blind], inner])
    return content, leaf, tbs, signature, plaintext


def envelope(m: dict[str, bytes]) -> dict[str, bytes]:
    fields = [1, 1, 0, "tasks.build", "DIRECTOR", m["session id"], m["epoch id"], 0, T + 1_000, T + 61_000, 3, 1, ID, b"", 0]
    head, inner = pack.pack(fields), pack.pack([b"\x00", [b"hello"], []])
    content, leaf, tbs, signature, plaintext = proven(m, head, inner, BLIND)
    sealed = aead.sealed(1, m["content key"], 0, head, guard=GUARD, plaintext=plaintext)
    whole = pack.pack([head, sealed])
    names = "header body content leaf tbs signature plaintext sealed envelope"
    return dict(zip(names.split(), (head, inner, content, leaf, tbs, signature, plaintext, sealed, whole), strict=True))


def batch(m: dict[str, bytes]) -> dict[str, bytes]:
    leaves = [m["leaf"], *(digests.leaf(1, 1, bytes([i]) * 32) for i in (10, 11))]
    root, paths = tree.grow(1, leaves)
    for index, path in enumerate(paths):
        assert tree.climb(1, leaves[index], 3, index, path) == root
    found = {f"batch leaf {i}": leaf for i, leaf in enumerate(leaves)} | {f"batch path {i}": path for i, path in enumerate(paths)}
    return found | {"batch root": root, "batch tbs": digests.tbs(1, m["host signer"], 3, root)}


def grant(m: dict[str, bytes]) -> dict[str, bytes]:
    private, ephemeral = bytes([9]) * 32, bytes([14]) * 32
    public = crypto_scalarmult_base(private)
    key_id = digests.key_id(1, public)
    fields = [
        1,
        2,
        0,
        "_grant.MONITOR",
        "DIRECTOR",
        m["session id"],
        m["epoch id"],
        0,
        T + 500,
        T + 900_000,
        0,
        1,
        bytes([12]) * 16,
    ]
    head = pack.pack([*fields, key_id, 0])
    inner = pack.pack([SECRET, m["params"], "MONITOR", bytes([8]) * 16, b""])
    content, _, tbs, signature, plaintext = proven(m, head, inner, bytes([13]) * 16)
    info = digests.grant_info(head)
    shared, enc = hpke.encapsulate(hpke.X25519, public, ephemeral)
    schedule = hpke.Schedule.of(hpke.X25519, shared, info)
    return {
        "reader public key": public,
        "reader key id": key_id,
        "grant header": head,
        "grant info": info,
        "grant body": inner,
        "grant content": content,
        "grant tbs": tbs,
        "grant signature": signature,
        "grant plaintext": plaintext,
        "hpke enc": enc,
        "hpke shared secret": shared,
        "hpke key": schedule.key,
        "hpke base nonce": schedule.base_nonce,
        "grant sealed": enc + schedule.encrypt(plaintext),
    }


def hello() -> dict[str, bytes]:
    a = pack.pack([[1], bytes([0x21]) * 32, [b"\x22\x23"]])
    b = pack.pack([1, bytes([0x24]) * 32, b"\x25\x26", [1_048_576, 1_024, 65_536, 65_536], T])
    t = digests.transcript(a, b, b"", b"")
    return {
        "hello a": a,
        "hello b": b,
        "hello t": t,
        "broker proves": ed25519.sign(bytes([0x27]) * 32, digests.broker_tbs(t)),
        "agent proves": ed25519.sign(SEED, digests.agent_tbs(t)),
    }


def enrolment() -> dict[str, bytes]:
    ek, ak, own, key = bytes([0x12]) * 32, b"\x00\x0b" + bytes([0x13]) * 32, b"\x00\x0b" + bytes([0x14]) * 32, bytes([0x15]) * 32
    binding = pack.pack([bytes([0x11]) * 32, "MONITOR", ek, ak, own, 1, key])
    return {"enroll binding": binding, "enroll qualifying": digests.enroll_qualifying(binding)}


MADE = made()


def test_no_example_is_left_out():
    assert set(WRITTEN) == set(MADE)
    assert len(WRITTEN) >= 60


def test_an_example_is_what_the_second_reader_makes():
    assert {name: MADE[name].hex() for name in WRITTEN} == WRITTEN


def test_the_second_reader_reads_what_it_made():
    head, sealed = header.read_envelope(MADE["envelope"])
    read = header.read_header(head)
    plaintext = aead.opened(1, MADE["content key"], read.seq, head, sealed)
    proof, inner = body.read_plaintext(plaintext)
    assert [record.payload for record in body.read_body(inner)] == [b"hello"]
    signed = proof.signed(1, digests.envelope_content(1, proof.blind, head, inner))
    proof.verify(MADE["host public key"], signed.tbs)
    assert body.read_params(MADE["params"]).sender == "DIRECTOR"


def test_a_changed_signature_is_none():
    for place in range(64):
        signature = bytearray(MADE["signature"])
        signature[place] ^= 4
        proof = Proof(1, MADE["host signer"], 1, 0, b"", bytes(signature), b"", BLIND)
        with pytest.raises(Refused) as caught:
            proof.verify(MADE["host public key"], MADE["tbs"])
        assert caught.value.code == "bad_proof"

"""The specification says what the code does: its tables are compared with the code, and each hex example is computed again.

The examples are computed here from hashlib, hmac, msgpack and cryptography alone, as a stranger would who has only the text;
then the code under test reads what was computed.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_type_hints

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import bus
from bus.identity.envelopes.seal import given_id
from bus.protocol import audience, contexts, envelope, grants, handshake, header, kem, papers, records, sampling
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import OpenedEpoch, Params
from bus.protocol.grants import GrantBody
from bus.protocol.handshake import HelloA, HelloB, told
from bus.protocol.papers import SessionBody
from bus.protocol.proof import BatchProof, Proof
from bus.protocol.signatures import verify_host
from bus.protocol.suites import BY_NUMBER, HOST_SUITE
from bus.trust import extension, profiles, root_signature
from bus.trust.enrolment import REASONS, Binding
from bus.trust.profiles import RULES, Profile

SPEC = Path(__file__).parent.parent / "docs" / "spec"
BUS = Path(bus.__file__).parent

# ---- the pages -----------------------------------------------------------------------------------------------------------------


def page(name: str) -> str:
    return (SPEC / name).read_text()


def tables(text: str) -> Iterator[list[list[str]]]:
    """Each table's rows, cells stripped, without the line under its head."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        yield [row for number, row in enumerate(rows) if number != 1]


def table(name: str, *head: str) -> list[list[str]]:
    """The rows of the one table of this page whose head begins so."""
    [found] = [rows for rows in tables(page(name)) if rows[0][: len(head)] == list(head)]
    return found[1:]


def bare(cell: str) -> str:
    return cell.strip("`")


# ---- the tables ----------------------------------------------------------------------------------------------------------------


def test_the_table_of_contexts_is_the_registry():
    told_of = [(bare(text).encode(), bare(name)) for text, name, _ in table("10-contexts.md", "context", "constant")]
    registry = [(value, name) for name, value in vars(contexts).items() if isinstance(value, bytes) and name != "PREFIX"]
    assert told_of == registry
    assert len({text for text, _ in told_of}) == len(told_of)


@pytest.mark.parametrize(("name", "head"), [("10-contexts.md", ("number", "name")), ("04-signatures.md", ("purpose", "name"))])
def test_the_purposes_are_those_of_the_code(name, head):
    assert [(int(row[0]), row[1]) for row in table(name, *head)] == [(purpose.value, purpose.name.lower()) for purpose in Purpose]


def test_the_content_of_each_purpose_names_its_context():
    for number, _, content in table("04-signatures.md", "purpose", "name"):
        name = {1: "ENVELOPE", 2: "SESSION", 3: "INBOX", 4: "ENROLL_REQUEST", 5: "AUDIT", 6: "HTTP"}[int(number)]
        assert f'H("{getattr(contexts, name).decode()}" ‖ blind ‖ ' in content


def test_the_table_of_suites_is_the_codes():
    rows = table("04-signatures.md", "number", "name")
    hashes = {"SHA-256": "sha256", "SHA-384": "sha384", "SHA3-256": "sha3-256", "SHA3-384": "sha3-384"}
    told_of = {int(row[0]): (row[1], hashes[row[3]], int(row[4]), int(row[5].split()[0])) for row in rows}
    assert told_of == {n: (s.name, s.hash, s.digest_bytes, s.signature_bytes) for n, s in BY_NUMBER.items()}


def constant(path: str) -> int:
    """`header.MAX_SEQ` is of the protocol room; in others the room is named."""
    *module, name = path.split(".")
    value: int = getattr(importlib.import_module(".".join(["bus", *(["protocol"] if len(module) == 1 else []), *module])), name)
    return value


def test_the_limits_are_the_constants():
    rows = table("02-encoding.md", "what", "limit", "constant")
    assert len(rows) > 25
    for _, limit, path in rows:
        largest = re.sub(r"\(.*\)|, if .*", "", limit).split(" to ")[-1]
        assert int(largest.replace(",", "")) == constant(bare(path)), path


def test_the_times_are_the_constants():
    for _, _, milliseconds, path in table("02-encoding.md", "what", "value", "in ms"):
        assert int(milliseconds.replace(",", "")) == constant(bare(path)), path


def test_the_lengths_of_keys_are_the_codes():
    for number, word, _, public, private, enc in table("05-epochs-and-grants.md", "kem", "policy word"):
        which = kem.BY_WORD[word]
        assert which == int(number)
        sizes = [int(cell.split()[0].replace(",", "")) for cell in (public, private, enc)]
        assert sizes == [kem.KEY_BYTES[which], kem.PRIVATE_BYTES[which], kem.ENC_BYTES[which]]


def test_the_profiles_are_the_codes():
    [rows] = [rows for rows in tables(page("07-trust.md")) if rows[0] == ["", "agent", "tls", "broker", "trust"]]
    facts = {row[0]: row[1:] for row in rows[1:]}
    days = {"365 d": 365 * profiles.DAY_MS, "24 h": profiles.DAY_MS}
    for place, profile in enumerate((Profile.AGENT, Profile.TLS, Profile.BROKER, Profile.TRUST)):
        rules = RULES[profile]
        assert bare(facts["URI"][place]) == profiles.spiffe("<domain>", profile, "<NAME>")
        assert facts["extKeyUsage, in this order"][place].split(", ")[0] == f"arc.{profile.value}"
        assert len(facts["extKeyUsage, in this order"][place].split(", ")) == len(rules.ekus)
        assert days[facts["longest validity"][place]] == rules.lifetime_ms
        assert facts["origins"][place].replace("as agent", "all") == ("all" if len(rules.origins) == 3 else "software")
        assert facts["DNS and IP names"][place] == ("allowed" if rules.hosts else "none")
        suites = facts["suites (number)"][place].replace("as agent", facts["suites (number)"][0])
        ranges = [[int(end) for end in part.split(" to ")] for part in suites.split(", ")]
        assert {n for ends in ranges for n in range(ends[0], ends[-1] + 1)} == {suite.number for suite in rules.suites}


def test_the_object_identifiers_are_the_codes():
    assert f"`{profiles.ARC}`" in page("07-trust.md")
    rows = [(row[0], bare(row[1].removeprefix("arc "))) for row in table("07-trust.md", "object", "identifier")]
    uses = [(f"key usage of profile {profile.path}", f".{profile.value}") for profile in Profile]
    assert rows == [*uses, ("private extension", profiles.EXTENSION.dotted_string.removeprefix(profiles.ARC))]


@pytest.mark.parametrize(
    ("name", "head", "fields"),
    [
        ("03-envelope.md", ("#", "field", "type", "range", "meaning"), header.Header),
        ("03-envelope.md", ("#", "field", "type", "range"), Proof),
        ("05-epochs-and-grants.md", ("#", "field", "type", "range", "meaning"), Params),
        ("07-trust.md", ("#", "field", "type", "rule"), SessionBody),
    ],
)
def test_the_fields_of_a_structure_are_the_codes(name, head, fields):
    [rows] = [rows[1:] for rows in tables(page(name)) if rows[0] == list(head)]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    kinds = [{int: "unsigned", str: "str", bytes: "bin"}[kind] for kind in get_type_hints(fields).values()]
    if fields is SessionBody:  # its version is no field of the value
        kinds.insert(0, "unsigned")
    assert [row[2] for row in rows] == kinds


# ---- the codes -----------------------------------------------------------------------------------------------------------------

RAISING = {"VerificationError", "AttestationError", "RemoteProtocolError", "Fault", "Parked", "_refused", "_check"}
NOT_OF_THE_PROTOCOL = {"tpm", "transport", "cli", "hub"}
"""Rooms whose RemoteProtocolErrors are about the lines of the TPM service, which has a reference of its own."""


@cache
def codes_in_the_code() -> frozenset[str]:
    found: set[str] = set()
    for path in BUS.rglob("*.py"):
        if path.relative_to(BUS).parts[0] in NOT_OF_THE_PROTOCOL:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= codes_of(node)
    return frozenset(found)


def codes_of(call: ast.Call) -> set[str]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name not in RAISING or not call.args:
        return set()
    found = {node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    if name == "_refused":
        found = {node.value for node in call.args[1:2] if isinstance(node, ast.Constant)}
    if name == "_check":  # trust/view.py: a kind, of which there is a rollback and a fork
        kinds = found & {"trust", "policy"}
        return {f"{kind}_{what}" for kind in kinds for what in ("rollback", "fork")}
    return {code for code in found if re.fullmatch(r"[a-z]+(_[a-z]+)*", code)}


def codes_told_of() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rows in tables(page("09-codes.md")):
        if rows[0][0] == "code":
            for row in rows[1:]:
                assert bare(row[0]) not in found, f"{row[0]} stands twice"
                found[bare(row[0])] = row
    return found


def test_every_code_that_is_raised_is_told_of_and_no_other():
    assert codes_in_the_code() >= {"malformed", "bad_proof", "trust_fork", "policy_rollback", "missing_papers", "not_permitted"}
    assert set(codes_told_of()) == codes_in_the_code() | set(REASONS)


def test_what_the_peer_is_told_is_what_the_code_tells():
    rows = [row for rows in tables(page("09-codes.md")) if rows[0][:3] == ["code", "line", "the peer is told"] for row in rows[1:]]
    assert len(rows) > 20
    assert [(bare(row[0]), bare(row[2])) for row in rows if row[2] != "-"] == [
        (bare(row[0]), told(bare(row[0]))) for row in rows if row[2] != "-"
    ]


def test_no_page_names_a_code_that_does_not_exist():
    known = set(codes_told_of())
    for path in sorted(SPEC.glob("*.md")):
        text = path.read_text()
        for code in re.findall(r"(?:→|else|code) `([a-z_]+)`", text):
            assert code in known, f"{path.name} speaks of {code}"


# ---- the examples, computed as a stranger would --------------------------------------------------------------------------------

T = 1_800_000_000_000
CONTEXT = b"tpmbus/1 "


def pack(value: object) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def expand(secret: bytes, info: bytes, length: int = 32) -> bytes:
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def leaf(content: bytes, purpose: int = 1) -> bytes:
    return sha(b"\x00", CONTEXT, b"leaf", bytes([purpose]), content)


def node(left: bytes, right: bytes) -> bytes:
    return sha(b"\x01", left, right)


def root_tbs(signer: bytes, count: int, root: bytes) -> bytes:
    return CONTEXT + b"root" + b"\x00" + b"\x01" + signer + count.to_bytes(4, "big") + root


def content_of(head: bytes, body: bytes, blind: bytes) -> bytes:
    return sha(CONTEXT, b"envelope", blind, len(head).to_bytes(4, "big"), head, sha(body))


def base128(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = b""
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        out += bytes(reversed(digits))
    return out


@cache
def examples() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    encoding(found)
    session(found)
    epoch(found)
    one_envelope(found)
    three(found)
    grant(found)
    other(found)
    return found


def encoding(found: dict[str, bytes]) -> None:
    for name, value in {
        "[]": [], "5": 5, "300": 300, '"DIRECTOR"': "DIRECTOR", '[1, 0x00ff, "A"]': [1, b"\x00\xff", "A"],
    }.items():  # fmt: skip
        found[f"pack {name}"] = pack(value)


def session(found: dict[str, bytes]) -> None:
    host = found["host public key"] = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).public_key().public_bytes_raw()
    key = found["kem public key"] = X25519PrivateKey.from_private_bytes(b"\x07" * 32).public_key().public_bytes_raw()
    found["kem key id"] = sha(CONTEXT, b"kem key", b"\x01", key)[:16]
    identity, statement = sha(b"identity certificate"), sha(b"trust statement")
    body = [1, "example.org", "DIRECTOR", identity, host, 1, key, T, T + 900_000, 1, statement, b"\x06" * 16]
    found["session body"] = pack(body)
    found["session id"] = sha(CONTEXT, b"session id", found["session body"])[:16]
    found["host signer"] = sha(CONTEXT, b"host", host)


def epoch(found: dict[str, bytes]) -> None:
    found["audience list"] = pack([["MONITOR", 0]])
    found["audience"] = sha(CONTEXT, b"audience", found["audience list"])
    found["params"] = pack(["example.org", "DIRECTOR", found["audience"], 0, 3, 0, 1, 1, T, T + 900_000])
    found["epoch id"] = expand(b"\x03" * 32, CONTEXT + b"epoch id" + sha(found["params"]))
    found["content key"] = expand(b"\x03" * 32, CONTEXT + b"content key" + sha(found["params"]))
    found["sample threshold"] = int(0.01 * 2**64).to_bytes(8, "big")
    found["sample digest"] = sha(CONTEXT, b"sample", found["epoch id"], bytes(8))


def proof_of(found: dict[str, bytes], tbs: bytes, blind: bytes) -> tuple[bytes, list[object]]:
    signature = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).sign(tbs)
    return signature, [1, found["host signer"], 1, 0, b"", signature, b"", blind]


def one_envelope(found: dict[str, bytes]) -> None:
    head = [1, 1, 0, "tasks.build", "DIRECTOR", found["session id"], found["epoch id"], 0, T + 1_000, T + 61_000, 3, 1]
    head_bytes = found["header"] = pack([*head, b"\x05" * 16, b"", 0])
    body = found["body"] = pack([b"\x00", [b"hello"], []])
    found["content"] = content_of(head_bytes, body, b"\x02" * 16)
    found["leaf"] = leaf(found["content"])
    found["tbs"] = root_tbs(found["host signer"], 1, found["leaf"])
    found["signature"], proof = proof_of(found, found["tbs"], b"\x02" * 16)
    found["plaintext"] = pack([proof, body])
    guard = b"\x04" * 4
    found["sealed"] = guard + AESGCM(found["content key"]).encrypt(guard + bytes(8), found["plaintext"], head_bytes)
    found["envelope"] = pack([head_bytes, found["sealed"]])
    found["given id"] = sha(CONTEXT, b"id", pack(["DIRECTOR", "order-17"]))[:16]


def three(found: dict[str, bytes]) -> None:
    leaves = [leaf(content) for content in (found["content"], b"\x0a" * 32, b"\x0b" * 32)]
    pair = node(leaves[0], leaves[1])
    root = node(pair, leaves[2])
    for index, one in enumerate(leaves):
        found[f"batch leaf {index}"] = one
    found["batch root"] = root
    found["batch path 0"], found["batch path 1"], found["batch path 2"] = leaves[1] + leaves[2], leaves[0] + leaves[2], pair
    found["batch tbs"] = root_tbs(found["host signer"], 3, root)


def labelled(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info, length)


def extract(suite_id: bytes, label: bytes, ikm: bytes, salt: bytes = bytes(32)) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite_id + label + ikm, "sha256")


def grant(found: dict[str, bytes]) -> None:
    reader, once = X25519PrivateKey.from_private_bytes(b"\x09" * 32), X25519PrivateKey.from_private_bytes(b"\x0e" * 32)
    public = found["reader public key"] = reader.public_key().public_bytes_raw()
    key_id = found["reader key id"] = sha(CONTEXT, b"kem key", b"\x01", public)[:16]
    start = [1, 2, 0, "_grant.MONITOR", "DIRECTOR", found["session id"], found["epoch id"], 0, T + 500, T + 900_000, 0, 1]
    head = found["grant header"] = pack([*start, b"\x0c" * 16, key_id, 0])
    info = found["grant info"] = CONTEXT + b"grant" + sha(head)
    body = found["grant body"] = pack([b"\x03" * 32, found["params"], "MONITOR", b"\x08" * 16, b""])
    found["grant content"] = content_of(head, body, b"\x0d" * 16)
    found["grant tbs"] = root_tbs(found["host signer"], 1, leaf(found["grant content"]))
    found["grant signature"], proof = proof_of(found, found["grant tbs"], b"\x0d" * 16)
    found["grant plaintext"] = pack([proof, body])
    enc = found["hpke enc"] = once.public_key().public_bytes_raw()
    shared = once.exchange(X25519PublicKey.from_public_bytes(public))
    kem_id, suite_id = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    secret = labelled(kem_id, extract(kem_id, b"eae_prk", shared), b"shared_secret", enc + public, 32)
    context = b"\x00" + extract(suite_id, b"psk_id_hash", b"") + extract(suite_id, b"info_hash", info)
    prk = extract(suite_id, b"secret", b"", salt=secret)
    found["hpke shared secret"] = secret
    found["hpke key"] = labelled(suite_id, prk, b"key", context, 32)
    found["hpke base nonce"] = labelled(suite_id, prk, b"base_nonce", context, 12)
    sealed = AESGCM(found["hpke key"]).encrypt(found["hpke base nonce"], found["grant plaintext"], b"")
    found["grant sealed"] = enc + sealed


def other(found: dict[str, bytes]) -> None:
    arc = "2.25.16993102144338698348540404301649632246"
    found["oid agent"], found["oid extension"] = base128(f"{arc}.1"), base128(f"{arc}.10")
    sha3 = bytes.fromhex("300d06096086480165030402090500")  # SEQUENCE { 2.16.840.1.101.3.4.2.9, NULL }
    mgf = bytes.fromhex("06092a864886f70d010108") + sha3
    parts = b"\xa0\x0f" + sha3 + b"\xa1\x1c\x30\x1a" + mgf + b"\xa2\x03\x02\x01\x30"
    algorithm = bytes.fromhex("06092a864886f70d01010a") + b"\x30" + bytes([len(parts)]) + parts
    found["root algorithm"] = b"\x30" + bytes([len(algorithm)]) + algorithm
    found["pinned extension"] = bytes.fromhex("300c 020101 020133 0a0101 020102")
    binding = [b"\x11" * 32, "MONITOR", b"\x12" * 32, b"\x00\x0b" + b"\x13" * 32, b"\x00\x0b" + b"\x14" * 32, 1, b"\x15" * 32]
    found["enroll binding"] = pack(binding)
    found["enroll qualifying"] = sha(CONTEXT, b"enroll", found["enroll binding"])
    found["hello a"] = pack([[1], b"\x21" * 32, [b"\x22\x23"]])
    found["hello b"] = pack([1, b"\x24" * 32, b"\x25\x26", [1_048_576, 1_024, 65_536, 65_536], T])
    t = found["hello t"] = sha(CONTEXT, b"hello", found["hello a"], found["hello b"], bytes(64))
    broker, agents = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"\x27", b"\x01"))
    found["broker proves"] = broker.sign(CONTEXT + b"hello broker" + t)
    found["agent proves"] = agents.sign(CONTEXT + b"hello agent" + t)


def shown() -> Iterator[tuple[str, str, bytes]]:
    """(page, name, bytes) of each example in a block that is marked `hex`."""
    for path in sorted(SPEC.glob("*.md")):
        for block in re.findall(r"^```hex\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for name, value in re.findall(r"^(\S.*?) =((?:[ \n]+[0-9a-f]+)*)$", block, re.MULTILINE):
                yield path.name, name, bytes.fromhex("".join(value.split()))


def test_every_example_is_computed_again():
    seen = {name: value for _, name, value in shown()}
    assert [name for name in seen if name not in examples()] == []
    assert {name: value.hex() for name, value in seen.items()} == {name: value.hex() for name, value in examples().items()}


def test_every_line_of_an_example_is_one():
    for path in sorted(SPEC.glob("*.md")):
        for block in re.findall(r"^```hex\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                assert re.fullmatch(r"\S.*? =( [0-9a-f]+)?|  [0-9a-f]+", line), f"{path.name}: {line}"


# ---- and the code reads them ---------------------------------------------------------------------------------------------------


def test_the_code_opens_the_envelope_of_the_example():
    made = examples()
    head_bytes, sealed = envelope.split(made["envelope"])
    head = header.parse(head_bytes)
    opened = OpenedEpoch.from_grant(b"\x03" * 32, made["params"], id=head.epoch)
    proof, body = envelope.split_plaintext(opened.open(sealed, seq=head.seq, header=head_bytes))
    content = envelope.content(head_bytes, body, blind=proof.blind, hash_name=HOST_SUITE.hash)
    assert proof.tbs(Purpose.ENVELOPE, content) == made["tbs"]
    verify_host(made["host public key"], made["tbs"], proof.signature)
    assert papers.host_signer(made["host public key"]) == proof.signer
    assert records.parse(body).payloads == [b"hello"]


def test_the_code_reads_the_session_of_the_example():
    made = examples()
    body = SessionBody.parse(made["session body"])
    assert body.encode() == made["session body"]
    assert papers.SessionCertificate(made["session body"], None).id == made["session id"]
    assert kem.key_id(1, body.kem_key) == made["kem key id"]


def test_the_code_opens_the_grant_of_the_example():
    made = examples()
    head = header.parse(made["grant header"])
    key = kem.PrivateKey.from_bytes(1, b"\x09" * 32)
    assert (grants.reader_of(head), head.ref) == ("MONITOR", key.id)
    proof, body = envelope.split_plaintext(key.open(made["grant sealed"], grants.info(made["grant header"])))
    assert GrantBody.parse(body).params == made["params"]
    verify_host(made["host public key"], made["grant tbs"], proof.signature)


def test_the_code_walks_the_paths_of_the_example():
    made = examples()
    for index, content in enumerate((made["content"], b"\x0a" * 32, b"\x0b" * 32)):
        proof = BatchProof(1, made["host signer"], 3, index, made[f"batch path {index}"], b"")
        assert proof.tbs(Purpose.ENVELOPE, content) == made["batch tbs"]


def test_the_code_agrees_on_the_other_examples():
    made = examples()
    hello_a, hello_b = HelloA.parse(made["hello a"]), HelloB.parse(made["hello b"])
    assert handshake.transcript(hello_a.encode(), hello_b.encode()) == made["hello t"]
    broker = Ed25519PrivateKey.from_private_bytes(b"\x27" * 32).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    verify_host(broker, handshake.broker_tbs(made["hello t"]), made["broker proves"])
    verify_host(made["host public key"], handshake.agent_tbs(made["hello t"]), made["agent proves"])
    assert made["root algorithm"] == root_signature.ALGORITHM
    assert Binding(made["enroll binding"]).qualifying == made["enroll qualifying"]
    assert audience.digest((("MONITOR", 0),)) == made["audience"]
    assert given_id("DIRECTOR", "order-17") == made["given id"]
    assert sampling.threshold(0.01).to_bytes(8, "big") == made["sample threshold"]
    assert not sampling.sampled(made["epoch id"], 0, 0.01)
    assert extension.Pinned(BY_NUMBER[51], "software-tpm", 2).encode() == made["pinned extension"]
    for name, dotted in {"oid agent": Profile.AGENT.eku.dotted_string, "oid extension": profiles.EXTENSION.dotted_string}.items():
        assert base128(dotted) == made[name]

"""Encodings: each structure once as it is right, and wrong in every way that its types and ranges allow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "fuzz"))

import wire_rows as rows
from vector_forms import Change, around, fields_of, put, wrong
from vector_stage import Stage

from bus.protocol.codec import pack
from bus.protocol.handshake import HelloA, HelloB, Limits
from bus.protocol.papers import InboxCertificate, SessionCertificate
from bus.protocol.sampling import AuditRecord


def words(text: str) -> list[str]:
    return text.split()


HEADER = words("version kind flags topic sender session epoch seq sent_ms expires_ms priority records id ref before")
PROOF = words("suite signer n index path signature cosignature blind")
U64, U32 = 2**64 - 1, 2**32 - 1
KEY = rows.KEM_KEY
SMALL = [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")]
ED_SMALL = [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, bytes.fromhex("02" + "00" * 31), bytes.fromhex("ec" + "ff" * 30 + "7f")]
HYBRID_WRONG = b"\xff" * 3 + rows.HYBRID_KEY[3:]


Range = dict[str, Change]
"""What is out of range, and what is still in it."""


def numbers(place: int, name: str, *, wrong_ones: tuple[int, ...] = (), right: tuple[int, ...] = ()) -> tuple[Range, Range]:
    return ({f"{name} {n}": put(place, value=n) for n in wrong_ones}, {f"{name} {n}": put(place, value=n) for n in right})


def lengths(place: int, name: str, *sizes: int) -> Range:
    return {f"{name} of {size} bytes": put(place, value=b"x" * size) for size in sizes}


def texts(place: int, name: str, *values: str) -> Range:
    return {f"{name} {value[:24]!r}{'' if len(value) < 25 else f' .. ({len(value)})'}": put(place, value=value) for value in values}


NAMES_WRONG = ("", "a", "A-B", "A.B", "1A", "A" * 33, "AB\n", " AB", "A_B")
NAMES_RIGHT = ("A", "A1", "A" * 32)
TOPICS_WRONG = (
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "a b",
    "a*",
    "*",
    ">",
    "a.>",
    "a/b",
    "a\n",
    "a" * 65,
    "a.".join([""] * 17) + "b",
    "a\x00",
)
TOPICS_WRONG += (".".join(["t" * 64] * 7 + ["u" * 58]),)
TOPICS_RIGHT = ("a", "_", "-", "_dead.x", "A-_9.b", "a" * 64, ".".join("abcdefghijklmnop"), ".".join(["t" * 64] * 7 + ["u" * 57]))


def merge(*tables: Range) -> Range:
    found: Range = {}
    for table in tables:
        found |= table
    return found


def header_ranges() -> tuple[Range, Range]:
    pairs = [
        numbers(0, "version", wrong_ones=(0, 2, 255)),
        numbers(1, "kind", wrong_ones=(0, 3), right=(2,)),
        numbers(2, "flags", wrong_ones=(3, 4, 255), right=(0, 2)),
        numbers(7, "seq", wrong_ones=(2**32, U64), right=(0, U32)),
        numbers(8, "sent_ms", right=(0, U64)),
        numbers(9, "expires_ms", right=(0, U64)),
        numbers(10, "priority", wrong_ones=(5, 255), right=(0, 4)),
        numbers(11, "records", wrong_ones=(0, 1_025, U64), right=(1, 1_024)),
        numbers(14, "before", right=(0, U64)),
        (lengths(5, "session", 0, 15, 17, 32), {}),
        (lengths(6, "epoch", 0, 31, 33), {}),
        (lengths(12, "id", 0, 15, 17), {}),
        (lengths(13, "ref", 1, 15, 17), lengths(13, "ref", 0, 16)),
        (texts(3, "topic", *TOPICS_WRONG), texts(3, "topic", *TOPICS_RIGHT)),
        (texts(4, "sender", *NAMES_WRONG), texts(4, "sender", *NAMES_RIGHT)),
    ]
    return merge(*(one for one, _ in pairs)), merge(*(one for _, one in pairs))


def body_ranges() -> tuple[Range, Range]:
    pairs = [["a", "b"]]
    bad = {
        "kind 2": put(0, value=b"\x00\x02"),
        "a kind less": put(0, value=b"\x00"),
        "a kind more": put(0, value=b"\x00\x00\x00"),
        "no records": lambda f: f.__setitem__(slice(None), [b"", [], []]),
        "1,025 records": lambda f: f.__setitem__(slice(None), [bytes(1_025), [b""] * 1_025, []]),
        "a payload that is text": put(1, 1, value="text"),
        "a payload that is nil": put(1, 1, value=None),
        "extras of record 2": put(2, value=[[2, pairs]]),
        "extras that descend": put(2, value=[[1, pairs], [0, pairs]]),
        "extras twice": put(2, value=[[0, pairs], [0, pairs]]),
        "extras of nothing": put(2, value=[[0, []]]),
        "extras of three": put(2, value=[[0, pairs, 0]]),
        "extras whose index is true": put(2, value=[[True, pairs]]),
        "65 headers": put(2, value=[[0, [[f"h{n}", ""] for n in range(65)]]]),
        "a header twice": put(2, value=[[0, [["a", "b"], ["a", "c"]]]]),
        "a header of one": put(2, value=[[0, [["a"]]]]),
        "a header of three": put(2, value=[[0, [["a", "b", "c"]]]]),
        "a header's name in bytes": put(2, value=[[0, [[b"a", "b"]]]]),
        "a header's value in bytes": put(2, value=[[0, [["a", b"b"]]]]),
        "a header's value that is no ASCII": put(2, value=[[0, [["a", "\xe9"]]]]),
        "headers as a map": put(2, value=[[0, {"a": "b"}]]),
    }
    good = {
        "no headers": put(2, value=[]),
        "64 headers": put(2, value=[[0, [[f"h{n}", ""] for n in range(64)]]]),
        "a header without a name": put(2, value=[[1, [["", ""]]]]),
        "1,024 records": lambda f: f.__setitem__(slice(None), [bytes(1_024), [b""] * 1_024, []]),
    }
    return bad, good


def proof_ranges(*at: int) -> tuple[Range, Range]:
    bad = {
        "suite 256": put(*at, 0, value=256),
        "a signer of 31 bytes": put(*at, 1, value=bytes(31)),
        "n 65,537": put(*at, 2, value=65_537),
        "index 65,536": put(*at, 3, value=65_536),
        "a path of 769 bytes": put(*at, 4, value=bytes(769)),
        "no signature": put(*at, 5, value=b""),
        "a signature of 65 bytes": put(*at, 5, value=bytes(65)),
        "a cosignature of 3,308 bytes": put(*at, 6, value=bytes(3_308)),
        "a blind of 15 bytes": put(*at, 7, value=bytes(15)),
        "no blind": put(*at, 7, value=b""),
        "a proof of seven": lambda f: at_of(f, at).pop(),
        "a proof of nine": lambda f: at_of(f, at).append(b""),
        "a proof in a bin": put(*at, value=pack(fields_of(pack(rows.PROOF)))),
        "a suite that is true": put(*at, 0, value=True),
        "a path that is text": put(*at, 4, value=""),
        "an index below zero": put(*at, 3, value=-1),
    }
    good = {
        "suite 255": put(*at, 0, value=255),
        "n 0": put(*at, 2, value=0),
        "n 65,536": put(*at, 2, value=65_536),
        "index 65,535": put(*at, 3, value=65_535),
        "a path of 768 bytes": put(*at, 4, value=bytes(768)),
        "a path of one byte": put(*at, 4, value=b"p"),
        "a signature of 384 bytes": put(*at, 5, value=bytes(384)),
        "a cosignature": put(*at, 6, value=bytes(3_309)),
    }
    return bad, good


def at_of(fields: list[Any], at: tuple[int, ...]) -> list[Any]:
    for place in at:
        fields = fields[place]
    return fields


def certificate_ranges() -> tuple[Range, Range]:
    """As other proofs, but without a cosignature, and of a suite that there is."""
    bad, good = proof_ranges(1)
    for name in ("suite 255", "a cosignature"):
        bad[name] = good.pop(name)
    good.pop("a path of 768 bytes")
    good["suite 1"] = put(1, 0, value=1)
    return bad, good


def params_ranges() -> tuple[Range, Range]:
    pairs = [
        (texts(0, "domain", "", "d" * 254), texts(0, "domain", "d", "d" * 253, "AnyThing At All")),
        (texts(1, "sender", *NAMES_WRONG), texts(1, "sender", *NAMES_RIGHT)),
        (lengths(2, "audience", 0, 31, 33), {}),
        numbers(3, "class", wrong_ones=(2,), right=(1,)),
        numbers(4, "priority", wrong_ones=(5,), right=(0, 4)),
        numbers(5, "signed_by", wrong_ones=(2,), right=(1,)),
        numbers(6, "aead", wrong_ones=(0, 3), right=(2,)),
        numbers(7, "kem", wrong_ones=(0, 3), right=(1,)),
        numbers(8, "made_ms", right=(0, U64)),
        numbers(9, "ends_ms", right=(0, U64)),
    ]
    return merge(*(one for one, _ in pairs)), merge(*(one for _, one in pairs))


SHORTER = ("a field less", "its first field missing")
"""A list may be shorter."""


def grant_ranges() -> tuple[Range, Range]:
    bad = merge(
        lengths(0, "secret", 0, 31, 33),
        lengths(1, "params", 1_025),
        texts(2, "reader", *NAMES_WRONG),
        lengths(3, "reader_session", 1, 15, 17, 32),
        {
            "names that descend": put(4, value=pack([["B", 0], ["A", 0]])),
            "a name twice": put(4, value=pack([["A", 0], ["A", 1]])),
            "a name that is none": put(4, value=pack([["a", 0]])),
            "a name in bytes": put(4, value=pack([[b"A", 0]])),
            "a name without its generation": put(4, value=pack([["A"]])),
            "a name and three": put(4, value=pack([["A", 0, 0]])),
            "a generation below zero": put(4, value=pack([["A", -1]])),
            "16,385 names": put(4, value=pack([[f"A{n:05}", 0] for n in range(16_385)])),
            "names of nobody": put(4, value=b"\x90"),
        },
        {
            f"the list of names: {how}": put(4, value=data)
            for how, data in around([["A", 0], ["B", 1]])
            if data and not how.startswith(SHORTER)
        },
    )
    good = merge(
        lengths(3, "reader_session", 0, 16),
        lengths(1, "params", 1, 1_024),
        {"no names": put(4, value=b""), "a generation of 64 bits": put(4, value=pack([["A", U64], ["B", 0]]))},
        {"200 names": put(4, value=pack([[f"A{n:03}", n] for n in range(200)]))},
    )
    return bad, good


def certified_ranges(kem: int, key: int, host: int | None, begins: int, longest: int) -> tuple[Range, Range]:
    """What session and inbox bodies share. Numbers are places."""
    start = rows.NOW
    bad = merge(
        numbers(0, "version", wrong_ones=(0, 2))[0],
        texts(1, "domain", "", "d" * 254),
        texts(2, "name", *NAMES_WRONG),
        lengths(3, "identity", 0, 31, 33),
        numbers(kem, "kem", wrong_ones=(0, 3))[0],
        {f"an X25519 key of small order, {n}": _keyed(kem, key, 1, one) for n, one in enumerate(SMALL)},
        {
            "an X25519 key of 31 bytes": _keyed(kem, key, 1, bytes(31) + b""),
            "an X25519 key of p": _keyed(kem, key, 1, bytes.fromhex("ed" + "ff" * 30 + "7f")),
            "an X25519 key with its highest bit": _keyed(kem, key, 1, KEY[:31] + bytes([KEY[31] | 0x80])),
            "a hybrid key under kem 1": _keyed(kem, key, 1, rows.HYBRID_KEY),
            "an X25519 key under kem 2": _keyed(kem, key, 2, KEY),
            "a hybrid key with a coefficient of q or more": _keyed(kem, key, 2, HYBRID_WRONG),
            "a hybrid key of small order": _keyed(kem, key, 2, rows.HYBRID_KEY[:1_184] + bytes(32)),
            "a hybrid key that is a byte short": _keyed(kem, key, 2, rows.HYBRID_KEY[:-1]),
            "an end at its beginning": put(begins + 1, value=start),
            "an end before its beginning": put(begins + 1, value=start - 1),
            "a millisecond too long": put(begins + 1, value=start + longest + 1),
        },
    )
    good = {
        "as long as it may be": put(begins + 1, value=start + longest),
        "a millisecond": put(begins + 1, value=start + 1),
        "the hybrid KEM": _keyed(kem, key, 2, rows.HYBRID_KEY),
        "x25519": _keyed(kem, key, 1, KEY),
    }
    if host is not None:
        bad |= {f"a host key that is no point of the right order, {n}": put(host, value=one) for n, one in enumerate(ED_SMALL)}
        bad |= lengths(host, "host key", 0, 31, 33) | lengths(10, "trust_digest", 0, 31) | lengths(11, "random", 0, 15, 17)
    return bad, good


def _keyed(kem: int, key: int, number: int, data: bytes) -> Change:
    def change(fields: list[Any]) -> None:
        fields[kem], fields[key] = number, data

    return change


def papers_ranges() -> tuple[Range, Range]:
    bad = merge(
        {f"no {name}": put(place, value=b"") for place, name in enumerate(("session", "identity", "statement"))},
        lengths(0, "session", 8_193),
        lengths(1, "identity", 8_193),
        lengths(3, "ml_dsa", 1, 1_951, 1_953),
    )
    return bad, lengths(0, "session", 8_192) | lengths(3, "ml_dsa", 1_952)


def statement_ranges() -> tuple[Range, Range]:
    now, week = rows.NOW, 7 * 86_400_000
    bad = merge(
        numbers(1, "number", wrong_ones=(0,))[0],
        {
            "an end before it was issued": put(3, value=now - 1),
            "good for more than a week": put(3, value=now + week + 1),
            "agents that descend": put(8, value=[["B", 1, 0], ["A", 1, 0]]),
            "an agent twice": put(8, value=[["A", 1, 0], ["A", 1, 0]]),
            "an agent of whom there is nothing to say": put(8, value=[["A", 0, 0]]),
            "an agent without a date": put(8, value=[["A", 1]]),
            "an agent that is none": put(8, value=[["a", 1, 0]]),
            "a generation of 2^32": put(8, value=[["A", 2**32, 0]]),
            "a hash of 31 bytes": put(9, value=[["A", bytes(31)]]),
            "hashes that descend": put(9, value=[["B", bytes(32)], ["A", bytes(32)]]),
            "a hash twice": put(9, value=[["A", bytes(32)], ["A", bytes(32)]]),
            "a hash as text": put(9, value=[["A", "x" * 32]]),
        },
        lengths(5, "policy_digest", 0, 31, 33),
        lengths(7, "crl_digest", 0, 31, 33),
    )
    good = {
        "good for no time": put(3, value=now),
        "good for a week": put(3, value=now + week),
        "nobody": lambda f: f.__setitem__(slice(8, 10), [[], []]),
        "a generation of 2^32 - 1": put(8, value=[["A", U32, U64]]),
        "numbers of 64 bits": lambda f: (f.__setitem__(1, U64), f.__setitem__(4, U64), f.__setitem__(6, U64)),
        "numbers of zero": lambda f: (f.__setitem__(4, 0), f.__setitem__(6, 0)),
    }
    return bad, good


def bundle_ranges() -> tuple[Range, Range]:
    paths = ("", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\\b", "a\n", "\x7f", "a" * 256, "a\x00")
    bad = merge(
        numbers(0, "version of the form", wrong_ones=(0, 2))[0],
        numbers(2, "version", wrong_ones=(0,))[0],
        {f"the path {path[:12]!r} ({len(path)})": put(4, value=[[path, b""]]) for path in paths},
        {
            "no files": put(4, value=[]),
            "1,025 files": put(4, value=[[f"{n:04}", b""] for n in range(1_025)]),
            "paths that descend": put(4, value=[["b", b""], ["a", b""]]),
            "a path twice": put(4, value=[["a", b""], ["a", b""]]),
            "a file as text": put(4, value=[["a", "x"]]),
            "a file of three": put(4, value=[["a", b"", 0]]),
        },
    )
    right = (" ", "~", "a" * 255, "a b/c", "...", "a/.b")
    good = {f"the path {path[:12]!r} ({len(path)})": put(4, value=[[path, b""]]) for path in right}
    return bad, good | {"1,024 files": put(4, value=[[f"{n:04}", b""] for n in range(1_024)])}


def hello_a_ranges() -> tuple[Range, Range]:
    bad = {
        "no versions": put(0, value=[]),
        "version 0": put(0, value=[0, 1]),
        "version 256": put(0, value=[1, 256]),
        "versions that descend": put(0, value=[2, 1]),
        "a version twice": put(0, value=[1, 1]),
        "17 versions": put(0, value=[*range(1, 18)]),
        "no papers": put(2, value=[]),
        "empty papers": put(2, value=[b""]),
        "papers as text": put(2, value=["papers"]),
        "1,025 papers": put(2, value=[b"p"] * 1_025),
    }
    good = {
        "16 versions": put(0, value=[*range(1, 17)]),
        "versions that nobody knows": put(0, value=[7, 255]),
        "1,024 papers": put(2, value=[b"p"] * 1_024),
    }
    return bad | lengths(1, "nonce", 0, 31, 33), good


def hello_b_ranges() -> tuple[Range, Range]:
    bad = {
        "version 256": put(0, value=256),
        "empty papers": put(2, value=b""),
        "envelopes of 1,024 bytes": put(3, 0, value=1_024),
        "envelopes of more than 1 MiB": put(3, 0, value=(1 << 20) + 1),
        "no records": put(3, 1, value=0),
        "1,025 records": put(3, 1, value=1_025),
        "no topics": put(3, 2, value=0),
        "no subscriptions": put(3, 3, value=0),
        "subscriptions of 2^32": put(3, 3, value=2**32),
        "three limits": put(3, value=[1 << 20, 1, 1]),
        "five limits": put(3, value=[1 << 20, 1, 1, 1, 1]),
    }
    good = {"the narrowest limits": put(3, value=[1_025, 1, 1, 1]), "the widest limits": put(3, value=[1 << 20, 1_024, U32, U32])}
    return bad | lengths(1, "nonce", 0, 31, 33), good


def inbox_ranges() -> tuple[Range, Range]:
    bad, good = certified_ranges(5, 6, None, 7, 2_592_000_000)
    beyond, within = numbers(4, "counter", wrong_ones=(2**32, U64), right=(0, U32))
    return bad | beyond, good | within


def audit_ranges() -> tuple[Range, Range]:
    bad, good = proof_ranges(3)
    return bad | lengths(0, "epoch", 31, 33) | lengths(2, "content", 31, 33, 48) | numbers(1, "seq", wrong_ones=(2**32,))[0], good


SESSION = words("version domain name identity host_key kem kem_key not_before not_after trust_number trust_digest random")
INBOX = words("version domain name identity counter kem kem_key not_before not_after")
NAMED: dict[str, tuple[bytes, list[str], tuple[Range, Range]]] = {
    "header": (rows.HEADER.encode(), HEADER, header_ranges()),
    "envelope": (pack([rows.HEADER.encode(), b"s" * 40]), ["header", "sealed"], (lengths(0, "header", 1_025), {})),
    "plaintext": (pack([list(rows.PROOF), rows.RECORDS.encode()]), ["proof", "body"], proof_ranges(0)),
    "body": (rows.RECORDS.encode(), ["kinds", "payloads", "extras"], body_ranges()),
    "params": (
        rows.PARAMS.encode(),
        words("domain sender audience class priority signed_by aead kem made_ms ends_ms"),
        params_ranges(),
    ),
    "grant": (rows.GRANT.encode(), words("secret params reader reader_session names"), grant_ranges()),
    "session": (
        rows.SESSION._replace(kem=1, kem_key=KEY).encode(),
        SESSION,
        certified_ranges(5, 6, 4, 7, 900_000),
    ),
    "inbox": (rows.INBOX.encode(), INBOX, inbox_ranges()),
    "session_certificate": (
        SessionCertificate(rows.SESSION._replace(kem=1, kem_key=KEY).encode(), rows.PROOF).encode(),
        ["body", "proof"],
        certificate_ranges(),
    ),
    "inbox_certificate": (InboxCertificate(rows.INBOX.encode(), rows.PROOF).encode(), ["body", "proof"], certificate_ranges()),
    "papers": (rows.PAPERS.encode(), words("session identity statement ml_dsa"), papers_ranges()),
    "statement_body": (
        rows.STATEMENT,
        words("domain number issued next_update policy_version policy_digest crl_number crl_digest agents ml_dsa"),
        statement_ranges(),
    ),
    "bundle_body": (rows.BUNDLE, words("form domain version made_ms files"), bundle_ranges()),
    "hello_a": (HelloA((1,), rows.NONCE, (b"papers",)).encode(), ["versions", "nonce", "papers"], hello_a_ranges()),
    "hello_b": (
        HelloB(1, rows.NONCE, b"papers", Limits(), rows.NOW).encode(),
        words("version nonce papers limits time_ms"),
        hello_b_ranges(),
    ),
    "audit": (AuditRecord(bytes(32), 7, bytes(32), rows.PROOF).encode(), words("epoch seq content proof"), audit_ranges()),
}

ARRAYS: dict[str, Any] = {
    "nothing": [],
    "nil and bools": [None, True, False],
    "numbers at the ends of their forms": [0, 127, 128, 255, 256, 65_535, 65_536, U32, 2**32, U64],
    "bins at the ends of their forms": [b"", bytes(255), bytes(256)],
    "texts at the ends of their forms": ["", "a" * 31, "a" * 32, "a" * 255, "a" * 256, "\x00\x7f"],
    "15 fields": [0] * 15,
    "16 fields": [0] * 16,
    "1,024 fields": [0] * 1_024,
    "arrays in arrays": [[[[]], []], [1, [b"", "a"]]],
}


def shown(value: Any) -> Any:
    if isinstance(value, str):
        return {"text": value}
    return [shown(one) for one in value] if isinstance(value, list) else value


def changes(data: bytes, table: Range) -> Iterator[tuple[str, bytes]]:
    for name, change in table.items():
        fields = fields_of(data)
        change(fields)
        yield name, pack(fields)


def make(stage: Stage) -> None:
    def right(structure: str, name: str, data: bytes) -> None:
        stage.add("encodings", "encoding", f"{structure}: {name}", structure=structure, bytes=data, result=shown(fields_of(data)))

    def refused(structure: str, name: str, data: bytes, code: str = "malformed") -> None:
        stage.add("encodings", "encoding", f"{structure}: {name}", structure=structure, bytes=data, code=code)

    for name, fields in ARRAYS.items():
        right("array", name, pack(fields))
    for name, data in wrong([1, b"ab", "ab", [2]], words("number bin text array")):
        if name not in ALLOWED and not name.endswith(TYPES):
            refused("array", name, data)
    for structure, (data, names, ranges) in NAMED.items():
        right(structure, "as it should be", data)
        for name, changed in [*wrong(fields_of(data), names), *changes(data, ranges[0])]:
            refused(structure, name, changed)
        for name, changed in changes(data, ranges[1]):
            right(structure, name, changed)
    data, _, _ = NAMED["hello_b"]
    for name, changed in changes(data, {f"version {version}": put(0, value=version) for version in (0, 2, 255)}):
        refused("hello_b", name, changed, "version")


ALLOWED = {"an empty array", "in an array", "a field less", "its first field missing", "a field more"}
"""An array of no structure may have these."""


TYPES = (": nil", ": true", ": a number", ": text", ": bytes", ": an array", ": its text as bin", ": its bytes as text")
"""All of them may stand in the array of some structure."""

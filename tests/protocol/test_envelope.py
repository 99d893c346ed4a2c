"""Envelope, plaintext and content."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest

from bus.errors import RemoteProtocolError
from bus.protocol import envelope
from bus.protocol.proof import Proof

PROOF = Proof(1, b"s" * 32, 3, 2, b"p" * 32, b"g" * 64, b"", b"b" * 16)


def test_an_envelope_is_a_header_and_what_is_sealed():
    assert envelope.split(envelope.join(b"header", b"sealed")) == (b"header", b"sealed")
    assert envelope.join(b"header", b"sealed") == msgpack.packb([b"header", b"sealed"])


def lengths_of(size: int) -> list[bytes]:
    """Every way to say that a bin of so many bytes follows; the first is the shortest."""
    return [head + size.to_bytes(width, "big") for head, width in ((b"\xc4", 1), (b"\xc5", 2), (b"\xc6", 4)) if size < 256**width]


@pytest.mark.parametrize("sealed", [0, 1, 255, 256, 257, 65_535, 65_536])
@pytest.mark.parametrize("header", [0, 1, 255, 256, 1_024])
def test_the_shortest_lengths_alone_are_an_envelope(header: int, sealed: int):
    parts = bytes(range(256)) * 4, b"\xc5" * sealed
    head = parts[0][:header]
    for place, (one, other) in enumerate((one, other) for one in lengths_of(header) for other in lengths_of(sealed)):
        data = b"\x92" + one + head + other + parts[1]
        wrong = [data[:-1], data + b"\0", b"\x93" + data[1:]]
        if place:
            wrong.append(data)
        else:
            assert envelope.split(data) == (head, parts[1])
        for bad in wrong:
            with pytest.raises(RemoteProtocolError):
                envelope.split(bad)


def test_what_is_sealed_is_a_proof_and_a_body():
    data = envelope.plaintext(PROOF, b"body")
    assert data == msgpack.packb([list(PROOF), b"body"])
    assert envelope.split_plaintext(data) == (PROOF, b"body")


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha3_256", "sha3_384"])
def test_the_content_covers_blind_header_and_body(hash_name: str):
    new = getattr(hashlib, hash_name)
    expected = new(b"tpmbus/1 envelope" + b"b" * 16 + b"\x00\x00\x00\x06header" + new(b"body").digest()).digest()
    assert envelope.content(b"header", b"body", blind=b"b" * 16, hash_name=hash_name.replace("_", "-")) == expected


ENVELOPES: dict[str, bytes] = {
    "nothing": b"",
    "one part": msgpack.packb([b"h"]),
    "three parts": msgpack.packb([b"h", b"s", b""]),
    "text": msgpack.packb(["h", b"s"]),
    "a number": msgpack.packb([b"h", 1]),
    "a header of more than 1 KiB": msgpack.packb([bytes(1025), b"s"]),
    "more than 1 MiB": msgpack.packb([b"h", bytes(1 << 20)]),
    "something behind": msgpack.packb([b"h", b"s"]) + b"\x00",
}


@pytest.mark.parametrize("data", ENVELOPES.values(), ids=ENVELOPES.keys())
def test_an_envelope_of_another_form_is_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        envelope.split(data)
    assert caught.value.reason == "malformed"


def proof(**changes: Any) -> bytes:
    return msgpack.packb([list((PROOF._asdict() | changes).values()), b"body"])


PLAINTEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a proof alone": msgpack.packb([list(PROOF)]),
    "three parts": msgpack.packb([list(PROOF), b"", b""]),
    "a body of text": msgpack.packb([list(PROOF), "body"]),
    "a proof of bytes": msgpack.packb([b"proof", b"body"]),
    "a proof of seven": msgpack.packb([list(PROOF)[:-1], b"body"]),
    "a proof of nine": msgpack.packb([[*PROOF, 0], b"body"]),
    "a suite beyond a byte": proof(suite=256),
    "a negative suite": proof(suite=-1),
    "a suite that is true": proof(suite=True),
    "a signer of 31 bytes": proof(signer=bytes(31)),
    "a batch beyond the largest": proof(n=65_537),
    "an index beyond the largest": proof(place=65_536),
    "a negative index": proof(place=-1),
    "a path beyond the deepest": proof(path=bytes(769)),
    "a signature of no length": proof(signature=b""),
    "a signature of 65 bytes": proof(signature=bytes(65)),
    "a cosignature of another length": proof(cosignature=bytes(3308)),
    "a blind of 15 bytes": proof(blind=bytes(15)),
    "a path of text": proof(path="p"),
}


@pytest.mark.parametrize("data", PLAINTEXTS.values(), ids=PLAINTEXTS.keys())
def test_a_plaintext_of_another_form_is_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        envelope.split_plaintext(data)
    assert caught.value.reason == "malformed"

"""An envelope: a header in clear, and what is sealed under it.

    envelope  = [header: bin, sealed: bin]
    plaintext = [proof, body: bin]
    content   = H("tpmbus/1 envelope" | blind | u32be(len(header)) | header | H(body))

The content is what a proof stands for. The blind hides it from readers of other envelopes in the same batch, who get its leaf.
"""

from __future__ import annotations

from typing import Final

from bus.protocol import contexts
from bus.protocol.codec import malformed, pack, unpack
from bus.protocol.header import GRANT, MAX_HEADER_BYTES, VERSION
from bus.protocol.proof import PROOF_FIELDS, Proof
from bus.protocol.suites import HASHES

MAX_ENVELOPE_BYTES: Final = 1 << 20

_KIND_AFTER: Final = {b"\xc4": 3, b"\xc5": 4}
"""Where a header begins, by the byte that says how long its length is."""
_BEGINS: Final = b"\x92\xc4"
"""An array of two, and first a bin whose length is in one byte; that of a second one is in two."""
_MAX_U8: Final = 0xFF
_MAX_U16: Final = 0xFFFF
_GRANT_BEGINS: Final = b"\x9f" + bytes([VERSION, GRANT])


def content(header: bytes, body: bytes, *, blind: bytes, hash_name: str) -> bytes:
    new = HASHES[hash_name]
    return bytes(new(contexts.ENVELOPE + blind + len(header).to_bytes(4, "big") + header + new(body).digest()).digest())


def join(header: bytes, sealed: bytes) -> bytes:
    return pack((header, sealed))


def split(envelope: bytes) -> tuple[bytes, bytes]:
    """Header and sealed part. Raises RemoteProtocolError("malformed")."""
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise malformed("an envelope of more than 1 MiB")
    if envelope[:2] == _BEGINS:  # as most do, and then the lengths alone say whether this is the one encoding of two bins
        end = 3 + int.from_bytes(envelope[2:3], "big")
        size = len(envelope) - end - 3
        if _MAX_U8 < size <= _MAX_U16 and envelope[end : end + 3] == b"\xc5" + size.to_bytes(2, "big"):
            return envelope[3:end], envelope[end + 3 :]
    fields = unpack(envelope, longest=2, arrays=1)
    if [*map(type, fields)] != [bytes, bytes] or len(fields[0]) > MAX_HEADER_BYTES:
        raise malformed("an envelope is a header and what is sealed")
    return fields[0], fields[1]


def is_grant(envelope: bytes) -> bool:
    """Whether its header says that it is one. Looks at nothing else: what has no right form is for whoever parses it."""
    return envelope[_KIND_AFTER.get(envelope[1:2], 0) :][:3] == _GRANT_BEGINS


def plaintext(proof: Proof, body: bytes) -> bytes:
    return pack((proof, body))


def split_plaintext(data: bytes) -> tuple[Proof, bytes]:
    """Proof and body. Raises RemoteProtocolError("malformed")."""
    fields = unpack(data, longest=PROOF_FIELDS, arrays=2)
    if len(fields) != 2 or type(fields[1]) is not bytes:
        raise malformed("what is sealed is a proof and a body")
    return Proof.parse(fields[0]), fields[1]

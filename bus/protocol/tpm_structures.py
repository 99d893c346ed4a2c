"""The TPM's own structures, as far as others must read them: credentials, public areas, attestations, signatures.

TPM 2.0 part 2. All numbers are big-endian; a TPM2B is a 16-bit size and that many bytes. These parsers take bytes from
strangers: any bytes parse or raise RemoteProtocolError("malformed"), nothing is left over, and what parses re-encodes
identically. What they do not do is believe: a structure that parses proves nothing until its signature is checked.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bus.errors import RemoteProtocolError

ATTEST_MAGIC: Final = 0xFF544347
"""TPM_GENERATED_VALUE: a restricted key signs nothing that begins so unless the TPM made it."""
CREDENTIAL_FILE_MAGIC: Final = 0xBADCC0DE
MAX_ENCRYPTED_SECRET_BYTES: Final = 512
MAX_ID_OBJECT_BYTES: Final = 2 + 64 + 2 + 64
"""Size and HMAC, size and credential, each as long as the longest hash."""
MAX_PUBLIC_BYTES: Final = 2_048

_DIGEST_BYTES: Final = frozenset({20, 32, 48, 64})
_NAME_HASHES: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512", 0x0027: "sha3_256", 0x0028: "sha3_384"}
_RSASSA, _RSAPSS, _ECDSA = 0x0014, 0x0016, 0x0018
_CERTIFY, _QUOTE, _CREATION = 0x8017, 0x8018, 0x801A


class SignatureScheme(IntEnum):
    RSASSA = _RSASSA
    RSAPSS = _RSAPSS
    ECDSA = _ECDSA


@dataclass(frozen=True, slots=True)
class IdObject:
    """TPM2B_ID_OBJECT: u16 size, u16 size of the HMAC, HMAC, and the rest, which is encrypted with its size inside."""

    hmac: bytes
    enc: bytes

    @classmethod
    def parse(cls, data: bytes) -> IdObject:
        reader = Reader(_whole_tpm2b(data, MAX_ID_OBJECT_BYTES))
        hmac, enc = reader.tpm2b(64), reader.rest()
        if len(hmac) not in _DIGEST_BYTES:
            raise _malformed(f"an HMAC of {len(hmac)} bytes is of no hash")
        if not 3 <= len(enc) <= 66:
            raise _malformed(f"a credential of {len(enc)} bytes with its size has 3 to 66")
        return cls(hmac, enc)

    def encode(self) -> bytes:
        return _tpm2b(_tpm2b(self.hmac) + self.enc)


@dataclass(frozen=True, slots=True)
class EncryptedSecret:
    """TPM2B_ENCRYPTED_SECRET: as long as the modulus for an RSA endorsement key, a point (two TPM2B) for an ECC one."""

    secret: bytes

    @classmethod
    def parse(cls, data: bytes) -> EncryptedSecret:
        secret = _whole_tpm2b(data, MAX_ENCRYPTED_SECRET_BYTES)
        if not secret:
            raise _malformed("an encrypted secret is not empty")
        return cls(secret)

    def encode(self) -> bytes:
        return _tpm2b(self.secret)


def split_credential_file(data: bytes) -> tuple[bytes, bytes]:
    """What `tpm2_makecredential` writes: magic, version 1, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET. Gives both, marshalled."""
    reader = Reader(data)
    if reader.u32() != CREDENTIAL_FILE_MAGIC or reader.u32() != 1:
        raise _malformed("no credential file of version 1")
    credential, secret = _tpm2b(reader.tpm2b(MAX_ID_OBJECT_BYTES)), _tpm2b(reader.tpm2b(MAX_ENCRYPTED_SECRET_BYTES))
    reader.end()
    return IdObject.parse(credential).encode(), EncryptedSecret.parse(secret).encode()


@dataclass(frozen=True, slots=True)
class PublicArea:
    """TPM2B_PUBLIC. What follows the attributes depends on the type, and is kept as it is: a Name is made of these bytes."""

    type: int
    name_hash: int
    attributes: int
    rest: bytes

    @classmethod
    def parse(cls, data: bytes) -> PublicArea:
        reader = Reader(_whole_tpm2b(data, MAX_PUBLIC_BYTES))
        kind, name_hash, attributes, rest = reader.u16(), reader.u16(), reader.u32(), reader.rest()
        if name_hash not in _NAME_HASHES:
            raise _malformed(f"0x{name_hash:x} is no hash that names are made with")
        return cls(kind, name_hash, attributes, rest)

    def encode(self) -> bytes:
        return _tpm2b(self._area())

    @property
    def name(self) -> bytes:
        """The TPM Name: the hash algorithm, and the hash of the area without its size."""
        digest = hashlib.new(_NAME_HASHES[self.name_hash], self._area(), usedforsecurity=False).digest()
        return self.name_hash.to_bytes(2, "big") + digest

    def _area(self) -> bytes:
        return struct.pack(">HHI", self.type, self.name_hash, self.attributes) + self.rest


@dataclass(frozen=True, slots=True)
class ClockInfo:
    clock: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True)
class CertifyInfo:
    """Which key was certified: believe nothing but its Name."""

    name: bytes
    qualified_name: bytes


@dataclass(frozen=True, slots=True)
class CreationInfo:
    name: bytes
    creation_hash: bytes


@dataclass(frozen=True, slots=True)
class PcrSelection:
    hash: int
    bitmap: bytes

    @property
    def pcrs(self) -> tuple[int, ...]:
        return tuple(place * 8 + bit for place, byte in enumerate(self.bitmap) for bit in range(8) if byte >> bit & 1)


@dataclass(frozen=True, slots=True)
class QuoteInfo:
    selections: tuple[PcrSelection, ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST: what a TPM says, of something in it, at a moment of its clock, with the nonce that it was given."""

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware: int
    attested: CertifyInfo | QuoteInfo | CreationInfo

    @classmethod
    def parse(cls, data: bytes) -> Attest:
        reader = Reader(data)
        if reader.u32() != ATTEST_MAGIC:
            raise _malformed("no TPM made this: it does not begin with ff 54 43 47")
        kind = reader.u16()
        signer, extra = _name(reader), reader.tpm2b(64)
        clock = ClockInfo(reader.u64(), reader.u32(), reader.u32(), reader.flag())
        firmware = reader.u64()
        if kind == _CERTIFY:
            attested: CertifyInfo | QuoteInfo | CreationInfo = CertifyInfo(_name(reader), _name(reader))
        elif kind == _QUOTE:
            attested = QuoteInfo(_selections(reader), reader.tpm2b(64))
        elif kind == _CREATION:
            attested = CreationInfo(_name(reader), reader.tpm2b(64))
        else:
            raise _malformed(f"an attestation of type 0x{kind:x}")
        reader.end()
        return cls(signer, extra, clock, firmware, attested)

    def encode(self) -> bytes:
        kind, body = _attested(self.attested)
        clock = struct.pack(">QIIB", self.clock.clock, self.clock.reset_count, self.clock.restart_count, self.clock.safe)
        head = struct.pack(">IH", ATTEST_MAGIC, kind) + _tpm2b(self.qualified_signer) + _tpm2b(self.extra_data)
        return head + clock + struct.pack(">Q", self.firmware) + body


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE. `parts` are r and s, or the one number of RSA."""

    scheme: SignatureScheme
    hash: int
    parts: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> Signature:
        reader = Reader(data)
        number = reader.u16()
        try:
            scheme = SignatureScheme(number)
        except ValueError:
            raise _malformed(f"a signature of scheme 0x{number:x}") from None
        name = reader.u16()
        parts = (reader.tpm2b(66), reader.tpm2b(66)) if scheme is SignatureScheme.ECDSA else (reader.tpm2b(512),)
        reader.end()
        if not all(parts):
            raise _malformed("a signature without its numbers")
        return cls(scheme, name, parts)

    def encode(self) -> bytes:
        return struct.pack(">HH", self.scheme, self.hash) + b"".join(_tpm2b(part) for part in self.parts)


def _attested(body: CertifyInfo | QuoteInfo | CreationInfo) -> tuple[int, bytes]:
    if isinstance(body, CertifyInfo):
        return _CERTIFY, _tpm2b(body.name) + _tpm2b(body.qualified_name)
    if isinstance(body, CreationInfo):
        return _CREATION, _tpm2b(body.name) + _tpm2b(body.creation_hash)
    lines = b"".join(struct.pack(">HB", line.hash, len(line.bitmap)) + line.bitmap for line in body.selections)
    return _QUOTE, struct.pack(">I", len(body.selections)) + lines + _tpm2b(body.digest)


def _name(reader: Reader) -> bytes:
    """TPM2B_NAME: empty, a handle, or a hash algorithm and its hash."""
    name = reader.tpm2b(66)
    if len(name) not in (0, 4) and len(name) - 2 not in _DIGEST_BYTES:
        raise _malformed(f"a Name of {len(name)} bytes")
    return name


def _selections(reader: Reader) -> tuple[PcrSelection, ...]:
    count = reader.u32()
    if count > 16:
        raise _malformed(f"{count} banks of registers")
    return tuple(PcrSelection(reader.u16(), reader.take(reader.small(4))) for _ in range(count))


def _tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _whole_tpm2b(data: bytes, limit: int) -> bytes:
    reader = Reader(data)
    inner = reader.tpm2b(limit)
    reader.end()
    return inner


def _malformed(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("malformed", detail)


class Reader:
    """Takes bytes from the front, and never more than there are."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _malformed(f"{count} bytes are due and {len(self._data) - self._at} are left")
        part = self._data[self._at : end]
        self._at = end
        return part

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def small(self, limit: int) -> int:
        value = self.take(1)[0]
        if value > limit:
            raise _malformed(f"{value} where {limit} is the most")
        return value

    def flag(self) -> bool:
        return bool(self.small(1))

    def tpm2b(self, limit: int) -> bytes:
        size = self.u16()
        if size > limit:
            raise _malformed(f"a size of {size} where {limit} is the most")
        return self.take(size)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self._at != len(self._data):
            raise _malformed(f"{len(self._data) - self._at} bytes are left over")

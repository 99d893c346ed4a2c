"""The key in a TPM's public area (TPMT_PUBLIC, TPM 2.0 part 2), read as far as trust rests on it.

A Name is the hash of these bytes, so they are kept as they are and never rebuilt from a public key. What is read: which key it
is, what its chip may do with it (the attributes), and how it signs or wraps. Only shapes that an endorsement, attestation or
identity key can have are accepted; all else is `malformed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.protocol.codec import malformed
from bus.protocol.tpm_structures import PublicArea, Reader

TPM_ALG_NULL: Final = 0x0010
TPM_ALG_ECDSA: Final = 0x0018
HASHES: Final = {0x000B: "sha256", 0x000C: "sha384"}
"""The hashes that names, schemes and credentials may use here; SHA-1 is none of them."""

_RSA, _ECC, _AES, _CFB = 0x0001, 0x0023, 0x0006, 0x0043
_RSASSA, _RSAPSS = 0x0014, 0x0016
_SCHEMES: Final = {_RSA: {_RSASSA, _RSAPSS}, _ECC: {TPM_ALG_ECDSA}}
_CURVES: Final = {0x0003: (ec.SECP256R1(), 32), 0x0004: (ec.SECP384R1(), 48)}
_RSA_BITS: Final = frozenset({2048, 3072, 4096})
_DEFAULT_EXPONENT: Final = 65_537
_POLICY_BYTES: Final = frozenset({0, 32, 48})


class Attributes(IntFlag):
    """TPMA_OBJECT: those on which something rests."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


IN_THIS_CHIP: Final = Attributes.FIXED_TPM | Attributes.FIXED_PARENT | Attributes.SENSITIVE_DATA_ORIGIN
"""The chip made the key itself, and can never give it away."""


@dataclass(frozen=True, slots=True)
class TpmKey:
    """`symmetric_bits` is 0 and `scheme` TPM_ALG_NULL where the area names none."""

    name: bytes
    """The TPM Name."""
    name_hash: str
    attributes: Attributes
    symmetric_bits: int
    scheme: int
    scheme_hash: str
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    spki: bytes

    @classmethod
    def parse(cls, public: bytes) -> TpmKey:
        """From a marshalled TPM2B_PUBLIC. Raises RemoteProtocolError("malformed")."""
        area = PublicArea.parse(public)
        if area.type not in _SCHEMES or area.name_hash not in HASHES:
            raise malformed("a key of this type, or with Names of this hash, is none of ours")
        reader = Reader(area.rest)
        if len(reader.tpm2b(64)) not in _POLICY_BYTES:
            raise malformed("an authorization policy of no hash that is known here")
        symmetric = _symmetric(reader)
        scheme, scheme_hash = _scheme(reader, _SCHEMES[area.type])
        key = _rsa_key(reader) if area.type == _RSA else _ecc_key(reader)
        reader.end()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(area.name, HASHES[area.name_hash], Attributes(area.attributes), symmetric, scheme, scheme_hash, key, spki)

    def has(self, attributes: Attributes) -> bool:
        return self.attributes & attributes == attributes


def _symmetric(reader: Reader) -> int:
    algorithm = reader.u16()
    if algorithm == TPM_ALG_NULL:
        return 0
    bits, mode = reader.u16(), reader.u16()
    if algorithm != _AES or mode != _CFB or bits not in (128, 256):
        raise malformed("a storage key that wraps with anything but AES in CFB mode")
    return bits


def _scheme(reader: Reader, known: set[int]) -> tuple[int, str]:
    scheme = reader.u16()
    if scheme == TPM_ALG_NULL:
        return scheme, ""
    number = reader.u16()
    if scheme not in known or number not in HASHES:
        raise malformed("a signature scheme that no key of ours has")
    return scheme, HASHES[number]


def _rsa_key(reader: Reader) -> rsa.RSAPublicKey:
    bits, exponent, modulus = reader.u16(), reader.u32() or _DEFAULT_EXPONENT, reader.tpm2b(512)
    n = int.from_bytes(modulus, "big")
    if bits not in _RSA_BITS or len(modulus) * 8 != bits or n.bit_length() != bits or n % 2 == 0 or exponent != _DEFAULT_EXPONENT:
        raise malformed("an RSA key of another size or exponent than it says or may have")
    return rsa.RSAPublicNumbers(exponent, n).public_key()


def _ecc_key(reader: Reader) -> ec.EllipticCurvePublicKey:
    curve, kdf, x, y = reader.u16(), reader.u16(), reader.tpm2b(66), reader.tpm2b(66)
    if curve not in _CURVES or kdf != TPM_ALG_NULL:
        raise malformed("a key on a curve, or with a key derivation, that none of ours has")
    group, size = _CURVES[curve]
    if not 0 < len(x) <= size or not 0 < len(y) <= size:
        raise malformed("a point of another size than its curve's")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), group).public_key()
    except ValueError as error:
        raise malformed("a point that is not on its curve") from error

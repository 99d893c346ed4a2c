"""A chip made of software, and its maker: what a TPM says and opens, built by other means than those under test.

Structures are packed by hand, credentials opened with the library's OAEP and key derivation.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

# Our neighbour: pytest's importlib mode has no packages of tests.
import ready_rsa
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = 1_800_000_000_000
FIXED = 0x02 | 0x10 | 0x20
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
EK_ATTRIBUTES = FIXED | 0x80 | RESTRICTED | DECRYPT
AK_ATTRIBUTES = FIXED | 0x40 | 0x400 | RESTRICTED | SIGN
IDENTITY_ATTRIBUTES = FIXED | 0x40 | 0x400 | SIGN
EK_PURPOSE = x509.ObjectIdentifier("2.23.133.8.1")
CURVES = {"secp256r1": (3, 32), "secp384r1": (4, 48)}
HASH_NUMBERS = {"sha256": 0x0B, "sha384": 0x0C}
LIBRARY_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


def tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def spki_of(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_area(key, attributes, *, symmetric=None, scheme=None, name_hash="sha256", policy=b"") -> bytes:
    """A TPM2B_PUBLIC. `symmetric`: AES bits; `scheme`: (number, hash)."""
    public = key.public_key()
    is_rsa = isinstance(public, rsa.RSAPublicKey)
    area = struct.pack(">HHI", 1 if is_rsa else 0x23, HASH_NUMBERS[name_hash], attributes) + tpm2b(policy)
    area += struct.pack(">HHH", 6, symmetric, 0x43) if symmetric else struct.pack(">H", 0x10)
    area += struct.pack(">HH", scheme[0], HASH_NUMBERS[scheme[1]]) if scheme else struct.pack(">H", 0x10)
    if is_rsa:
        area += struct.pack(">HI", public.key_size, 0) + tpm2b(public.public_numbers().n.to_bytes(public.key_size // 8, "big"))
    else:
        number, size = CURVES[public.curve.name]
        point = public.public_numbers()
        area += struct.pack(">HH", number, 0x10) + tpm2b(point.x.to_bytes(size, "big")) + tpm2b(point.y.to_bytes(size, "big"))
    return tpm2b(area)


def name_of(public: bytes, hash_name="sha256") -> bytes:
    return struct.pack(">H", HASH_NUMBERS[hash_name]) + hashlib.new(hash_name, public[2:]).digest()


def rsa_key(which: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    """`which` tells them apart."""
    return ready_rsa.rsa_key(bits, which)


class Maker:
    """A manufacturer: a root, one CA under it, and the certificates of its chips."""

    def __init__(self, name="maker", *, pathlen=None, intermediate_pathlen=0, key_cert_sign=True, hash_=None) -> None:
        self.root_key, self.ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = ca_certificate(f"{name} root", self.root_key, f"{name} root", self.root_key, pathlen=pathlen)
        self.ca = ca_certificate(
            f"{name} ca", self.ca_key, f"{name} root", self.root_key, pathlen=intermediate_pathlen, key_cert_sign=key_cert_sign
        )
        self.name, self.hash = name, hash_ or hashes.SHA256()

    def certify(
        self, key, *, edit=lambda builder: builder, purpose=EK_PURPOSE, usage="key_encipherment", issuer=None, **dates
    ) -> bytes:
        """An EK certificate: no subject, a critical directory name, and whatever `edit` adds."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(name(issuer or f"{self.name} ca"))
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(dates.get("begins", moment(-1)))
            .not_valid_after(dates.get("ends", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)))
            .add_extension(directory_name(), critical=True)
        )
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if usage is not None:
            builder = builder.add_extension(key_usage(usage), critical=True)
        return edit(builder).sign(self.ca_key, self.hash).public_bytes(Encoding.DER)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def moment(days: float) -> datetime:
    return datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(days=days)


def directory_name() -> x509.SubjectAlternativeName:
    model = x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.2"), "made", _validate=False)
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name([model]))])


def key_usage(*which: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
    flags = {use: use in which for use in (*every, "crl_sign", "encipher_only", "decipher_only")}
    return x509.KeyUsage(**flags)


def ca_certificate(subject, key, issuer, issuer_key, *, pathlen=None, key_cert_sign=True, ca=True, ends=None, edit=None) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(3)
        .not_valid_before(moment(-100))
        .not_valid_after(ends or moment(1000))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=pathlen if ca else None), critical=True)
        .add_extension(key_usage("key_cert_sign" if key_cert_sign else "digital_signature"), critical=True)
    )
    builder = edit(builder) if edit else builder
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass
class MadeChip:
    """It has an endorsement key with a certificate, an attestation key, and identity keys by name."""

    maker: Maker
    ek: object = field(default_factory=lambda: rsa_key(0))
    ak: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ak_attributes: int = AK_ATTRIBUTES
    ek_hash_name: str = "sha256"
    ek_bits: int = 128

    def __post_init__(self) -> None:
        policy = bytes(hashlib.new(self.ek_hash_name).digest_size)
        self.ek_public = public_area(self.ek, EK_ATTRIBUTES, symmetric=self.ek_bits, name_hash=self.ek_hash_name, policy=policy)
        usage = "key_encipherment" if isinstance(self.ek, rsa.RSAPrivateKey) else "key_agreement"
        self.certificate = self.maker.certify(self.ek, usage=usage)
        self.ak_public = public_area(self.ak, self.ak_attributes, scheme=(0x18, "sha256"))
        self.ek_hash = hashlib.sha256(spki_of(self.ek)).digest()

    def activate(self, id_object: bytes, encrypted: bytes, *, name: bytes | None = None) -> bytes | None:
        """What the credential holds; None where the chip would refuse it."""
        name, algorithm = name or name_of(self.ak_public), LIBRARY_HASHES[self.ek_hash_name]
        size = algorithm.digest_size
        body, secret = id_object[2:], encrypted[2:]
        integrity, identity = body[2 : 2 + size], body[2 + size :]
        if isinstance(self.ek, rsa.RSAPrivateKey):
            seed = self.ek.decrypt(secret, padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\0"))
        else:
            seed = self._ecc_seed(secret)
        if not hmac.compare_digest(
            integrity, hmac.digest(self._kdfa(seed, b"INTEGRITY", b"", size), identity + name, self.ek_hash_name)
        ):
            return None
        decryptor = Cipher(AES(self._kdfa(seed, b"STORAGE", name, self.ek_bits // 8)), CFB(bytes(16))).decryptor()
        plain = decryptor.update(identity) + decryptor.finalize()
        return plain[2:] if int.from_bytes(plain[:2], "big") == len(plain) - 2 else None

    def _kdfa(self, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
        return KBKDFHMAC(
            LIBRARY_HASHES[self.ek_hash_name], Mode.CounterMode, size, 4, 4, CounterLocation.BeforeFixed, label, context, None
        ).derive(key)

    def _ecc_seed(self, point: bytes) -> bytes:
        size = self.ek.key_size // 8
        x, y = point[2 : 2 + size], point[4 + size :]
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), self.ek.curve)
        shared = self.ek.exchange(ec.ECDH(), numbers.public_key())
        mine = self.ek.public_key().public_numbers().x.to_bytes(size, "big")
        algorithm = LIBRARY_HASHES[self.ek_hash_name]
        return ConcatKDFHash(algorithm, algorithm.digest_size, b"IDENTITY\0" + x + mine).derive(shared)

    def certify(self, public: bytes, qualifying: bytes, *, kind=0x8017, magic=0xFF544347) -> tuple[bytes, bytes]:
        named = name_of(public)
        return self.say(struct.pack(">IH", magic, kind) + self._middle(qualifying) + tpm2b(named) + tpm2b(named))

    def quote(self, registers: dict[int, bytes], qualifying: bytes, *, bank=0x0B) -> tuple[bytes, bytes]:
        bitmap = sum(1 << pcr for pcr in registers).to_bytes(3, "little")
        digest = hashlib.sha256(b"".join(registers[pcr] for pcr in sorted(registers))).digest()
        body = struct.pack(">IHB", 1, bank, 3) + bitmap + tpm2b(digest)
        return self.say(struct.pack(">IH", 0xFF544347, 0x8018) + self._middle(qualifying) + body)

    def _middle(self, qualifying: bytes) -> bytes:
        return tpm2b(name_of(self.ak_public)) + tpm2b(qualifying) + struct.pack(">QIIBQ", 5, 1, 1, 1, 9)

    def say(self, attest: bytes, *, key=None, label=0x0B) -> tuple[bytes, bytes]:
        r, s = decode_dss_signature((key or self.ak).sign(attest, ec.ECDSA(hashes.SHA256())))
        return attest, struct.pack(">HH", 0x18, label) + tpm2b(r.to_bytes(32, "big")) + tpm2b(s.to_bytes(32, "big"))

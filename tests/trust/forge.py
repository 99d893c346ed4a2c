"""Certificates and revocation lists that are right but for one thing, signed by the root itself: only the reader refuses them.

A deviation is made in one of three places: in the extensions (`certificate(eku=..)`), in what is signed (`resigned(der, change)`),
or in what is around it (`rewrapped(der, ..)`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Our neighbour: pytest's importlib mode has no packages of tests.
from ready_rsa import rsa_key as ready
from small_authority import DAY, DOMAIN, NOW, spki

from bus.protocol.suites import IDENTITY_SUITES
from bus.trust.certificates import Pinned
from bus.trust.profiles import ARC, EXTENSION
from bus.trust.root import Root
from bus.trust.root_signature import ALGORITHM, HASH, PSS

P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
RSA3072, RSA2048, RSA3072_E3 = ready(3072), ready(2048), ready(3072, exponent=3)
ED25519 = ed25519.Ed25519PrivateKey.generate()

QUICK = IDENTITY_SUITES["ecc256/sha256"]
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
LEAF_USE = {"digital_signature": True}
USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def own(number: int) -> x509.ObjectIdentifier:
    return x509.ObjectIdentifier(f"{ARC}.{number}")


def use(**uses: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**(dict.fromkeys(USES, False) | uses))


def date(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def name(*texts: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in texts])


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def names(*others: x509.GeneralName, path: str = "agent", named: str = "DIRECTOR") -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([uri(f"spiffe://{DOMAIN}/{path}/{named}"), *others])


def private(value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(EXTENSION, value)


def pins(suite: str = QUICK.name, origin: str = "software-tpm", level: int = 1) -> x509.UnrecognizedExtension:
    return private(Pinned(IDENTITY_SUITES[suite], origin, level).encode())


def rsa_key(text: str) -> rsa.RSAPrivateKey:
    return {"3072": RSA3072, "2048": RSA2048, "3072 e=3": RSA3072_E3}[text]


class Forge:
    def __init__(self, root: Root, root_key: rsa.RSAPrivateKey) -> None:
        self.root, self.root_key = root, root_key
        self.ski = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()).digest

    def certificate(
        self,
        *,
        key: Any = P256,
        subject: x509.Name | None = None,
        issuer: x509.Name | None = None,
        serial: int = 77,
        begins: int = NOW,
        ends: int = NOW + 300 * DAY,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
        signing_key: Any = None,
        algorithm: Any = HASH,
        padding: Any = PSS,
        **changes: Any,
    ) -> bytes:
        """An agent's, of DIRECTOR. An extension is given as itself, as (itself, critical), or as None to leave it out."""
        extensions: dict[str, Any] = {
            "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
            "usage": (use(**LEAF_USE), True),
            "eku": (x509.ExtendedKeyUsage([own(1)]), False),
            "san": (names(), False),
            "aki": (x509.AuthorityKeyIdentifier(self.ski, None, None), False),
            "ski": (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            "pinned": (pins(), False),
        }
        for place, change in changes.items():
            critical = extensions[place][1]  # a KeyError is a mistake in the test
            extensions[place] = change if change is None or isinstance(change, tuple) else (change, critical)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or name("DIRECTOR"))
            .issuer_name(issuer or self.root.certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(date(begins))
            .not_valid_after(date(ends))
        )
        for extension in [*extensions.values(), *extra]:
            if extension is not None:
                builder = builder.add_extension(extension[0], critical=extension[1])
        made = builder.sign(signing_key or self.root_key, algorithm, rsa_padding=padding)
        return made.public_bytes(Encoding.DER)

    def tls(self, **changes: Any) -> bytes:
        facts = {
            "eku": x509.ExtendedKeyUsage([own(2), SERVER, CLIENT]),
            "san": names(path="tls"),
            "pinned": pins(origin="software", level=0),
            "ends": NOW + DAY,
        }
        return self.certificate(**(facts | changes))

    def trust(self, **changes: Any) -> bytes:
        facts = {
            "key": P384,
            "eku": x509.ExtendedKeyUsage([own(4)]),
            "san": names(path="trust"),
            "pinned": pins("ecc384/sha3-384", "software", 0),
        }
        return self.certificate(**(facts | changes))

    def root_certificate(self, key: Any = None, *, signing_key: Any = None, **changes: Any) -> bytes:
        key = key or self.root_key
        facts: dict[str, Any] = {
            "key": key,
            "subject": name("root"),
            "issuer": name("root"),
            "constraints": x509.BasicConstraints(ca=True, path_length=0),
            "usage": use(key_cert_sign=True, crl_sign=True),
            "eku": None,
            "san": None,
            "aki": None,
            "pinned": None,
            "ends": NOW + 3_652 * DAY,
            "signing_key": signing_key or key,
        }
        return self.certificate(**(facts | changes))

    def crl(
        self,
        *entries: x509.RevokedCertificate,
        number: int | None = 3,
        this: int = NOW,
        following: int = NOW + 7 * DAY,
        aki: bytes | None = b"",
        issuer: x509.Name | None = None,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
        signing_key: Any = None,
    ) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer or self.root.certificate.subject)
            .last_update(date(this))
            .next_update(date(following))
        )
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        if aki is not None:
            builder = builder.add_extension(x509.AuthorityKeyIdentifier(aki or self.ski, None, None), critical=False)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(signing_key or self.root_key, HASH, rsa_padding=PSS).public_bytes(Encoding.DER)

    # ---- beneath X.509 -----------------------------------------------------------------------------------------------------

    def resigned(self, der: bytes, change: Callable[[list[bytes]], None], key: Any = None) -> bytes:
        """With the fields of what is signed changed in place, and signed again."""
        fields = elements(content(elements(content(der))[0]))
        change(fields)
        return self.signed(tlv(0x30, b"".join(fields)), key)

    def signed(self, tbs: bytes, key: Any = None) -> bytes:
        return wrapped(tbs, ALGORITHM, (key or self.root_key).sign(tbs, PSS, HASH))


def entry(serial: int = 5, *extensions: tuple[x509.ExtensionType, bool], at: int = NOW) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date(at))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.build()


def tlv(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 0x80:
        return bytes([tag, length]) + body
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + body


def _head(data: bytes) -> tuple[int, int]:
    """Where the contents of the first element begin and end."""
    if data[1] < 0x80:
        return 2, 2 + data[1]
    begin = 2 + (data[1] & 0x7F)
    return begin, begin + int.from_bytes(data[2:begin], "big")


def content(data: bytes) -> bytes:
    begin, end = _head(data)
    return data[begin:end]


def elements(data: bytes) -> list[bytes]:
    found = []
    while data:
        _, end = _head(data)
        found.append(data[:end])
        data = data[end:]
    return found


def wrapped(tbs: bytes, algorithm: bytes, signature: bytes, *more: bytes, unused_bits: int = 0) -> bytes:
    return tlv(0x30, b"".join((tbs, algorithm, tlv(0x03, bytes([unused_bits]) + signature), *more)))


def rewrapped(der: bytes, *more: bytes, algorithm: bytes = ALGORITHM) -> bytes:
    """The same bytes signed, the same signature, and something else around them."""
    tbs, _, signature = elements(content(der))
    return wrapped(tbs, algorithm, content(signature)[1:], *more)


__all__ = ["CLIENT", "ED25519", "P256", "P384", "P521", "QUICK", "SERVER", "Forge", "spki"]

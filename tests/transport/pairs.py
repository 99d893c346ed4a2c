"""Both ends of a link of each kind, and certificates of TLS from a root of a few lines."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bus.testing.link_ear import turns
from bus.transport.dialing import dial
from bus.transport.link import Link
from bus.transport.listening_links import Door, listening
from bus.transport.memory import memory_pair
from bus.transport.tls import Tls, load_tls

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
        "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


class Root:
    def __init__(self, name: str = "root") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(
            self._builder(self.name, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(use("key_cert_sign", "crl_sign"), critical=True)
        )
        self.der = self.certificate.public_bytes(Encoding.DER)

    def issue(self, folder: Path, name: str, *, ends: dt.datetime = NOW + DAY, serial: int = 0) -> tuple[Path, Path]:
        """Files with a certificate for 127.0.0.1 and localhost, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, ends=ends, serial=serial)
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = self._sign(
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(use("digital_signature"), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
        )
        certificate, private = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, private

    def revoke(self, folder: Path, serial: int) -> Path:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW - DAY).next_update(NOW + DAY)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False).add_extension(aki, critical=False)
        path = folder / "crl.pem"
        path.write_bytes(builder.add_revoked_certificate(entry).sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path

    def _builder(self, subject: x509.Name, key: Any, *, ends: dt.datetime = NOW + DAY, serial: int = 0) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(min(NOW, ends) - DAY)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )

    def _sign(self, builder: Any) -> x509.Certificate:
        made: x509.Certificate = builder.sign(self.key, hashes.SHA256())
        return made


def use(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in uses for name in USES})


@dataclass(frozen=True)
class Papers:
    """What both ends need for TLS."""

    root: Root
    folder: Path
    server: Tls
    client: Tls

    @classmethod
    def make(cls, folder: Path) -> Papers:
        root = Root()
        server = load_tls(*root.issue(folder, "server"), roots=root.der, is_client=False)
        return cls(root, folder, server, load_tls(*root.issue(folder, "client"), roots=root.der, is_client=True))


@asynccontextmanager
async def over_sockets(url: str, papers: Papers | None = None) -> AsyncIterator[tuple[Link, Link]]:
    """(who dialled, who listened). Both are closed at the end, and it is waited for."""
    came: list[Link] = []
    arrived = anyio.Event()

    def on_link(link: Link) -> None:
        came.append(link)
        arrived.set()

    doors: list[Door] = []
    try:
        async with listening(url, on_link, tls=papers and papers.server) as door:
            doors.append(door)
            near = await dial(door.url, tls=papers and papers.client)
            came.append(near)
            with anyio.fail_after(10):
                await arrived.wait()
            yield near, next(link for link in came if link is not near)
    finally:
        with anyio.CancelScope(shield=True):
            for link in came:
                link.close(flush=False)
            for door in doors:
                await gone(door)
            await turns()


async def gone(door: Door) -> None:
    """No link that came in is left."""
    with anyio.fail_after(10):
        while door.links:
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def in_memory() -> AsyncIterator[tuple[Link, Link]]:
    yield memory_pair()


KINDS = ["memory", "memory:NAME", "unix", "tls"]


def pairs(kind: str, folder: Path, papers: Papers) -> Callable[[], Any]:
    if kind == "memory":
        return in_memory
    urls = {"memory:NAME": "memory:NAME", "unix": f"unix://{folder}/s/x.sock", "tls": "tls://127.0.0.1:0"}
    return lambda: over_sockets(urls[kind], papers if kind == "tls" else None)

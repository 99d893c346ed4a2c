"""What this machine shows over TLS: a key of its own, and a certificate for a day that names whoever has an identity.

    STATE/broker/tls/NAME.{key,pem}     what the hub shows to those who come; only while it listens at a tls:// address
    STATE/tls/NAME.{key,pem}            what an agent shows to a hub

TLS keeps strangers and listeners away and is nobody's identity: on it, the bus shakes hands as anywhere else. So the key is a
software key in a file, and is made anew with every certificate. A certificate is renewed when a third of its day is left; who was
revoked gets none, and the list of revocations is asked at every connection.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from bus.errors import BusError, VerificationError
from bus.identity import durable
from bus.identity.anchor import Anchor
from bus.identity.public_trust import read_crl
from bus.transport.address import TlsAddress
from bus.transport.tls import Tls, load_tls
from bus.trust import certificates, revocations
from bus.trust.certificates import DNS_NAME, Profile

RENEWED_BEFORE_MS: Final = 8 * 3_600_000
MAX_PEM_BYTES: Final = 64 << 10
Issue = Callable[[bytes], Awaitable[bytes]]
"""From the key (SubjectPublicKeyInfo) to the certificate, both DER. Raises AttestationError("not_enrolled")."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """What the certificate of a server names."""

    dns: tuple[str, ...] = ()
    ips: tuple[IPv4Address | IPv6Address, ...] = ()

    @classmethod
    def of(cls, *addresses: TlsAddress) -> Hosts:
        """Of a server that listens there; of one that listens everywhere, what this machine calls itself."""
        dns: dict[str, None] = {}
        ips: dict[IPv4Address | IPv6Address, None] = {}
        for address in addresses:
            try:
                found = ip_address(address.host)
            except ValueError:
                dns[address.host.lower()] = None
                continue
            if found.is_unspecified:
                dns |= dict.fromkeys(name for name in ("localhost", socket.gethostname().lower()) if DNS_NAME.fullmatch(name))
                ips |= dict.fromkeys((IPv4Address("127.0.0.1"), IPv6Address("::1")))
            else:
                ips[found] = None
        return cls(tuple(dns), tuple(ips))


NO_HOSTS: Final = Hosts()


class TlsPapers:
    """Of one name, in one folder. `hosts`: what its certificate has to name; of a client's, nothing."""

    def __init__(self, folder: Path, name: str, anchor: Anchor, public: Path, *, hosts: Hosts = NO_HOSTS) -> None:
        self.name = name
        self._folder, self._anchor, self._public, self._hosts = folder, anchor, public, hosts

    async def get(self, issue: Issue | None, *, is_client: bool, now_ms: int) -> Tls | None:
        """What to show now, believing the pinned root and the newest list of revocations; with a new certificate where one is due
        and `issue` gives it. None if there is no certificate.

        Raises VaultError, AttestationError, VerificationError("untrusted") for another certificate than was asked for: what was
        there before is kept.
        """
        if issue is not None and not await to_thread.run_sync(self._is_good, now_ms):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = await issue(_spki(key))
            self._check(certificate, key)
            await to_thread.run_sync(self._keep, key, certificate)
        if not await to_thread.run_sync(self._certificate.exists):
            return None
        return await to_thread.run_sync(lambda: self._load(is_client=is_client))

    @property
    def _certificate(self) -> Path:
        return self._folder / f"{self.name}.pem"

    @property
    def _key(self) -> Path:
        return self._folder / f"{self.name}.key"

    def _is_good(self, now_ms: int) -> bool:
        try:
            der = ssl.PEM_cert_to_DER_cert(self._read(self._certificate).decode("ascii"))
            found = certificates.read(der, root=self._anchor.root, domain=self._anchor.domain, profile=Profile.TLS)
            fits = _spki(load_pem_private_key(self._read(self._key), None)) == found.spki
            is_revoked = found.serial in revocations.read(read_crl(self._public), root=self._anchor.root).revoked
            dns, ips = certificates.hosts(der)
        except (OSError, ValueError, TypeError, BusError):
            return False
        lasts = found.not_after_ms - now_ms > RENEWED_BEFORE_MS
        return lasts and fits and not is_revoked and (found.name, Hosts(tuple(dns), tuple(ips))) == (self.name, self._hosts)

    def _read(self, path: Path) -> bytes:
        """The folder of a broker in a process of its own is the broker's to write in: whatever is there is no longer than this."""
        return durable.read(path, longest=MAX_PEM_BYTES) or b""

    def _check(self, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        """It may have come by a way that nobody believes."""
        found = certificates.read(certificate, root=self._anchor.root, domain=self._anchor.domain, profile=Profile.TLS)
        if (found.name, found.spki) != (self.name, _spki(key)):
            raise VerificationError("untrusted", agent=self.name, detail="a TLS certificate for another name or key than was asked")

    def _keep(self, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> None:
        """The key first: a process that is killed between the two has a certificate that does not fit, and gets both anew."""
        durable.make_folder(self._folder)
        durable.replace(self._key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        durable.replace(self._certificate, ssl.DER_cert_to_PEM_cert(certificate).encode())

    def _load(self, *, is_client: bool) -> Tls:
        crl = self._public / "crl.pem"
        try:
            return load_tls(self._certificate, self._key, roots=self._anchor.root.der, crl=crl, is_client=is_client)
        except OSError as error:  # of which ssl.SSLError is one
            raise durable.disk_error(error, self._certificate) from error


def _spki(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

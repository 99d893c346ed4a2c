"""Certificates, read so strictly that what is accepted could have been made by `builder` alone.

    root -> certificate, nothing between. A certificate is for one profile (see `profiles`), names one agent or broker of one
    domain in one SPIFFE URI, and pins its key's suite, origin and level in the private extension.

The order is part of the defence: form and algorithm, then the root's signature over the bytes as received, then everything else.
So a stranger's bytes never reach an X.509 library, and a leaf that signs another leaf is refused by the first check it meets.
Time and revocation are judged by whoever asks, at each use: they change while a certificate does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from bus.errors import VerificationError
from bus.protocol.names import is_agent_name
from bus.protocol.signatures import kind_of, load_public
from bus.protocol.suites import Suite
from bus.trust import root_signature, x509_form
from bus.trust.extension import Pinned
from bus.trust.profiles import BY_EKUS, EXTENSION, RULES, Profile, spiffe
from bus.trust.root import Root
from bus.trust.root_signature import strictly

__all__ = ["Certificate", "Pinned", "Profile", "Root", "builder", "hosts", "read"]

MAX_HOSTS: Final = 16
"""DNS names and addresses in one certificate."""
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)
"""Whole names in small letters: no wildcard, no final dot."""

_CONSTRAINTS: Final = x509.BasicConstraints(ca=False, path_length=None)
_USE: Final = x509_form.key_usage("digital_signature")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that the root signed and that keeps every rule of its profile. Nothing is said of time or revocation."""

    der: bytes = field(repr=False)
    signer: bytes
    """SHA-256 of the DER."""
    profile: Profile
    domain: str
    name: str
    spki: bytes = field(repr=False)
    public_key: PublicKeyTypes = field(repr=False, compare=False)
    suite: Suite
    origin: str
    level: int
    serial: int
    not_before_ms: int
    not_after_ms: int


def read(der: bytes, *, root: Root, domain: str, profile: Profile | None = None) -> Certificate:
    """The certificate, if the root signed it and it keeps every rule of its profile, which must be `profile` if one is given.

    Raises VerificationError("untrusted"). Says nothing about time or revocation.
    """
    found = _read(der, root, domain)
    if profile is not None and found.profile is not profile:
        detail = f"a certificate for {found.profile.path}, where one for {profile.path} is due"
        raise VerificationError("untrusted", agent=found.name, detail=detail)
    return found


def hosts(der: bytes) -> tuple[list[str], list[IPv4Address | IPv6Address]]:
    """DNS names and addresses of a certificate that was read."""
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return names.get_values_for_type(x509.DNSName), [one for one in addresses if isinstance(one, IPv4Address | IPv6Address)]


def builder(
    profile: Profile,
    *,
    root: Root,
    domain: str,
    name: str,
    spki: bytes,
    pinned: Pinned,
    serial: int,
    not_before_ms: int,
    not_after_ms: int,
    dns: Sequence[str] = (),
    ips: Sequence[IPv4Address | IPv6Address] = (),
) -> x509.CertificateBuilder:
    """What the root is to sign. It makes what it is told to: whether that keeps the profile's rules, `read` says."""
    others = [*(x509.DNSName(host) for host in dns), *(x509.IPAddress(address) for address in ips)]
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe(domain, profile, name)), *others])
    subject = x509_form.common_name(name)
    return (
        x509_form.start(subject, spki, serial=serial, not_before_ms=not_before_ms, not_after_ms=not_after_ms)
        .issuer_name(root.certificate.subject)
        .add_extension(_CONSTRAINTS, critical=True)
        .add_extension(_USE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(RULES[profile].ekus), critical=False)
        .add_extension(names, critical=False)
        .add_extension(root.authority_key, critical=False)
        .add_extension(x509.UnrecognizedExtension(EXTENSION, pinned.encode()), critical=False)
    )


@strictly("no certificate")
def _read(der: bytes, root: Root, domain: str) -> Certificate:
    form = x509_form.take_apart(der)
    root_signature.verify(root.public_key, form.tbs, form.signature)
    if form.issuer != root.subject:
        raise ValueError("its issuer is not the root")
    certificate = x509.load_der_x509_certificate(der)
    key = load_public(form.spki)
    profile, name, pinned = _judge_extensions(certificate.extensions, root, domain, key)
    rules = RULES[profile]
    if form.subject != x509_form.common_name(name).public_bytes():
        raise ValueError(f"its subject is not {name}")
    begins, ends = x509_form.lifetime(certificate, most_ms=rules.lifetime_ms)
    if begins < root.not_before_ms or ends > root.not_after_ms:
        raise ValueError("valid when the root is not")
    if pinned.suite not in rules.suites or pinned.origin not in rules.origins:
        raise ValueError(f"{pinned.suite} from {pinned.origin} is nothing that this profile allows")
    if kind_of(key) != pinned.suite.kind:
        raise ValueError(f"its key is not {pinned.suite.kind}")
    return Certificate(
        der=der, signer=hashlib.sha256(der).digest(), profile=profile, domain=domain, name=name, spki=form.spki, public_key=key,
        suite=pinned.suite, origin=pinned.origin, level=pinned.level, serial=form.serial, not_before_ms=begins, not_after_ms=ends,
    )  # fmt: skip


def _judge_extensions(found: x509.Extensions, root: Root, domain: str, key: PublicKeyTypes) -> tuple[Profile, str, Pinned]:
    """What they say: the profile, the name, and what is pinned. All of them must be there, and be what the profile says."""
    uses = found.get_extension_for_class(x509.ExtendedKeyUsage).value
    profile = BY_EKUS.get(tuple(uses))
    if profile is None:
        raise ValueError("for no profile, or for several")
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    unknown = (extension.value for extension in found if isinstance(extension.value, x509.UnrecognizedExtension))
    private = next(value for value in unknown if value.oid == EXTENSION)
    ski = x509.SubjectKeyIdentifier.from_public_key(x509_form.certifiable(key))
    # Those that were just taken must not be critical either: `demand` takes them for strangers.
    x509_form.demand(found, {_CONSTRAINTS: True, _USE: True, root.authority_key: False, ski: False})
    return profile, _name(names, profile, domain), Pinned.parse(private.value)


def _name(names: x509.SubjectAlternativeName, profile: Profile, domain: str) -> str:
    """From the one SPIFFE URI; beside it only what the profile allows."""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    named = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    if len(uris) != 1 or len(uris) + len(named) + len(addresses) != len(list(names)):
        raise ValueError("not exactly one URI, or names of other kinds")
    beginning = spiffe(domain, profile, "")
    name = uris[0].removeprefix(beginning)
    if not uris[0].startswith(beginning) or not is_agent_name(name):
        raise ValueError(f"its URI does not name a {profile.path} of {domain}")
    if (named or addresses) and not RULES[profile].hosts:
        raise ValueError(f"a certificate for {profile.path} names no hosts")
    if len(named) + len(addresses) > MAX_HOSTS or not all(DNS_NAME.fullmatch(host) for host in named):
        raise ValueError("too many hosts, or one that is no whole DNS name")
    if not all(isinstance(address, IPv4Address | IPv6Address) for address in addresses):
        raise ValueError("a network where an address is due")
    return name

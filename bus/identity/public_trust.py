"""What an authority shows everybody, read and verified: STATE/trust/public. It takes no key, no TPM and no lock.

    root.pem  ml-dsa-root.bin  crl.pem  statement.bin  bundle.bin  certificates/*.pem

Whoever reads here trusts the folder for the root: that is what an agent of another machine gets pinned when it is provisioned.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from bus.errors import VaultError, VerificationError
from bus.identity import durable
from bus.protocol.cosign import PUBLIC_BYTES
from bus.protocol.names import is_agent_name
from bus.trust import bundle as bundles
from bus.trust import certificates, revocations
from bus.trust import statement as statements
from bus.trust.bundle import Bundle
from bus.trust.certificates import Certificate, Profile, Root
from bus.trust.revocations import RevocationList
from bus.trust.statement import Statement
from bus.trust.view import TrustView

ML_DSA_ROOT: Final = "ml-dsa-root.bin"
_MAX_PEM_BYTES: Final = 2 * revocations.MAX_BYTES
_SPIFFE: Final = "spiffe://"


@dataclass(frozen=True, slots=True)
class PublicTrust:
    root: Root
    domain: str
    ml_dsa_root: bytes | None
    revocations: RevocationList
    statement: Statement | None
    """None before the first was issued."""
    bundle: Bundle | None
    """None before a policy was signed."""
    agents: tuple[Certificate, ...]
    """The identity in force of every agent that has one, by name."""

    def view(self) -> TrustView:
        """What agents judge by. Raises VerificationError("trust_stale") where there is no statement."""
        if self.statement is None:
            raise VerificationError("trust_stale", detail="no statement was issued yet: `tpmbus policy sign` issues the first")
        return TrustView(self.root, self.domain, self.statement, self.revocations)

    def holds(self, now_ms: int) -> bool:
        """Whether the statement says what is so, and has half of its life before it."""
        try:
            view = self.view()
            view.check_fresh(now_ms)
        except VerificationError:
            return False
        said, bundle = view.statement, self.bundle
        says = bundle is not None and (said.policy_version, said.policy_digest) == (bundle.version, bundle.digest)
        return says and not view.half_life_passed(now_ms)

    @property
    def revoked(self) -> tuple[str, ...]:
        """Names that were revoked and have no certificate since."""
        enrolled = {certificate.name for certificate in self.agents}
        listed = self.statement.agents if self.statement is not None else {}
        return tuple(name for name, (generation, _) in listed.items() if generation and name not in enrolled)


def read_public(folder: Path) -> PublicTrust:
    """What is in STATE/trust/public.

    Raises VaultError("missing") where no authority was made yet, and what the readers of each document raise.
    """
    root = read_root(folder)
    domain = domain_of(root)
    ml_dsa_root = durable.read(folder / ML_DSA_ROOT, longest=PUBLIC_BYTES)
    return PublicTrust(
        root=root,
        domain=domain,
        ml_dsa_root=ml_dsa_root,
        revocations=revocations.read(read_crl(folder), root=root),
        statement=_statement(folder, root, domain, ml_dsa_root),
        bundle=_bundle(folder, root, domain, ml_dsa_root),
        agents=_agents(folder / "certificates", root, domain),
    )


def read_statement(folder: Path) -> Statement | None:
    """The trust statement alone; None before the first was issued."""
    root = read_root(folder)
    return _statement(folder, root, domain_of(root), durable.read(folder / ML_DSA_ROOT, longest=PUBLIC_BYTES))


def read_bundle(folder: Path) -> Bundle | None:
    """The signed policy alone; None before the first was signed."""
    root = read_root(folder)
    return _bundle(folder, root, domain_of(root), durable.read(folder / ML_DSA_ROOT, longest=PUBLIC_BYTES))


def read_root(folder: Path) -> Root:
    return Root.of(_der(folder / "root.pem", "CERTIFICATE"))


def read_crl(folder: Path) -> bytes:
    """The revocation list as it lies there, DER."""
    return _der(folder / "crl.pem", "X509 CRL")


def read_agent(folder: Path, name: str, *, root: Root, domain: str) -> Certificate | None:
    """The identity in force of one agent; None if it has none. Raises VaultError("damaged"), VerificationError("untrusted")."""
    path = folder / "certificates" / f"{name}.pem"
    if not is_agent_name(name) or not path.exists():
        return None
    return certificates.read(_der(path, "CERTIFICATE"), root=root, domain=domain, profile=Profile.AGENT)


def read_broker(folder: Path, name: str, *, root: Root, domain: str) -> Certificate | None:
    """The same of a broker."""
    path = folder / "certificates" / f"broker.{name}.pem"
    if not is_agent_name(name) or not path.exists():
        return None
    return certificates.read(_der(path, "CERTIFICATE"), root=root, domain=domain, profile=Profile.BROKER)


def domain_of(root: Root) -> str:
    """The domain that a root names as its own. Raises VerificationError("untrusted")."""
    try:
        names = root.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise VerificationError("untrusted", detail="a root that names no domain") from error
    return uri.removeprefix(_SPIFFE)


def pem(label: str, der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", label)


def _statement(folder: Path, root: Root, domain: str, ml_dsa_root: bytes | None) -> Statement | None:
    data = durable.read(folder / "statement.bin", longest=statements.MAX_STATEMENT_BYTES)
    return None if data is None else statements.read(data, root=root, domain=domain, ml_dsa_root=ml_dsa_root)


def _bundle(folder: Path, root: Root, domain: str, ml_dsa_root: bytes | None) -> Bundle | None:
    data = durable.read(folder / "bundle.bin", longest=bundles.MAX_BUNDLE_BYTES)
    return None if data is None else bundles.read(data, root=root, domain=domain, ml_dsa_root=ml_dsa_root)


def _agents(folder: Path, root: Root, domain: str) -> tuple[Certificate, ...]:
    found = []
    for path in sorted(folder.glob("*.pem")) if folder.is_dir() else ():
        certificate = certificates.read(_der(path, "CERTIFICATE"), root=root, domain=domain)
        if certificate.profile is Profile.AGENT:
            found.append(certificate)
    return tuple(found)


def _der(path: Path, label: str) -> bytes:
    data = durable.read(path, longest=_MAX_PEM_BYTES)
    if data is None:
        text = f"there is no {path}: no authority was made here yet; `tpmbus policy sign` makes one"
        raise VaultError("missing", text, path=str(path))
    try:
        return ssl.PEM_cert_to_DER_cert(data.decode("ascii").replace(label, "CERTIFICATE"))
    except ValueError as error:
        raise VaultError("damaged", f"{path} is no PEM file: restore it, or open the authority again", path=str(path)) from error

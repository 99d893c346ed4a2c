"""What everybody may read, as openssl and other tools take it: PEM files in trust/public. They follow from the journal."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

from bus.errors import RemoteProtocolError, VerificationError
from bus.identity.authority.store import Store
from bus.trust import revocations
from bus.trust import statement as statements
from bus.trust.certificates import Profile
from bus.trust.revocations import RevocationList
from bus.trust.root import Root
from bus.trust.statement import Statement

ROOT: Final = "public/root.pem"
CRL: Final = "public/crl.pem"
STATEMENT: Final = "public/statement.bin"


class Published:
    def __init__(self, store: Store, root: Root) -> None:
        self._store, self._root = store, root

    def show_root(self) -> None:
        self._show(ROOT, _pem("CERTIFICATE", self._root.der), synced=True)

    def show_crl(self, crl: RevocationList) -> None:
        self._store.write(CRL, _pem("X509 CRL", crl.der))

    def crl(self) -> RevocationList | None:
        """The list that lies there, if the root signed it."""
        data = self._store.read(CRL)
        try:
            return None if data is None else revocations.read(_der("X509 CRL", data), root=self._root)
        except (VerificationError, ValueError):
            return None

    def statement(self, *, domain: str, ml_dsa_root: bytes) -> Statement | None:
        """The one that lies there, if it verifies."""
        data = self._store.read(STATEMENT)
        with suppress(RemoteProtocolError, VerificationError):
            return None if data is None else statements.read(data, root=self._root, domain=domain, ml_dsa_root=ml_dsa_root)
        return None

    def show_certificate(self, profile: Profile, name: str, der: bytes | None) -> None:
        """The one in force; None takes it away. Not synced: at opening it is compared with what the journal says."""
        path = f"public/certificates/{'' if profile is Profile.AGENT else profile.path + '.'}{name}.pem"
        if der is None:
            self._store.remove(path)
        else:
            self._show(path, _pem("CERTIFICATE", der), synced=False)

    def _show(self, path: str, data: bytes, *, synced: bool) -> None:
        if self._store.read(path) != data:
            self._store.write(path, data, synced=synced)


def _pem(label: str, der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", label).encode()


def _der(label: str, pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode("ascii").replace(label, "CERTIFICATE"))

"""TLS 1.3 with certificates on both sides. The caller says whom to trust; what may not be left out is checked here.

Both leaf certificates enter the handshake of the bus, so that nobody in between can pass one connection off as another. Python's
`ssl` tells the other side's certificate and never one's own, so that one is handed over beside the context.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bus.transport.link import Peer

HANDSHAKE_SECONDS: Final = 5.0


class SpokenOut(ssl.SSLObject):
    """What ends a handshake is raised once the other end can be told: first it asks for what it has to say to be sent.

    Who drives it may know nothing of that, as anyio's streams, which send at `SSLWantWriteError` and at no other error.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # which holds this frame that would hold it
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = error
        if self._failure is not None:
            raise ssl.SSLWantWriteError


@dataclass(frozen=True, slots=True)
class Tls:
    """What one end shows, and whom it believes. It has the context make its connections of a kind of ours, see `SpokenOut`."""

    context: ssl.SSLContext = field(repr=False)
    leaf: bytes = field(repr=False)
    """DER of the certificate that `context` shows."""

    def __post_init__(self) -> None:
        if self.context.minimum_version < ssl.TLSVersion.TLSv1_3:
            raise ValueError("TLS 1.3 is the least: set context.minimum_version")
        if self.context.verify_mode is not ssl.CERT_REQUIRED:
            raise ValueError("both sides show a certificate: set context.verify_mode to ssl.CERT_REQUIRED")
        if self.is_client and not self.context.check_hostname:
            raise ValueError("a client knows whom it calls: set context.check_hostname")
        self.context.sslobject_class = SpokenOut

    @property
    def is_client(self) -> bool:
        return self.context.protocol is ssl.PROTOCOL_TLS_CLIENT


def load_tls(certificate: Path, key: Path, *, roots: bytes, crl: Path | None = None, is_client: bool) -> Tls:
    """From PEM files, for a side that believes what the `roots` (DER) have issued and `crl` has not taken back.

    It reads files and blocks: in an event loop, call it in a thread. Raises OSError, of which ssl.SSLError is one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_client else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=roots)
    if crl is not None:
        context.load_verify_locations(cafile=crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.load_cert_chain(certificate, key)
    if not is_client:
        context.num_tickets = 0  # a link is one connection: there is nothing to resume
    return Tls(context, ssl.PEM_cert_to_DER_cert(_first(certificate.read_text("ascii"))))


def tls_peer(address: str, tls: Tls, connection: ssl.SSLObject) -> Peer:
    """Who is at the other end, now that hands were shaken."""
    theirs = connection.getpeercert(binary_form=True)
    leaves = (theirs, tls.leaf) if tls.is_client else (tls.leaf, theirs)
    return Peer("tls", address, server_leaf=leaves[0], client_leaf=leaves[1])


def _first(pem: str) -> str:
    begin, end = pem.index(ssl.PEM_HEADER), pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    return pem[begin:end]

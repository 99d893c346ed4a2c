"""What two gateways say to each other over NATS is sealed: servers and other clients of the account carry it, and see its length.

Each end makes a key pair for one link and never again. Both send their public keys in the open, so anybody could stand in between;
which two keys a link has is in what the brokers sign above it (`Peer.server_leaf`, `Peer.client_leaf`), and that finds out.

    keys    = HKDF-SHA256(X25519(own, other), info "tpmbus/1 neighbour" | key of who began | key of who answered, 64)
    sealed  = ChaCha20-Poly1305(key of the direction, nonce 0(4) | number(8), aad head)

ChaCha20-Poly1305, because under one key it has no limit that a link could reach. A number is used once: messages are counted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bus.protocol import contexts

KEY_BYTES: Final = 32
LABEL_BYTES: Final = 16
TAG_BYTES: Final = 16


class Sealing(NamedTuple):
    """Both directions of one link, as one of its ends has them."""

    ours: ChaCha20Poly1305
    theirs: ChaCha20Poly1305

    def seal(self, number: int, head: bytes, body: bytes) -> bytes:
        return self.ours.encrypt(_nonce(number), body, head)

    def open(self, number: int, head: bytes, sealed: bytes) -> bytes | None:
        """None for what the other end of this link has not sealed under this number."""
        try:
            return self.theirs.decrypt(_nonce(number), sealed, head)
        except InvalidTag:
            return None


class EndKey:
    """The key pair of one end of one link."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()
        self.label = label(self.public)

    def agree(self, other: bytes, *, we_began: bool) -> Sealing:
        """Raises ValueError: that is no key to agree with."""
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(other))
        keys = (self.public, other) if we_began else (other, self.public)
        both = HKDF(SHA256(), 2 * KEY_BYTES, salt=None, info=contexts.NEIGHBOUR + b"".join(keys)).derive(shared)
        began, answered = ChaCha20Poly1305(both[:KEY_BYTES]), ChaCha20Poly1305(both[KEY_BYTES:])
        return Sealing(began, answered) if we_began else Sealing(answered, began)


def label(public: bytes) -> bytes:
    """By which the end with this key knows what is for it."""
    return public[:LABEL_BYTES]


def _nonce(number: int) -> bytes:
    return number.to_bytes(12)

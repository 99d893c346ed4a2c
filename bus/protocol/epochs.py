"""An epoch: one sender, one audience, one content key.

    params = [domain, sender, audience(32), class, priority, signed_by, aead, kem, made_ms, ends_ms]
    id     = HKDF-Expand(secret(32), "tpmbus/1 epoch id"    | SHA-256(params), 32)
    key    = HKDF-Expand(secret(32), "tpmbus/1 content key" | SHA-256(params), 32)

The id commits to the key and to every parameter, so nobody can give two readers different keys under one id. There are two
types. A `SealingEpoch` lives where it was made: it is never stored, copied or pickled, each number is given out once, and under
each number one header is sealed at most. What comes from a grant, one's own included, is an `OpenedEpoch`: it has no `seal`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt, crypto_aead_xchacha20poly1305_ietf_encrypt
from nacl.exceptions import CryptoError

from bus.errors import LocalProtocolError, VerificationError
from bus.protocol import contexts
from bus.protocol.audience import AUDIENCE_BYTES
from bus.protocol.codec import array, ascii_text, malformed, pack, sized, unpack, unsigned
from bus.protocol.header import MAX_PRIORITY, MAX_SEQ
from bus.protocol.kem import HYBRID, X25519
from bus.protocol.names import is_agent_name

LIVE: Final = 0
DURABLE: Final = 1
BY_SESSION: Final = 0
BY_IDENTITY: Final = 1
AES_256_GCM: Final = 1
XCHACHA20_POLY1305: Final = 2
CLASSES: Final = {"live": LIVE, "durable": DURABLE}
SIGNERS: Final = {"session": BY_SESSION, "identity": BY_IDENTITY}
AEADS: Final = {"aes-256-gcm": AES_256_GCM, "xchacha20-poly1305": XCHACHA20_POLY1305}
PRIORITIES: Final = {"control": 0, "critical": 1, "high": 2, "normal": 3, "bulk": 4}
"""The words of policy and the numbers on the wire."""

SECRET_BYTES: Final = 32
GUARD_BYTES: Final = {AES_256_GCM: 4, XCHACHA20_POLY1305: 16}
MAX_GUARD_BYTES: Final = max(GUARD_BYTES.values())
TAG_BYTES: Final = 16
MAX_SEALED_BYTES: Final = 64 << 30
"""Under one key."""
MAX_PARAMS_BYTES: Final = 1_024
MAX_DOMAIN_BYTES: Final = 253


class Params(NamedTuple):
    domain: str
    sender: str
    audience: bytes
    class_: int
    priority: int
    signed_by: int
    aead: int
    kem: int
    """The weakest key agreement that a reader may have."""
    made_ms: int
    ends_ms: int

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def parse(cls, data: bytes) -> Params:
        """Raises RemoteProtocolError("malformed")."""
        if len(data) > MAX_PARAMS_BYTES:
            raise malformed("parameters of more than 1 KiB")
        domain, sender, audience, class_, priority, signed_by, aead, kem, made_ms, ends_ms = array(unpack(data, longest=10), 10)
        if not 0 < len(ascii_text(domain)) <= MAX_DOMAIN_BYTES or not is_agent_name(ascii_text(sender)):
            raise malformed("no domain, or no agent's name")
        if unsigned(aead) not in GUARD_BYTES or unsigned(kem) not in (X25519, HYBRID):
            raise malformed("an unknown cipher or key agreement")
        return cls(
            domain,
            sender,
            sized(audience, AUDIENCE_BYTES),
            unsigned(class_, most=DURABLE),
            unsigned(priority, most=MAX_PRIORITY),
            unsigned(signed_by, most=BY_IDENTITY),
            aead,
            kem,
            unsigned(made_ms),
            unsigned(ends_ms),
        )

    @property
    def is_durable(self) -> bool:
        return self.class_ == DURABLE

    @property
    def by_identity(self) -> bool:
        return self.signed_by == BY_IDENTITY


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...


class _XChaCha:
    """The same two verbs as cryptography's AESGCM."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        return bytes(crypto_aead_xchacha20poly1305_ietf_encrypt(data, associated_data, nonce, self._key))

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        try:
            return bytes(crypto_aead_xchacha20poly1305_ietf_decrypt(data, associated_data, nonce, self._key))
        except CryptoError as error:
            raise InvalidTag from error


_CIPHERS: Final[Mapping[int, Callable[[bytes], _Cipher]]] = {AES_256_GCM: AESGCM, XCHACHA20_POLY1305: _XChaCha}


def _derive(secret: bytes, params: bytes) -> tuple[bytes, bytes]:
    """Id and content key."""
    digest = hashlib.sha256(params).digest()
    return _expand(secret, contexts.EPOCH_ID + digest), _expand(secret, contexts.CONTENT_KEY + digest)


def _expand(secret: bytes, info: bytes) -> bytes:
    """HKDF-Expand-SHA256 of RFC 5869 to 32 bytes: one block."""
    return hmac.digest(secret, info + b"\x01", "sha256")


class _Epoch:
    """What both have: an id, its parameters, a cipher."""

    __slots__ = ("__weakref__", "_cipher", "guard_bytes", "id", "params", "params_bytes")

    def __init__(self, secret: bytes, params: Params, params_bytes: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise malformed("a secret has 32 bytes")
        self.params, self.params_bytes = params, params_bytes
        self.id, key = _derive(secret, params_bytes)
        self.guard_bytes = GUARD_BYTES[params.aead]
        self._cipher: _Cipher = _CIPHERS[params.aead](key)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id[:4].hex()} of {self.params.sender}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an epoch never leaves its process: it can be neither copied nor pickled")


class OpenedEpoch(_Epoch):
    """One that came from a grant. It opens, and cannot seal."""

    __slots__ = ()

    @classmethod
    def from_grant(cls, secret: bytes, params: bytes, *, id: bytes) -> OpenedEpoch:  # noqa: A002  as the spec calls it
        """Raises VerificationError("wrong_epoch") if these do not make this id, and RemoteProtocolError("malformed")."""
        epoch = cls(secret, Params.parse(params), params)
        if not hmac.compare_digest(epoch.id, id):
            raise VerificationError("wrong_epoch", agent=epoch.params.sender, detail="secret and parameters do not make this id")
        return epoch

    def open(self, sealed: bytes, *, seq: int, header: bytes) -> bytes:
        """What was sealed under this header. Raises VerificationError("bad_seal")."""
        guard = self.guard_bytes
        try:
            return self._cipher.decrypt(sealed[:guard] + seq.to_bytes(8, "big"), sealed[guard:], header)
        except (InvalidTag, ValueError) as error:
            raise VerificationError("bad_seal", agent=self.params.sender, detail="this epoch's key does not open it") from error


class SealingEpoch(_Epoch):
    """One that was made here. It has one owner, who gives it up by `retire`, and in a forked child at once."""

    __slots__ = ("_issued", "_sealed_bytes", "_secret", "next_seq")

    def __init__(self, secret: bytes, params: Params) -> None:
        super().__init__(secret, params, params.encode())
        self._secret: bytes | None = secret
        self.next_seq = 0
        self._issued: set[int] = set()
        self._sealed_bytes = 0

    @classmethod
    def make(cls, secret: bytes, params: Params) -> Self:
        """`secret` is 32 random bytes that nobody else has."""
        return cls(secret, params)

    @property
    def secret(self) -> bytes:
        """For grants alone. Raises LocalProtocolError when retired."""
        if self._secret is None:
            raise LocalProtocolError("this epoch is retired: make another one")
        return self._secret

    @property
    def is_spent(self) -> bool:
        """Whether another epoch must take over: no number is left, or the key has done its work."""
        return self._secret is None or self.next_seq > MAX_SEQ or self._sealed_bytes >= MAX_SEALED_BYTES

    @property
    def outstanding(self) -> int:
        """Numbers that were given out, and neither sealed under nor given up."""
        return len(self._issued)

    def take(self) -> int:
        """The next number, for one header. It is used or burned, never given out again."""
        if self._secret is None or self.next_seq > MAX_SEQ or self._sealed_bytes >= MAX_SEALED_BYTES:
            raise LocalProtocolError("this epoch is spent: make another one")
        seq = self.next_seq
        self.next_seq = seq + 1
        self._issued.add(seq)
        return seq

    def burn(self, seq: int) -> None:
        """Give up a number whose header will not be sealed."""
        self._issued.discard(seq)

    def seal(self, plaintext: bytes, *, seq: int, header: bytes, guard: bytes) -> bytes:
        """`guard` is fresh random bytes. Raises LocalProtocolError if this number was not given out, or was used already."""
        if seq not in self._issued or self._secret is None:
            raise LocalProtocolError("a header is sealed once, under the number that was given out for it")
        if len(guard) != self.guard_bytes:
            raise ValueError(f"a guard has {self.guard_bytes} bytes here, not {len(guard)}")
        self._issued.remove(seq)
        self._sealed_bytes += len(plaintext)
        return guard + self._cipher.encrypt(guard + seq.to_bytes(8, "big"), plaintext, header)

    def retire(self) -> None:
        """Nothing is sealed or granted any more. Python keeps no promise about memory; what can be dropped is dropped."""
        self._secret = None
        self._issued.clear()
        self._cipher = _RETIRED

    @property
    def opened(self) -> OpenedEpoch:
        """The same epoch as its readers hold it."""
        return OpenedEpoch.from_grant(self.secret, self.params_bytes, id=self.id)


class _Retired:
    """In the place of a cipher: there is no key any more."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        raise LocalProtocolError("this epoch is retired: make another one")

    decrypt = encrypt


_RETIRED: Final = _Retired()

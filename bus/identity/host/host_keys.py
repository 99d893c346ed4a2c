"""The keys that the agents of one process share: an Ed25519 key that signs their turns, and a KEM key that opens their live grants.

They exist in memory only, for a quarter of an hour at most, and are never stored, shown, copied or pickled; a forked child loses
them at once (see `forks`).

    signs    what agents send, until the next pair takes over
    proves   on a new link that this process has it, until the last certificate that names it has ended: what was signed with it and
             has not arrived goes again there, byte for byte, and counts only beside papers that were proven on that link
    opens    what was sealed to it before and comes late, a minute longer

Python keeps no promise about memory: what can be dropped is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair, crypto_sign_SEEDBYTES

from bus.errors import LocalProtocolError
from bus.identity.host.forks import retired_in_a_child
from bus.protocol.kem import PRIVATE_BYTES, PrivateKey
from bus.protocol.papers import host_signer
from bus.protocol.signatures import HOST_SIGNATURE_BYTES

OPENS_LONGER_SECONDS: Final = 60.0
"""After the end of its last certificate: what another clock, a minute behind, still took for valid."""


class HostKeys:
    """One pair. Made by `make`, used by everybody in this process, replaced as a whole."""

    __slots__ = ("__weakref__", "_opening", "_signing", "can_sign", "kem", "kem_key", "kem_key_id", "public", "signer")

    def __init__(self, seed: bytes, opening: PrivateKey) -> None:
        self.public, signing = crypto_sign_seed_keypair(seed)
        self.signer = host_signer(self.public)
        self.kem, self.kem_key, self.kem_key_id = opening.kem, opening.public, opening.id
        self._signing: bytes | None = signing
        self._opening: PrivateKey | None = opening
        self.can_sign = True
        retired_in_a_child(self)

    @classmethod
    def make(cls, kem: int, random: Callable[[int], bytes]) -> HostKeys:
        """Any bytes are a key: Ed25519 and ML-KEM take seeds, X25519 clamps."""
        return cls(random(crypto_sign_SEEDBYTES), PrivateKey.from_bytes(kem, random(PRIVATE_BYTES[kem])))

    @property
    def can_prove(self) -> bool:
        return self._signing is not None

    @property
    def can_open(self) -> bool:
        return self._opening is not None

    def sign(self, tbs: bytes) -> bytes:
        """The host's signature. Raises LocalProtocolError if another pair has taken over, or in a forked child."""
        if not self.can_sign:
            raise LocalProtocolError(
                "these host keys sign no more: take the current session's (a forked process opens its own agents)"
            )
        return self.prove(tbs)

    def prove(self, tbs: bytes) -> bytes:
        """That they are here, over a handshake. Raises LocalProtocolError if their time is over, or in a forked child."""
        if self._signing is None:
            raise LocalProtocolError("these host keys prove nothing any more: their time is over, or this process was forked")
        return bytes(crypto_sign(tbs, self._signing)[:HOST_SIGNATURE_BYTES])

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """What was sealed to this host. Raises VerificationError("bad_seal"); LocalProtocolError where the key is gone."""
        if self._opening is None:
            raise LocalProtocolError("these host keys open no more: their time is over, or this process was forked")
        return self._opening.open(sealed, info)

    def retire_signing(self) -> None:
        """Another pair signs from now on."""
        self.can_sign = False

    def retire_proving(self) -> None:
        """No certificate names them any more; they only open."""
        self.can_sign, self._signing = False, None

    def retire(self) -> None:
        self.retire_proving()
        self._opening = None

    def __repr__(self) -> str:
        return f"<HostKeys {self.public[:4].hex()}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("host keys never leave their process: they can be neither copied nor pickled")


class Openers:
    """Pairs that sign no more and still prove or open, by the id that grants name.

    Times are of the clock that never runs backwards.
    """

    def __init__(self) -> None:
        self._pairs: dict[bytes, tuple[HostKeys, float]] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def keep(self, keys: HostKeys, *, ends: float) -> None:
        """`ends`: when the last certificate that names this pair does."""
        keys.retire_signing()
        self._pairs[keys.kem_key_id] = (keys, ends)

    def find(self, kem_key_id: bytes) -> HostKeys | None:
        pair = self._pairs.get(kem_key_id)
        return None if pair is None else pair[0]

    def drop(self, now: float) -> None:
        """Forget what has had its time. There are never more than a few."""
        for key_id, (keys, ends) in list(self._pairs.items()):
            if now > ends:
                keys.retire_proving()
            if now > ends + OPENS_LONGER_SECONDS:
                del self._pairs[key_id]
                keys.retire()

    def retire(self) -> None:
        for keys, _ in self._pairs.values():
            keys.retire()
        self._pairs.clear()

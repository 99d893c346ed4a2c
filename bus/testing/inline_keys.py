"""The keys of an `InlineEngine`: named, with generations, in memory alone. Nothing here waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from bus.clock import Clock
from bus.errors import TpmRefusedError
from bus.protocol.names import is_agent_name
from bus.protocol.proof import key_signer
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.testing import ready_made
from bus.testing.ready_made import PrivateKey
from bus.tpm.interface import KeyInfo
from bus.tpm.keyring import KEEP_RETIRED_MS

MakeKey = Callable[[str, Suite], PrivateKey]
_CURVES: Final = {"ecc256": ec.SECP256R1, "ecc384": ec.SECP384R1}


def generated(_: str, suite: Suite) -> PrivateKey:
    """A new one each time, as a TPM does it; of RSA it takes a second."""
    if suite.kind == "rsa3072":
        return rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return ec.generate_private_key(_CURVES[suite.kind]())


def ready(key: str, suite: Suite) -> PrivateKey:
    """The one of this name that everybody has, at once."""
    return ready_made.identity_key(key, suite.kind)


@dataclass(frozen=True, slots=True)
class InlineKey:
    info: KeyInfo
    suite: Suite
    private: PrivateKey = field(repr=False)
    signer: bytes

    def sign(self, tbs: bytes) -> bytes:
        algorithm = CRYPTOGRAPHY_HASHES[self.suite.hash]
        digest = self.suite.digest(tbs)
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(digest, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), Prehashed(algorithm))
        half = self.suite.signature_bytes // 2
        r, s = decode_dss_signature(self.private.sign(digest, ec.ECDSA(Prehashed(algorithm))))
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")


class InlineKeys:
    """`make_key(key, suite)` makes one for a name and generation ("DIRECTOR.1")."""

    def __init__(self, clock: Clock, make_key: MakeKey = generated) -> None:
        self._clock, self._make_key = clock, make_key
        self._keys: dict[str, list[InlineKey]] = {}
        """By name; the last one is current."""

    def infos(self) -> list[KeyInfo]:
        return [key.info for keys in self._keys.values() for key in keys]

    def create(self, name: str, suite: Suite, origin: str) -> KeyInfo:
        """The current key, if it is like that; else a new generation."""
        if not is_agent_name(name):
            raise ValueError(f"{name!r} is no agent name: a capital letter, then capital letters and digits, 32 at most")
        keys = self._keys.get(name)
        if keys and (keys[-1].suite, keys[-1].info.origin) == (suite, origin):
            return keys[-1].info
        return self._make(name, suite, origin, ends_ms=self._clock.now_ms() + KEEP_RETIRED_MS)

    def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None) -> KeyInfo:
        old = self.find(name).info
        return self._make(old.name, suite or IDENTITY_SUITES[old.suite], old.origin, ends_ms=keep_until_ms)

    def find(self, key: str) -> InlineKey:
        """By NAME or NAME.GENERATION. Raises TpmRefusedError: unknown_key, key_ended."""
        name, _, generation = key.partition(".")
        keys = self._keys.get(name, [])
        found = next((one for one in reversed(keys) if generation in ("", str(one.info.generation))), None)
        if found is None:
            raise TpmRefusedError("unknown_key", f"there is no key {key!r}: `create` makes one")
        if found.info.ends_ms is not None and found.info.ends_ms <= self._clock.now_ms():
            raise TpmRefusedError("key_ended", f"{key} was rotated away, and its time is over: sign with {name}")
        return found

    def _make(self, name: str, suite: Suite, origin: str, *, ends_ms: int) -> KeyInfo:
        keys = self._keys.setdefault(name, [])
        if keys:
            keys[-1] = replace(keys[-1], info=replace(keys[-1].info, ends_ms=ends_ms))
        generation = len(keys) + 1
        private = self._make_key(f"{name}.{generation}", suite)
        spki = ready_made.spki(private)
        info = KeyInfo(name, generation, suite.name, origin, spki, spki, self._clock.now_ms(), None)
        keys.append(InlineKey(info, suite, private, key_signer(spki)))
        return info

"""The authority's private keys at rest.

    protection.json   32 random bytes, sealed by a TPM or encrypted under a passphrase; the keys are encrypted under them
    NAME.key          one private key: AES-256-GCM under HKDF-Expand(those 32 bytes, context ‖ 0 ‖ NAME)

Two layers, so that the passphrase can be changed, or the authority moved to another TPM, by replacing one small file in one step.
A TPM seals 128 bytes at most, and an RSA-4096 key has more. scrypt's parameters stand in the file and are bounded when read.
"""

from __future__ import annotations

import json
import os
import unicodedata
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any, Final

import anyio.to_thread
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from bus.errors import TpmRefusedError, VaultError
from bus.identity.authority.store import Store
from bus.protocol import contexts
from bus.tpm.interface import TpmEngine

VERSION: Final = 1
PROTECTION: Final = "private/protection.json"
SECRET_BYTES: Final = 32

_NONCE_BYTES: Final = 12
_LEAST_LOG_N, _MOST_LOG_N = 10, 20
_BLOCK, _LANES = 8, 1
"""scrypt's r and p: as RFC 7914 recommends."""


@dataclass(frozen=True, slots=True)
class TpmSeal:
    """The TPM of this engine seals what the keys are encrypted under: on another machine they do not open."""

    engine: TpmEngine = field(repr=False)


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Somebody types it at each start. For an authority without a TPM, and for a copy in a safe."""

    text: str = field(repr=False)
    log_n: int = 17
    """scrypt's cost for a new one, as a power of two; 17 takes some 0.4 s and 128 MiB. An existing one has its own on file."""

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("an empty passphrase protects nothing")
        if not _LEAST_LOG_N <= self.log_n <= _MOST_LOG_N:
            raise ValueError(f"scrypt's cost is {_LEAST_LOG_N} to {_MOST_LOG_N}, not {self.log_n}")


Protection = TpmSeal | Passphrase


class KeyFiles:
    """The private keys, each encrypted under its own key of the one secret."""

    def __init__(self, store: Store, secret: bytes) -> None:
        self._store, self._secret = store, secret

    def load(self, name: str) -> bytes | None:
        """The private key that `save` was given; None if there is none of this name. Raises VaultError("damaged")."""
        data, place = self._store.read(_file(name)), _file(name)
        if data is None:
            return None
        document = _document(self._store, place, data)
        try:
            return _open(self._key(name), document, aad=_aad(name))
        except (InvalidTag, ValueError, KeyError, TypeError) as error:
            raise _damaged(self._store, place) from error

    def save(self, name: str, private: bytes) -> None:
        self._store.write(
            _file(name), _text({"version": VERSION, "name": name} | _closed(self._key(name), private, aad=_aad(name)))
        )

    def keep_only(self, name: str, *, beginning: str) -> None:
        """Remove the keys whose names begin like this one's, but for it."""
        for path in self._store.path("private/x").parent.glob(f"{beginning}*.key"):
            if path.stem != name:
                self._store.remove(f"private/{path.name}")

    def _key(self, name: str) -> bytes:
        return HKDFExpand(SHA256(), 32, _aad(name)).derive(self._secret)


async def unlock(store: Store, protection: Protection) -> bytes | None:
    """The secret; None if there is none yet. Raises VaultError: wrong_passphrase, wrong_tpm, wrong_protection, damaged, version."""
    data = await anyio.to_thread.run_sync(store.read, PROTECTION)
    if data is None:
        return None
    document = _document(store, PROTECTION, data)
    by = "tpm" if isinstance(protection, TpmSeal) else "passphrase"
    if document.get("by") != by:
        text = f"the authority's keys are protected by {document.get('by')!r}, not by {by!r}: open it that way"
        raise VaultError("wrong_protection", text, path=str(store.path(PROTECTION)))
    try:
        if isinstance(protection, TpmSeal):
            secret = await protection.engine.unseal(b64decode(document["sealed"], validate=True), origin=document["origin"])
        else:
            secret = await anyio.to_thread.run_sync(_unwrap, document, protection)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(store, PROTECTION) from error
    except InvalidTag as error:
        text = "the passphrase does not open the authority's keys: type it again, or restore the folder if it was damaged"
        raise VaultError("wrong_passphrase", text, path=str(store.path(PROTECTION))) from error
    except TpmRefusedError as error:
        if error.code not in ("wrong_tpm", "wrong_origin", "malformed_blob"):
            raise
        text = "this TPM did not seal the authority's keys: open them on the machine that did, or restore the right state folder"
        raise VaultError("wrong_tpm", text, path=str(store.path(PROTECTION))) from error
    if len(secret) != SECRET_BYTES:
        raise _damaged(store, PROTECTION)
    return secret


async def protect(store: Store, secret: bytes, protection: Protection) -> None:
    """Write the secret down in this way, in place of any other."""
    if isinstance(protection, TpmSeal):
        origin = (await protection.engine.facts()).origin  # what the software keystore sealed opens on when a TPM is there
        sealed = await protection.engine.seal(secret, origin=origin)
        document: dict[str, Any] = {"by": "tpm", "origin": origin, "sealed": b64encode(sealed).decode()}
    else:
        document = await anyio.to_thread.run_sync(_wrap, secret, protection)
    await anyio.to_thread.run_sync(store.write, PROTECTION, _text({"version": VERSION} | document))


def _wrap(secret: bytes, passphrase: Passphrase) -> dict[str, Any]:
    salt = os.urandom(16)
    key = _stretch(passphrase.text, salt, passphrase.log_n, _BLOCK, _LANES)
    scrypt = {"salt": b64encode(salt).decode(), "log_n": passphrase.log_n, "r": _BLOCK, "p": _LANES}
    return {"by": "passphrase", "scrypt": scrypt} | _closed(key, secret, aad=_aad(""))


def _unwrap(document: dict[str, Any], passphrase: Passphrase) -> bytes:
    scrypt = document["scrypt"]
    key = _stretch(passphrase.text, b64decode(scrypt["salt"], validate=True), scrypt["log_n"], scrypt["r"], scrypt["p"])
    return _open(key, document, aad=_aad(""))


def _stretch(text: str, salt: bytes, log_n: int, block: int, lanes: int) -> bytes:
    if not _LEAST_LOG_N <= log_n <= _MOST_LOG_N or not 1 <= block <= 16 or not 1 <= lanes <= 4:
        raise ValueError("parameters that would take all memory, or protect nothing")
    # The same passphrase must give the same bytes on every keyboard.
    return Scrypt(salt, 32, 1 << log_n, block, lanes).derive(unicodedata.normalize("NFC", text).encode())


def _closed(key: bytes, plaintext: bytes, *, aad: bytes) -> dict[str, str]:
    nonce = os.urandom(_NONCE_BYTES)
    return {
        "nonce": b64encode(nonce).decode(),
        "ciphertext": b64encode(AESGCM(key).encrypt(nonce, plaintext, aad)).decode(),
    }


def _open(key: bytes, document: dict[str, Any], *, aad: bytes) -> bytes:
    nonce, ciphertext = (b64decode(document[part], validate=True) for part in ("nonce", "ciphertext"))
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def _aad(name: str) -> bytes:
    return contexts.AUTHORITY_KEY + b"\0" + name.encode()


def _file(name: str) -> str:
    return f"private/{name}.key"


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"


def _document(store: Store, place: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
        version = document["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(store, place) from error
    if version != VERSION:
        path = str(store.path(place))
        raise VaultError("version", f"{path} was written by another version of tpmbus ({version}); upgrade", path=path)
    return dict(document)


def _damaged(store: Store, place: str) -> VaultError:
    path = str(store.path(place))
    return VaultError("damaged", f"{path} is not what was written: restore it from a backup", path=path)

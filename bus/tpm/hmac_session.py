"""A salted HMAC session with a TPM, spoken by ourselves: proves a key's auth value to the chip without sending it.

Signing is what a TPM does all day, and the TSS library (3.2, beside OpenSSL 3) spends two milliseconds a command on the few
hashes of such a session, five times what swtpm needs for the signature. So the two commands on that path are built and
checked here, by TPM 2.0 part 1, sections 11.4.10 (KDFa, KDFe), 17.6 (salt) and 19 (session-based authorization). All else
goes through the library.

Pure: bytes in, bytes out. Who sends them is `esapi_chip`; randomness and the ephemeral key are given.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from bus.errors import TpmRefusedError

START_AUTH_SESSION: Final = 0x176
RSA_DECRYPT: Final = 0x159
SIGN: Final = 0x15D

_NO_SESSIONS, _SESSIONS, _NULL_HANDLE = 0x8001, 0x8002, 0x40000007
_SHA256, _ALG_NULL, _HMAC_SESSION = 0x000B, 0x0010, 0x00
_CONTINUE: Final = b"\x01"
_NONCE_BYTES: Final = 32


class ResponseError(Exception):
    """The TPM answered with a response code; `esapi_chip` knows what that means to us."""

    def __init__(self, rc: int) -> None:
        self.rc = rc
        super().__init__(f"response 0x{rc:x}")


@dataclass(slots=True)
class HmacSession:
    """One session. `nonce_tpm` rolls with every answer; `nonce` makes ours."""

    handle: int
    key: bytes = field(repr=False)
    nonce_tpm: bytes
    nonce: Callable[[int], bytes]
    uses: int = 0

    def command(self, code: int, handle: int, name: bytes, parameters: bytes, *, auth: bytes) -> tuple[bytes, bytes]:
        """A command on one key, authorized; also the nonce that `parse` needs for its answer."""
        nonce = self.nonce(_NONCE_BYTES)
        digest = hashlib.sha256(struct.pack(">I", code) + name + parameters).digest()
        proof = hmac.digest(self.key + auth, digest + nonce + self.nonce_tpm + _CONTINUE, "sha256")
        area = struct.pack(">I", self.handle) + sized(nonce) + _CONTINUE + sized(proof)
        body = struct.pack(">I", handle) + struct.pack(">I", len(area)) + area + parameters
        return struct.pack(">HII", _SESSIONS, 10 + len(body), code) + body, nonce

    def parse(self, code: int, answer: bytes, nonce: bytes, *, auth: bytes) -> bytes:
        """The answer's parameters, after its own HMAC was checked. Raises ResponseError, TpmRefusedError("tampered")."""
        rc = response_code(answer)
        if rc:
            raise ResponseError(rc)
        self.uses += 1
        size = _first_number(answer)
        parameters, rest = answer[14 : 14 + size], answer[14 + size :]
        nonce_tpm, rest = unsized(rest)
        attributes, (proof, _) = rest[:1], unsized(rest[1:])
        digest = hashlib.sha256(struct.pack(">II", 0, code) + parameters).digest()
        wanted = hmac.digest(self.key + auth, digest + nonce_tpm + nonce + attributes, "sha256")
        if not hmac.compare_digest(proof, wanted):
            raise TpmRefusedError("tampered", "an answer of the TPM was changed on its way: something sits between us and the chip")
        self.nonce_tpm = nonce_tpm
        return parameters


@dataclass(frozen=True, slots=True)
class Opening:
    """The command that starts a session, and what is needed to understand its answer."""

    command: bytes
    nonce: bytes
    salt: bytes = field(repr=False)

    def finish(self, answer: bytes, *, nonce: Callable[[int], bytes]) -> HmacSession:
        rc = response_code(answer)
        if rc:
            raise ResponseError(rc)
        handle = _first_number(answer)
        nonce_tpm, _ = unsized(answer[14:])
        return HmacSession(handle, _kdf_a(self.salt, b"ATH", nonce_tpm, self.nonce), nonce_tpm, nonce)


def opening(primary: int, public: ec.EllipticCurvePublicKey, *, ephemeral: ec.EllipticCurvePrivateKey, nonce: bytes) -> Opening:
    """A session salted to the primary key: only that chip can know the salt."""
    mine, theirs = ephemeral.public_key().public_numbers(), public.public_numbers()
    x, y = mine.x.to_bytes(32, "big"), mine.y.to_bytes(32, "big")
    shared = ephemeral.exchange(ec.ECDH(), public)
    # KDFe, one block: counter, Z, label with its end, both public x.
    salt = hashlib.sha256(struct.pack(">I", 1) + shared + b"SECRET\0" + x + theirs.x.to_bytes(32, "big")).digest()
    body = struct.pack(">II", primary, _NULL_HANDLE) + sized(nonce) + sized(sized(x) + sized(y))
    body += struct.pack(">BHH", _HMAC_SESSION, _ALG_NULL, _SHA256)
    return Opening(struct.pack(">HII", _NO_SESSIONS, 10 + len(body), START_AUTH_SESSION) + body, nonce, salt)


def response_code(answer: bytes) -> int:
    if len(answer) < 10 or struct.unpack_from(">I", answer, 2)[0] != len(answer):
        raise TpmRefusedError("tampered", "an answer of the TPM is cut short")
    return int(struct.unpack_from(">I", answer, 6)[0])


def _first_number(answer: bytes) -> int:
    """What stands behind the header: the handle that was made, or the size of the parameters."""
    if len(answer) < 14:
        raise TpmRefusedError("tampered", "an answer of the TPM is cut short")
    return int(struct.unpack_from(">I", answer, 10)[0])


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def unsized(data: bytes) -> tuple[bytes, bytes]:
    """The contents of a TPM2B, and what follows it."""
    size = struct.unpack_from(">H", data)[0] if len(data) >= 2 else 0
    if len(data) < 2 + size:
        raise TpmRefusedError("tampered", "an answer of the TPM is cut short")
    return data[2 : 2 + size], data[2 + size :]


def _kdf_a(key: bytes, label: bytes, first: bytes, second: bytes) -> bytes:
    """SP 800-108 in counter mode over HMAC-SHA256, one block of 256 bits."""
    return hmac.digest(key, struct.pack(">I", 1) + label + b"\0" + first + second + struct.pack(">I", 256), "sha256")

"""The signed policy: the raw files as their author wrote them, under the root key. Everybody decides from these bytes.

    bundle    = [body: bin, signature: bin(512), cosignature: bin]
    body      = [1, domain, version, made_ms, [[path, bytes]..] by path]
    signature = RSA-PSS with SHA3-384, salt 48, over "tpmbus/1 policy" ‖ body, by the root key: the trust signer's does not do

The digest is the body's: over raw files, not over a compiled model that another version of the library may compile otherwise.
A path is a name within the bundle, never opened as a file: relative, ASCII, normalised. Rosters that the policy names lie
inside; who joined besides stands in a file of its own, so that `agents:` of all files is everybody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from bus.policy import Policy, load
from bus.protocol import codec, contexts
from bus.trust import root_signature, signed
from bus.trust.certificates import Root
from bus.trust.signed import untrusted

MAX_BUNDLE_BYTES: Final = 8 << 20
ROOM_FOR_SIGNATURES: Final = 8_192
"""Of these, what a maker leaves for the array around the body and for both signatures."""
MAX_FILES: Final = 1_024
SIGNATURE_BYTES: Final = 512
"""RSA-4096's."""
MAX_PATH_BYTES: Final = 255
VERSION: Final = 1

_PATH: Final = re.compile(r"[\x20-\x5b\x5d-\x7e]+")
"""ASCII that shows, without the backslash, which separates folders elsewhere."""
_FIELDS: Final = 3
_BODY_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class Bundle:
    """One that verified."""

    domain: str
    version: int
    made_ms: int
    files: Mapping[str, bytes] = field(repr=False, compare=False)
    """As `raw` has them."""
    digest: bytes
    """SHA-256 of the body."""
    raw: bytes = field(repr=False)

    def policy(self) -> Policy:
        """What the files say. Raises PolicyError, and VerificationError("untrusted") if they are for another domain."""
        policy = load(self.files)
        if policy.domain != self.domain:
            raise untrusted(f"signed for {self.domain!r}, but its files say {policy.domain!r}")
        return policy


def read(data: bytes, *, root: Root, domain: str, ml_dsa_root: bytes | None = None) -> Bundle:
    """A bundle of this domain's authority. Whether it is older than another one, `advance_policy` says.

    Raises RemoteProtocolError("malformed") and VerificationError("untrusted").
    """
    body, signature, cosignature = signed.outer(data, fields=_FIELDS, most=MAX_BUNDLE_BYTES)
    codec.sized(body)
    codec.sized(signature, SIGNATURE_BYTES)
    signed.cosignature_field(cosignature)
    try:
        root_signature.verify(root.public_key, tbs(body), signature)
    except ValueError as error:
        raise untrusted("a policy that the pinned root did not sign") from error
    signed.check_cosignature(ml_dsa_root, tbs(body), cosignature)
    bundle = parse_body(body, raw=data)
    if bundle.domain != domain:
        raise untrusted(f"a policy of the domain {bundle.domain[:64]!r}, not of {domain!r}")
    return bundle


def tbs(body: bytes) -> bytes:
    """What the root key signs, and the ML-DSA root key co-signs."""
    return contexts.POLICY + body


def encode(body: bytes, *, signature: bytes, cosignature: bytes = b"") -> bytes:
    return bytes(codec.pack([body, signature, cosignature]))


def body_bytes(*, domain: str, version: int, made_ms: int, files: Mapping[str, bytes]) -> bytes:
    """The one encoding of these files. What a reader would refuse is a ValueError here."""
    for path in files:
        fault = path_fault(path)
        if fault:
            raise ValueError(f"{path[:MAX_PATH_BYTES]!r} {fault}")
    if not 0 < len(files) <= MAX_FILES:
        raise ValueError(f"a bundle has 1 to {MAX_FILES:,} files, not {len(files):,}")
    body: bytes = codec.pack([VERSION, domain, version, made_ms, [[path, files[path]] for path in sorted(files)]])
    if len(body) > MAX_BUNDLE_BYTES - ROOM_FOR_SIGNATURES:
        raise ValueError(
            f"a bundle has at most {MAX_BUNDLE_BYTES:,} bytes, signatures included, and these files have {len(body):,}"
        )
    return body


def parse_body(body: bytes, *, raw: bytes) -> Bundle:
    """What a body holds, strictly. It proves nothing: `read` does. Raises RemoteProtocolError("malformed")."""
    if len(body) > MAX_BUNDLE_BYTES:
        raise codec.malformed("a bundle that is too long")
    form, domain, version, made_ms, rows = codec.array(codec.unpack(body, longest=MAX_FILES), _BODY_FIELDS)
    if codec.unsigned(form) != VERSION:
        raise codec.malformed(f"a bundle of version {form}, of which this library knows nothing")
    if not codec.unsigned(version):
        raise codec.malformed("policies count from 1")
    return Bundle(
        domain=codec.ascii_text(domain),
        version=version,
        made_ms=codec.unsigned(made_ms),
        files=MappingProxyType(_files(rows)),
        digest=hashlib.sha256(body).digest(),
        raw=raw,
    )


def path_fault(path: str) -> str | None:
    """What is wrong with the path of a file in a bundle; None if nothing is."""
    if len(path) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} characters"
    if _PATH.fullmatch(path) is None:
        return "is empty, or has a character that is not printable ASCII, or a backslash"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "is not relative and normalised: no '/' at its ends, no '//', no '.' and no '..'"
    return None


def _files(rows: Any) -> dict[str, bytes]:
    if type(rows) is not list or not rows:
        raise codec.malformed("a bundle without files")
    files: dict[str, bytes] = {}
    last = ""
    for row in rows:
        path, text = codec.array(row, 2)
        fault = path_fault(codec.ascii_text(path))
        if fault or path <= last:
            raise codec.malformed(f"a file whose path {fault or 'does not ascend'}")
        files[path] = codec.sized(text)
        last = path
    return files

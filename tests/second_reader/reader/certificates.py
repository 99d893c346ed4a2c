"""Part 7: what certificates, the root and revocation lists share: names, times, extensions, the one signature algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from . import der, rsa_pss
from .der import Item, NotDer, need
from .digests import HASHES
from .public_keys import PublicKey
from .refusal import Refused

MAX_BYTES = 8_192
ALGORITHM = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402090500a11c301a06092a864886f70d010108300d0609608648016503040209050"
    "0a203020130"
)
ARC = "6999c8e0a7e1aa9282d596c0e8d6a888edb776"
DAY_MS = 86_400_000

COMMON_NAME = bytes.fromhex("550403")
SUBJECT_KEY_ID, KEY_USAGE, ALT_NAME = (bytes.fromhex("551d" + end) for end in ("0e", "0f", "11"))
BASIC_CONSTRAINTS, CRL_NUMBER, CRL_REASON = (bytes.fromhex("551d" + end) for end in ("13", "14", "15"))
AUTHORITY_KEY_ID, EXTENDED_KEY_USAGE = (bytes.fromhex("551d" + end) for end in ("23", "25"))
PINNED = bytes.fromhex(ARC + "0a")

_P, _R = ParamSpec("_P"), TypeVar("_R")


def untrusted(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """What is not DER, or breaks a rule here, is untrusted."""

    @wraps(function)
    def judged(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except NotDer as error:
            raise Refused("untrusted", str(error)) from error

    return judged


@dataclass(frozen=True)
class Extension:
    critical: bool
    value: bytes


def common_name(name: Item) -> str:
    """One RDN with one CN that is a UTF8String."""
    names = name.items()
    need(len(names) == 1, "not one RDN")
    attributes = names[0].items(der.SET)
    need(len(attributes) == 1, "not one attribute")
    pair = attributes[0].items()
    need(len(pair) == 2 and pair[0].of(der.OID).content == COMMON_NAME, "no CN")
    try:
        return pair[1].of(der.UTF8).content.decode()
    except UnicodeDecodeError:
        raise NotDer("no UTF-8") from None


def serial(item: Item) -> int:
    number = item.integer()
    need(number > 0 and len(item.content) <= 20, "serial")
    return number


def signed_parts(data: bytes, root: PublicKey | None) -> list[Item]:
    """What is inside the TBS, after the algorithm and the signature of `root` over it. Without `root` nothing is verified."""
    parts = der.read(data).items()
    need(len(parts) == 3 and parts[1].whole == ALGORITHM, "another signature algorithm")
    signature = parts[2].bits()
    need(len(signature) == 512, "a signature of another length")
    if root is not None:
        verify_root(root, parts[0].whole, signature)
    return parts[0].items()


def verify_root(root: PublicKey, message: bytes, signature: bytes) -> None:
    h = HASHES[19]  # SHA3-384
    need(len(signature) == 512 and rsa_pss.verify(root.numbers[0], h, h(message), signature), "not signed by the root")


def extensions(item: Item, tag: int) -> dict[bytes, Extension]:
    inner = item.items(tag)
    need(len(inner) == 1, "extensions")
    found: dict[bytes, Extension] = {}
    listed = inner[0].items()
    need(listed, "no extension in the list")
    for entry in listed:
        oid, extension = extension_of(entry)
        need(oid not in found, "an extension twice")
        found[oid] = extension
    return found


def extension_of(entry: Item) -> tuple[bytes, Extension]:
    parts = entry.items()
    need(len(parts) in {2, 3}, "no extension")
    critical = len(parts) == 3 and parts[1].true()
    return parts[0].of(der.OID).content, Extension(critical, parts[-1].of(der.OCTETS).content)


def take(found: dict[bytes, Extension], oid: bytes, *, critical: bool) -> bytes:
    """The value of one that must be there, and is taken out."""
    extension = found.pop(oid, None)
    need(extension is not None, "an extension is missing")
    need(extension is not None and extension.critical is critical, "critical or not")
    return extension.value if extension else b""


def none_critical(found: dict[bytes, Extension]) -> None:
    need(not any(extension.critical for extension in found.values()), "an unknown critical extension")


def authority_key_id(key_id: bytes) -> bytes:
    return der.write(der.SEQUENCE, der.write(0x80, key_id))

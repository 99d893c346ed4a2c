"""Part 7: certificates of the four profiles."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass

from . import certificates as c
from . import der, suites
from .der import Item, need
from .digests import HASHES, sha256
from .names import AGENT, DOMAIN
from .public_keys import PublicKey, read_spki
from .root import Root

IDENTITY = frozenset(HASHES) - {1}
DNS = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
SERVER_AUTH, CLIENT_AUTH = bytes.fromhex("2b06010505070301"), bytes.fromhex("2b06010505070302")


@dataclass(frozen=True)
class Profile:
    usages: tuple[bytes, ...]
    longest_ms: int
    suites: frozenset[int]
    origins: frozenset[int]
    other_names: bool


def _arc(number: int) -> bytes:
    return bytes.fromhex(c.ARC) + bytes([number])


ALL, SOFTWARE = frozenset({0, 1, 2}), frozenset({0})
PROFILES = {
    "agent": Profile((_arc(1),), 365 * c.DAY_MS, IDENTITY, ALL, True),
    "tls": Profile((_arc(2), SERVER_AUTH, CLIENT_AUTH), c.DAY_MS, frozenset({32}), SOFTWARE, True),
    "broker": Profile((_arc(3),), 365 * c.DAY_MS, IDENTITY, ALL, True),
    "trust": Profile((_arc(4),), 365 * c.DAY_MS, frozenset({51}), SOFTWARE, False),
}


@dataclass(frozen=True)
class Certificate:
    name: str
    suite: int
    origin: int
    level: int
    serial: int
    not_before_ms: int
    not_after_ms: int
    signer: bytes
    spki: bytes
    key: PublicKey


@functools.lru_cache(4096)
@c.untrusted
def read_certificate(data: bytes, profile: str, root: Root, domain: str) -> Certificate:
    wanted = PROFILES[profile]
    need(len(data) <= c.MAX_BYTES, "too long")
    parts = c.signed_parts(data, root.key)
    need(len(parts) == 8, "fields")
    version, serial, algorithm, issuer, validity, subject, spki, extra = parts
    need(version.tag == 0xA0 and version.content == b"\x02\x01\x02", "version")
    need(algorithm.whole == c.ALGORITHM and issuer.whole == root.subject, "algorithm or issuer")
    begins, ends = _validity(validity, root, wanted.longest_ms)
    key = read_spki(spki.whole)
    found = c.extensions(extra, 0xA3)
    need(c.take(found, c.BASIC_CONSTRAINTS, critical=True) == bytes.fromhex("3000"), "basicConstraints")
    need(c.take(found, c.KEY_USAGE, critical=True) == bytes.fromhex("03020780"), "keyUsage")
    usages = der.write(der.SEQUENCE, *(der.write(der.OID, usage) for usage in wanted.usages))
    need(c.take(found, c.EXTENDED_KEY_USAGE, critical=False) == usages, "extKeyUsage")
    need(c.take(found, c.AUTHORITY_KEY_ID, critical=False) == c.authority_key_id(root.key_id), "authorityKeyIdentifier")
    own_id = der.write(der.OCTETS, hashlib.sha1(key.bits).digest())
    need(c.take(found, c.SUBJECT_KEY_ID, critical=False) == own_id, "subjectKeyIdentifier")
    name = c.common_name(subject)
    need(AGENT.fullmatch(name) and DOMAIN.fullmatch(domain), "name or domain")
    uri = f"spiffe://{domain}/{profile}/{name}"
    _alternative_names(c.take(found, c.ALT_NAME, critical=False), uri, others=wanted.other_names)
    suite, origin, level = _pinned(c.take(found, c.PINNED, critical=False))
    need(suite in wanted.suites and origin in wanted.origins and key.kind == suites.kind(suite), "suite, origin or key")
    c.none_critical(found)
    return Certificate(name, suite, origin, level, c.serial(serial), begins, ends, sha256(data), spki.whole, key)


def _validity(item: Item, root: Root, longest_ms: int) -> tuple[int, int]:
    times = [part.time_ms() for part in item.items()]
    need(len(times) == 2, "validity")
    begins, ends = times
    need(root.not_before_ms <= begins < ends <= root.not_after_ms and ends - begins <= longest_ms, "validity")
    return begins, ends


def _alternative_names(value: bytes, uri: str, *, others: bool) -> None:
    names = der.read(value).items()
    uris = [name.content for name in names if name.tag == 0x86]
    rest = [name for name in names if name.tag != 0x86]
    need(uris == [uri.encode()], "URI")
    need(len(rest) <= (16 if others else 0) and all(map(_other_name, rest)), "other names")


def _other_name(name: Item) -> bool:
    if name.tag == 0x87:
        return len(name.content) in {4, 16}
    return name.tag == 0x82 and DNS.fullmatch(name.content.decode("latin-1")) is not None


def _pinned(value: bytes) -> tuple[int, int, int]:
    """(suite, origin, level)."""
    parts = der.read(value).items()
    need(len(parts) == 4 and parts[0].integer() == 1, "private extension")
    suite, origin, level = parts[1].integer(), parts[2].integer(der.ENUMERATED), parts[3].integer()
    need(0 <= origin <= 2 and 0 <= level <= 6, "private extension")
    return suite, origin, level

"""Part 7: the pinned root."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

from . import certificates as c
from . import der
from .der import need
from .public_keys import PublicKey, read_spki

LONGEST_MS = 3_652 * c.DAY_MS


@dataclass(frozen=True)
class Root:
    key: PublicKey
    subject: bytes
    key_id: bytes
    not_before_ms: int
    not_after_ms: int


@functools.lru_cache(64)
@c.untrusted
def read_root(data: bytes) -> Root:
    need(len(data) <= c.MAX_BYTES, "too long")
    parts = c.signed_parts(data, None)
    need(len(parts) == 8, "fields")
    version, serial, algorithm, issuer, validity, subject, spki, extra = parts
    need(version.tag == 0xA0 and version.content == b"\x02\x01\x02", "version")
    c.serial(serial)
    need(algorithm.whole == c.ALGORITHM, "algorithm")
    need(issuer.whole == subject.whole, "issuer")
    c.common_name(subject)
    times = [item.time_ms() for item in validity.items()]
    need(len(times) == 2 and times[0] < times[1] <= times[0] + LONGEST_MS, "validity")
    key = read_spki(spki.whole)
    need(key.kind == "rsa4096", "key")
    _, _, signature = der.read(data).items()
    c.verify_root(key, der.read(data).items()[0].whole, signature.bits())
    found = c.extensions(extra, 0xA3)
    need(c.take(found, c.BASIC_CONSTRAINTS, critical=True) == bytes.fromhex("30060101ff020100"), "basicConstraints")
    need(c.take(found, c.KEY_USAGE, critical=True) == bytes.fromhex("03020106"), "keyUsage")
    key_id = hashlib.sha1(key.bits).digest()
    need(c.take(found, c.SUBJECT_KEY_ID, critical=False) == der.write(der.OCTETS, key_id), "subjectKeyIdentifier")
    need(c.EXTENDED_KEY_USAGE not in found, "extKeyUsage")
    c.none_critical(found)
    return Root(key, subject.whole, key_id, times[0], times[1])

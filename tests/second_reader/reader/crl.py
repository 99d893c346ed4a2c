"""Part 7: the revocation list."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from . import certificates as c
from . import der
from .der import Item, need
from .root import Root

MAX_BYTES, LONGEST_MS = 4_194_304, 7 * c.DAY_MS
REASONS = {1: "compromised", 4: "rotated", 5: "retired", 9: "withdrawn"}


@dataclass(frozen=True)
class Revoked:
    serial: int
    date_ms: int
    reason: str


@dataclass(frozen=True)
class Crl:
    number: int
    this_update_ms: int
    next_update_ms: int
    entries: tuple[Revoked, ...]
    by_serial: dict[int, Revoked]

    def ever(self, serial: int) -> Revoked | None:
        """Its entry, unless that counts only from a date on."""
        entry = self.by_serial.get(serial)
        return entry if entry and entry.reason != "rotated" else None

    def at(self, serial: int, when_ms: int) -> Revoked | None:
        """Its entry, if that counts for what happened then."""
        entry = self.by_serial.get(serial)
        return entry if entry and (entry.reason != "rotated" or when_ms >= entry.date_ms) else None


@functools.lru_cache(256)
@c.untrusted
def read_crl(data: bytes, root: Root) -> Crl:
    need(len(data) <= MAX_BYTES, "too long")
    parts = c.signed_parts(data, root.key)
    need(len(parts) in {6, 7}, "fields")
    version, algorithm, issuer, this_update, next_update = parts[:5]
    need(version.integer() == 1, "version")
    need(algorithm.whole == c.ALGORITHM and issuer.whole == root.subject, "algorithm or issuer")
    begins, ends = this_update.time_ms(), next_update.time_ms()
    need(0 < ends - begins <= LONGEST_MS, "updates")
    listed = parts[5].items() if len(parts) == 7 else []
    need(listed or len(parts) == 6, "an empty list of certificates")
    entries = tuple(map(_entry, listed))
    by_serial = {entry.serial: entry for entry in entries}
    need(len(by_serial) == len(entries), "a serial twice")
    found = c.extensions(parts[-1], 0xA0)
    need(c.take(found, c.AUTHORITY_KEY_ID, critical=False) == c.authority_key_id(root.key_id), "authorityKeyIdentifier")
    number = der.read(c.take(found, c.CRL_NUMBER, critical=False)).integer()
    need(1 <= number < 2**63, "cRLNumber")
    need(not found, "another extension")
    return Crl(number, begins, ends, entries, by_serial)


def _entry(item: Item) -> Revoked:
    parts = item.items()
    need(len(parts) in {2, 3}, "no entry")
    reason = "unspecified"
    if len(parts) == 3:
        listed = parts[2].items()
        need(len(listed) == 1, "extensions of an entry")
        oid, extension = c.extension_of(listed[0])
        code = der.read(extension.value).integer(der.ENUMERATED)
        need(oid == c.CRL_REASON and not extension.critical and code in REASONS, "reason")
        reason = REASONS[code]
    return Revoked(c.serial(parts[0]), parts[1].time_ms(), reason)

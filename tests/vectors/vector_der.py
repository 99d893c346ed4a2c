"""Certificates and revocation lists whose DER is wrong in one place, signed by the root itself."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any

import forge as forgery
from cryptography import x509
from forge import content, elements, tlv

VALIDITY, KEY, EXTENSIONS = 4, 6, 7
UTC, GENERALIZED = 0x17, 0x18
Change = Callable[[list[bytes]], None]


def _extensions(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    def changed(fields: list[bytes]) -> None:
        listed = elements(content(content(fields[EXTENSIONS])))
        fields[EXTENSIONS] = tlv(0xA3, tlv(0x30, b"".join(change(listed))))

    return changed


def _true(octet: bytes) -> Change:
    """The first critical extension says so by another octet than ff."""
    return _extensions(lambda listed: [one.replace(b"\1\1\xff", b"\1\1" + octet, 1) for one in listed])


def _begins(tag: int, text: bytes) -> Change:
    def changed(fields: list[bytes]) -> None:
        fields[VALIDITY] = tlv(0x30, tlv(tag, text) + elements(content(fields[VALIDITY]))[1])

    return changed


def _three_times(fields: list[bytes]) -> None:
    times = elements(content(fields[VALIDITY]))
    fields[VALIDITY] = tlv(0x30, b"".join([*times, times[1]]))


CERTIFICATES: dict[str, Change] = {
    "an extension twice": _extensions(lambda listed: [*listed, listed[-1]]),
    "two extensions of one kind, the second otherwise": _extensions(lambda listed: [*listed, listed[3]]),
    "TRUE written 01": _true(b"\x01"),
    "critical FALSE written out": _extensions(lambda listed: [*listed[:2], _not_critical(listed[2]), *listed[3:]]),
    "no seconds": _begins(UTC, b"2701150800Z"),
    "a time zone": _begins(UTC, b"270115080000+0000"),
    "no zone": _begins(UTC, b"270115080000"),
    "month 13": _begins(UTC, b"271315080000Z"),
    "month 0": _begins(UTC, b"270015080000Z"),
    "the 30th of February": _begins(UTC, b"270230080000Z"),
    "hour 24": _begins(UTC, b"270115240000Z"),
    "minute 60": _begins(UTC, b"270115086000Z"),
    "second 60": _begins(UTC, b"270115080060Z"),
    "letters in a time": _begins(UTC, b"27011508000aZ"),
    "GeneralizedTime with fractions": _begins(GENERALIZED, b"20270115080000.5Z"),
    "a time of another type": _begins(0x13, b"270115080000Z"),
    "three times": _three_times,
}


def _not_critical(extension: bytes) -> bytes:
    number, value = elements(content(extension))
    return tlv(0x30, number + b"\1\1\0" + value)


def points(forge: Any) -> dict[str, bytes]:
    """P-256 keys whose point is none, or in another form; the key identifier fits."""
    spki = forgery.spki(forgery.P256)
    algorithm, bits = elements(content(spki))
    point = content(bits)[1:]
    x, y = point[1:33], point[33:]
    wrong = {
        "a point off its curve": b"\4" + x + y[:-1] + bytes([y[-1] ^ 1]),
        "a coordinate that is not below p": b"\4" + b"\xff" * 32 + y,
        "a compressed point": bytes([2 + (y[-1] & 1)]) + x,
        "a hybrid point": bytes([6 + (y[-1] & 1)]) + x + y,
        "the point at infinity": b"\0",
        "a point that is a byte short": point[:-1],
    }
    made = {}
    for name, changed in wrong.items():
        der = forge.certificate(ski=x509.SubjectKeyIdentifier(sha1(changed, usedforsecurity=False).digest()))
        key = tlv(0x30, algorithm + tlv(0x03, b"\0" + changed))
        made[name] = forge.resigned(der, _put(KEY, key))
    return made


def _put(place: int, value: bytes) -> Change:
    def changed(fields: list[bytes]) -> None:
        fields[place] = value

    return changed


def certificates(forge: Any) -> dict[str, bytes]:
    return {name: forge.resigned(forge.certificate(), change) for name, change in CERTIFICATES.items()} | points(forge)


def roots(forge: Any) -> dict[str, bytes]:
    named = {name: CERTIFICATES[name] for name in ("an extension twice", "TRUE written 01", "three times", "month 13")}
    named["version 1 that says so"] = _put(0, bytes.fromhex("a003020100"))
    named["a unique identifier"] = lambda fields: fields.insert(EXTENSIONS, bytes.fromhex("81020001"))
    return {name: forge.resigned(forge.root_certificate(), change) for name, change in named.items()}


def lists(forge: Any) -> dict[str, bytes]:
    def four(fields: list[bytes]) -> None:
        one = elements(content(fields[5]))[0]
        fields[5] = tlv(0x30, tlv(0x30, content(one) + b"\5\0"))

    return {
        "an entry with something behind": forge.resigned(forge.crl(forgery.entry(5)), four),
        "month 13": forge.resigned(forge.crl(), _put(3, tlv(UTC, b"271315080000Z"))),
    }

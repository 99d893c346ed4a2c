"""Part 5: public and private keys that grants are sealed to, and HPKE to them."""

from __future__ import annotations

import functools
from typing import Any

import hpke
import ml_kem
from cryptography.exceptions import InvalidTag

from .refusal import Refused, demand

HPKE_KEMS = {1: hpke.X25519, 2: hpke.HYBRID}
PUBLIC_BYTES = {1: 32, 2: 1216}
PRIVATE_BYTES = {1: 32, 2: 96}
_P = 2**255 - 19
_SMALL_ORDER = {
    0,
    1,
    _P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}


@functools.lru_cache(1024)
def _fault(kem: int, key: bytes) -> str:
    if len(key) != PUBLIC_BYTES[kem]:
        return "another length"
    u = int.from_bytes(key[-32:], "little")
    if u >= _P or u in _SMALL_ORDER:
        return "its X25519 part is not canonical, or of small order"
    if kem == 2:
        try:
            ml_kem.check_ek(key[:-32])
        except ml_kem.NotAKeyError:
            return "its ML-KEM part is not reduced"
    return ""


def check_public(kem: int, key: Any) -> bytes:
    demand(type(key) is bytes, "malformed")
    fault = _fault(kem, key)
    demand(not fault, "malformed", fault)
    return key


@functools.lru_cache(1024)
def public_of(kem: int, private: bytes) -> bytes:
    return hpke.public_of(HPKE_KEMS[kem], private)


@functools.lru_cache(4096)
def open_sealed(kem: int, private: bytes, sealed: bytes, info: bytes) -> bytes:
    number = HPKE_KEMS[kem]
    demand(len(sealed) >= hpke.SIZES[number][0] + 16, "bad_seal", "too short")
    try:
        return hpke.open_sealed(number, private, sealed, info)
    except (InvalidTag, RuntimeError, ml_kem.NotAKeyError) as error:
        raise Refused("bad_seal") from error

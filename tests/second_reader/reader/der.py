"""A strict walk over DER: lengths in the shortest form, and nothing behind what was read. Whatever is not DER is `NotDer`."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass

INTEGER, BITS, OCTETS, NULL, OID, ENUMERATED, UTF8 = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x0C
BOOLEAN, UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x01, 0x17, 0x18, 0x30, 0x31


class NotDer(ValueError):  # noqa: N818  what the bytes are, not what went wrong
    pass


def need(condition: object, why: str = "not DER") -> None:
    if not condition:
        raise NotDer(why)


@dataclass(frozen=True)
class Item:
    tag: int
    content: bytes
    whole: bytes

    def of(self, tag: int) -> Item:
        need(self.tag == tag, f"tag {self.tag:02x} where {tag:02x} is due")
        return self

    def items(self, tag: int = SEQUENCE) -> list[Item]:
        return read_all(self.of(tag).content)

    def integer(self, tag: int = INTEGER) -> int:
        content = self.of(tag).content
        need(content and not (len(content) > 1 and content[0] == 0 and content[1] < 0x80), "an INTEGER that is not the shortest")
        need(not (len(content) > 1 and content[0] == 0xFF and content[1] >= 0x80), "an INTEGER that is not the shortest")
        return int.from_bytes(content, "big", signed=True)

    def bits(self) -> bytes:
        """Whole bytes."""
        content = self.of(BITS).content
        need(content and content[0] == 0, "a BIT STRING that is no bytes")
        return content[1:]

    def true(self) -> bool:
        """A BOOLEAN with the default FALSE stands there only if it is TRUE."""
        need(self.of(BOOLEAN).content == b"\xff", "a BOOLEAN that is not TRUE")
        return True

    def time_ms(self) -> int:
        """UTCTime until 2049, GeneralizedTime from 2050 on, both to the second and in Z."""
        digits = {UTC_TIME: 12, GENERALIZED_TIME: 14}.get(self.tag, 0)
        match = re.fullmatch(rb"([0-9]{%d})Z" % digits, self.content) if digits else None
        need(match, "no time")
        text = self.content[:-1].decode()
        if digits == 12:
            text = ("19" if text[:2] >= "50" else "20") + text
        year, *rest = int(text[:4]), *(int(text[i : i + 2]) for i in range(4, 14, 2))
        need(digits == 12 or year >= 2050, "a GeneralizedTime before 2050")
        month, day, hour, minute, second = rest
        need(1 <= month <= 12 and hour < 24 and minute < 60 and second < 60, "no time")
        need(1 <= day <= calendar.monthrange(year, month)[1], "no day")
        return calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0)) * 1000


def _one(data: bytes, at: int) -> tuple[Item, int]:
    need(at + 2 <= len(data), "ends too early")
    tag, length, start = data[at], data[at + 1], at + 2
    need(tag & 0x1F != 0x1F, "a tag of several bytes")
    if length >= 0x80:
        width = length & 0x7F
        need(1 <= width <= 4 and start + width <= len(data), "a length that is none")
        length, start = int.from_bytes(data[start : start + width], "big"), start + width
        need(length >= 0x80 and length >= 1 << 8 * (width - 1), "a length that is not the shortest")
    end = start + length
    need(end <= len(data), "ends too early")
    return Item(tag, data[start:end], data[at:end]), end


def read_all(data: bytes) -> list[Item]:
    found, at = [], 0
    while at < len(data):
        item, at = _one(data, at)
        found.append(item)
    return found


def read(data: bytes) -> Item:
    """One value and nothing behind it."""
    need(data, "nothing")
    item, end = _one(data, 0)
    need(end == len(data), "something follows")
    return item


def write(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    width = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 + width]) + length.to_bytes(width, "big") + content


def write_integer(number: int) -> bytes:
    return write(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))

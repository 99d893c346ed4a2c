"""DER, as far as trust needs it: elements taken from the front, each in its one encoding, and nothing left over.

X.509 has libraries. This is for what they do not show or do not refuse: bytes behind the end, a signature algorithm that is
written in another way, and our own extension.
"""

from __future__ import annotations

from typing import Final

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30


class Reader:
    """Takes elements from the front. Everything wrong is a ValueError."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def element(self, tag: int) -> bytes:
        """The next element as it stands, with tag and length."""
        start = self._at
        self._skip(tag)
        return self._data[start : self._at]

    def content(self, tag: int) -> bytes:
        """What is in the next element."""
        return self._skip(tag)

    def unsigned(self, tag: int, *, most_octets: int) -> int:
        """A number that is not negative, in shortest form."""
        content = self._skip(tag)
        if (
            not 0 < len(content) <= most_octets
            or content[0] & 0x80
            or (len(content) > 1 and content[0] == 0 and not content[1] & 0x80)
        ):
            raise ValueError("a number that is negative, too long, or not in shortest form")
        return int.from_bytes(content, "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("bytes behind the end")

    def _skip(self, tag: int) -> bytes:
        head = self._data[self._at : self._at + 2]
        if len(head) < 2 or head[0] != tag:
            raise ValueError(f"no element of tag 0x{tag:02x}")
        length, begin = head[1], self._at + 2
        if length & 0x80:
            octets = self._data[begin : begin + (length & 0x7F)]
            begin += len(octets)
            length = int.from_bytes(octets, "big")
            if len(octets) != head[1] & 0x7F or length < 0x80 or octets[0] == 0:
                raise ValueError("a length that is not in shortest form")
        end = begin + length
        if end > len(self._data):
            raise ValueError("an element that is cut short")
        self._at = end
        return self._data[begin:end]


def element(tag: int, content: bytes) -> bytes:
    """Its one encoding. Contents are short here: up to 127 bytes."""
    if len(content) > 0x7F:
        raise ValueError(f"{len(content)} bytes are more than this encoder is for")
    return bytes([tag, len(content)]) + content


def number(tag: int, value: int) -> bytes:
    return element(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))

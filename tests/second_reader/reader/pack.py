"""Part 2: the allowed part of msgpack, read by hand. Arrays become lists, and nothing but the shortest form is read.

The parser keeps its own stack: how deep arrays may lie in each other is bounded by the length of the bytes alone.
"""

from __future__ import annotations

from typing import Any

from .refusal import Refused, demand

MALFORMED = "malformed"

Value = Any
"""int, bytes, str, list; None and bool where they are allowed."""

# first byte: (kind, bytes of the number behind it, the least number that needs this form)
_LONG = {
    0xC4: ("bin", 1, 0),
    0xC5: ("bin", 2, 1 << 8),
    0xC6: ("bin", 4, 1 << 16),
    0xCC: ("uint", 1, 1 << 7),
    0xCD: ("uint", 2, 1 << 8),
    0xCE: ("uint", 4, 1 << 16),
    0xCF: ("uint", 8, 1 << 32),
    0xD9: ("str", 1, 1 << 5),
    0xDA: ("str", 2, 1 << 8),
    0xDB: ("str", 4, 1 << 16),
    0xDC: ("array", 2, 1 << 4),
    0xDD: ("array", 4, 1 << 16),
}
_BARE = {0xC0: None, 0xC2: False, 0xC3: True}


class _Reader:
    def __init__(self, data: bytes, *, bare: bool) -> None:
        self.data, self.at, self.bare = data, 0, bare

    def take(self, count: int) -> bytes:
        end = self.at + count
        demand(end <= len(self.data), MALFORMED, "ends too early")
        part, self.at = self.data[self.at : end], end
        return part

    def token(self) -> tuple[str, Value]:
        """("array", number of fields), or ("value", what it is)."""
        first = self.take(1)[0]
        if first <= 0x7F:
            return "value", first
        if 0x90 <= first <= 0x9F:
            return "array", first - 0x90
        if 0xA0 <= first <= 0xBF:
            return "value", self._text(first - 0xA0)
        if first in _BARE and self.bare:
            return "value", _BARE[first]
        return self._long(first)

    def _long(self, first: int) -> tuple[str, Value]:
        demand(first in _LONG, MALFORMED, f"first byte {first:02x}")
        kind, width, least = _LONG[first]
        number = int.from_bytes(self.take(width), "big")
        demand(number >= least, MALFORMED, "not the shortest form")
        if kind == "array":
            demand(number <= len(self.data) - self.at, MALFORMED, "more fields than bytes")
            return "array", number
        if kind == "uint":
            return "value", number
        return "value", self.take(number) if kind == "bin" else self._text(number)

    def _text(self, length: int) -> str:
        try:
            return self.take(length).decode("ascii")
        except UnicodeDecodeError:
            raise Refused(MALFORMED, "a str that is not ASCII") from None


def parse(data: bytes, limit: int, *, bare: bool = False) -> Value:
    """One value and nothing behind it. `bare`: nil and bool are allowed."""
    demand(len(data) <= limit, MALFORMED, f"{len(data)} bytes of at most {limit}")
    reader = _Reader(data, bare=bare)
    outermost: list[Value] = []
    stack: list[tuple[list[Value], int]] = [(outermost, 1)]
    while stack:
        fields, wanted = stack[-1]
        if len(fields) == wanted:
            stack.pop()
            continue
        kind, value = reader.token()
        if kind == "array":
            inner: list[Value] = []
            fields.append(inner)
            stack.append((inner, value))
        else:
            fields.append(value)
    demand(reader.at == len(data), MALFORMED, "something follows")
    return outermost[0]


def _head(number: int, forms: tuple[int, ...]) -> bytes:
    for first in forms:
        _, width, _ = _LONG[first]
        if number < 1 << 8 * width:
            return bytes([first]) + number.to_bytes(width, "big")
    raise OverflowError(number)


def pack(value: Value) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        return bytes([value]) if 0 <= value < 128 else _head(value, (0xCC, 0xCD, 0xCE, 0xCF))
    if isinstance(value, bytes):
        return _head(len(value), (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, str):
        text = value.encode("ascii")
        return (bytes([0xA0 + len(text)]) if len(text) < 32 else _head(len(text), (0xD9, 0xDA, 0xDB))) + text
    if isinstance(value, list | tuple):
        head = bytes([0x90 + len(value)]) if len(value) < 16 else _head(len(value), (0xDC, 0xDD))
        return head + b"".join(map(pack, value))
    raise TypeError(value)

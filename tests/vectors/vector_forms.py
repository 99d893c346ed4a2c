"""An array of the protocol, wrong in every way that its types allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from bus.protocol.codec import pack

Change = Callable[[list[Any]], None]
"""Of the fields of a structure."""


def head(first: int, length: int, size: int) -> bytes:
    return bytes([first]) + length.to_bytes(size, "big")


def longer(value: Any) -> Iterator[tuple[str, bytes]]:
    """The same value, in longer forms than its shortest."""
    packed = pack(value)
    if isinstance(value, int):
        for first, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8), (0xD3, 8)):
            if value < 1 << (8 * size) - (first == 0xD3) and first != packed[0]:
                yield f"in the form {first:02x}", head(first, value, size)
        return
    body = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b"".join(map(pack, value))
    forms = {str: (0xD9, 0xDA, 0xDB), bytes: (0xC4, 0xC5, 0xC6), list: (0xDC, 0xDD)}[type(value)]
    for first in forms:
        size = {0xD9: 1, 0xC4: 1, 0xDA: 2, 0xC5: 2, 0xDC: 2}.get(first, 4)
        if first != packed[0] and len(value) < 1 << 8 * size:
            yield f"in the form {first:02x}", head(first, len(value), size) + body


def others(value: Any) -> Iterator[tuple[str, bytes]]:
    """Values of other types in its place."""
    yield "nil", b"\xc0"
    yield "true", b"\xc3"
    yield "a negative number", b"\xff"
    yield "a float", head(0xCB, 0x3FF0000000000000, 8)
    yield "a map", b"\x80"
    yield "an extension", b"\xd4\x01\x00"
    yield "a byte that begins nothing", b"\xc1"
    if not isinstance(value, int):
        yield "a number", b"\x01"
    if not isinstance(value, str):
        yield "text", pack("A")
    else:
        yield "its text as bin", pack(value.encode())
        yield "text that is not ASCII", b"\xa2\xc3\xa9"
        yield "text that is not UTF-8", b"\xa1\xff"
    if not isinstance(value, bytes):
        yield "bytes", pack(b"\x01")
    else:
        yield "its bytes as text", b"\xa1A" if not value else head(0xD9, len(value) % 256, 1) + b"A" * (len(value) % 256)
    if not isinstance(value, list):
        yield "an array", b"\x91" + pack(value)


def around(fields: list[Any]) -> Iterator[tuple[str, bytes]]:
    """What is wrong with the array itself."""
    packed, parts = pack(fields), [pack(one) for one in fields]
    count = len(fields)
    yield "nothing at all", b""
    yield "nil", b"\xc0"
    yield "a number", b"\x00"
    yield "an empty array", b"\x90"
    yield "a map of as many", bytes([0x80 + count % 16]) + b"".join(b"%c" % place + part for place, part in enumerate(parts))
    yield "in a bin", pack(packed)
    yield "in an array", b"\x91" + packed
    yield "a field less", pack(fields[:-1])
    yield "its first field missing", pack(fields[1:])
    yield "a field more", pack([*fields, 0])
    yield "a field more than there is", head(packed[0] + 1, 0, 0) + b"".join(parts) if count < 15 else packed[:-1]
    yield "a length of 16 bits", head(0xDC, count, 2) + b"".join(parts)
    yield "a length of 32 bits", head(0xDD, count, 4) + b"".join(parts)
    yield "a length of four thousand millions", head(0xDD, 2**32 - 1, 4) + b"".join(parts)
    yield "a byte behind", packed + b"\x00"
    yield "the same again behind", packed + packed
    yield "its last byte missing", packed[:-1]


def wrong(fields: list[Any], names: list[str], *, forms: bool = True) -> Iterator[tuple[str, bytes]]:
    """All of these, and each field in turn."""
    yield from around(fields)
    packed = [pack(one) for one in fields]
    start = pack(fields)[:1] if len(fields) < 16 else pack(fields)[:3]
    for place, (name, value) in enumerate(zip(names, fields, strict=True)):
        for how, data in [*others(value), *(longer(value) if forms else ())]:
            yield f"{name}: {how}", start + b"".join([*packed[:place], data, *packed[place + 1 :]])


def put(*places: int, value: Any) -> Change:
    def change(fields: list[Any]) -> None:
        for place in places[:-1]:
            fields = fields[place]
        fields[places[-1]] = value

    return change


def fields_of(data: bytes) -> list[Any]:
    found: list[Any] = msgpack.unpackb(data)
    return found

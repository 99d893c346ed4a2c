"""The body of an envelope: its records in columns, so that one call packs or unpacks a whole envelope.

    body = [kinds: bin, payloads: [bin..], extras: [[index, [[str, str]..]]..]]

`kinds` has one byte a record: 0 for bytes as they are, 1 for msgpack (decoded by the application, with limits, after everything
else has been verified). `extras` holds the headers of those records that have some, ascending by index, each index once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from bus.protocol.codec import malformed, pack, unpack
from bus.protocol.header import MAX_RECORDS

BYTES: Final = 0
MSGPACK: Final = 1
MAX_HEADERS: Final = 64
"""Of one record."""
MAX_ARRAYS: Final = 3 + MAX_RECORDS * (2 + MAX_HEADERS)
"""Of a body in which every record has as many headers as it may."""

_BYTES_ONLY: Final = {bytes}


class Records(NamedTuple):
    kinds: bytes
    payloads: Sequence[bytes]
    headers: Mapping[int, Mapping[str, str]]
    """By index; most records have none."""

    def encode(self) -> bytes:
        extras = [[index, [*map(list, headers.items())]] for index, headers in sorted(self.headers.items())] if self.headers else []
        return pack([self.kinds, self.payloads, extras])


def parse(body: bytes) -> Records:
    """Raises RemoteProtocolError("malformed")."""
    fields = unpack(body, longest=MAX_RECORDS, arrays=MAX_ARRAYS)
    if len(fields) != 3:
        raise malformed("a body has three columns")
    kinds, payloads, extras = fields
    if type(kinds) is not bytes or type(payloads) is not list or type(extras) is not list:
        raise malformed("a column of another type")
    if len(kinds) != len(payloads) or not payloads or kinds.translate(None, b"\x00\x01"):
        raise malformed("kinds are one byte a record, 0 or 1, and there is at least one")
    if {*map(type, payloads)} != _BYTES_ONLY:
        raise malformed("a payload is bytes")
    return Records(kinds, payloads, _parse_extras(extras, len(payloads)) if extras else {})


def _parse_extras(extras: list[Any], records: int) -> dict[int, dict[str, str]]:
    headers: dict[int, dict[str, str]] = {}
    last = -1
    for extra in extras:
        if type(extra) is not list or len(extra) != 2 or type(extra[0]) is not int or not last < extra[0] < records:
            raise malformed("extras ascend by index, each index once")
        last = extra[0]
        headers[last] = _parse_headers(extra[1])
    return headers


def _parse_headers(pairs: Any) -> dict[str, str]:
    if type(pairs) is not list or not 0 < len(pairs) <= MAX_HEADERS:
        raise malformed(f"a record that has headers has 1 to {MAX_HEADERS}")
    headers: dict[str, str] = {}
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or not all(type(text) is str and text.isascii() for text in pair):
            raise malformed("a header is two ASCII strings")
        headers[pair[0]] = pair[1]
    if len(headers) != len(pairs):
        raise malformed("a header stands twice")
    return headers

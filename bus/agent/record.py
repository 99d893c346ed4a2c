"""A record before it is packed, as publish hooks get it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from bus.errors import MessageTooLargeError
from bus.protocol.records import MAX_HEADERS

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_AROUND: Final = 8
"""Bytes that a header may take beside its two texts."""


class Record(NamedTuple):
    """`record._replace(body=..)` is another one. Its topic stays: who may say what was judged by it."""

    topic: str
    body: Any
    headers: Mapping[str, str] = NO_HEADERS


new_record: Final = tuple.__new__
"""Half as long as to call the class: `new_record(Record, (topic, body, headers))`."""


def checked_headers(headers: Mapping[str, str], most: int) -> tuple[dict[str, str], int]:
    """A copy, and how many bytes it travels in. Raises TypeError, ValueError, MessageTooLargeError.

    What readers would refuse is refused here, alone: an envelope of which one record is malformed is malformed.
    """
    found = dict(headers)
    size = 0
    for name, value in found.items():
        if type(name) is not str or type(value) is not str:
            wrong = value if type(name) is str else name
            raise TypeError(f"header {name!r}: names and values are texts, not {type(wrong).__name__}")
        if not (name.isascii() and value.isascii()):
            raise ValueError(f"header {name!r}: names and values are ASCII; encode what is not, or put it into the body")
        size += len(name) + len(value) + _AROUND
    if len(found) > MAX_HEADERS:
        raise ValueError(f"{len(found)} headers: a message has at most {MAX_HEADERS}; put more into the body")
    if size > most:
        raise MessageTooLargeError(size, limit=most)
    return found, size

"""Bodies, as applications have them and as they travel. Bytes stay bytes; every other value is msgpack.

A body becomes bytes when it is accepted: what is changed later changes nothing, and what cannot travel is said at once. It becomes
a value when it is asked for, after everything else was verified.
"""

from __future__ import annotations

from typing import Any

import msgpack

from bus.errors import MessageTooLargeError
from bus.protocol.codec import pack


def pack_body(body: Any, most: int) -> bytes:
    """Raises TypeError and ValueError for what msgpack cannot say, MessageTooLargeError."""
    if isinstance(body, bytearray | memoryview):
        body = bytes(body)
    try:
        packed = pack(body)
    except OverflowError as error:
        raise ValueError("a number of more than 64 bits does not travel: publish it as text or bytes") from error
    except TypeError as error:
        raise TypeError(f"a body is bytes, or what msgpack can say (None, numbers, texts, lists, mappings): {error}") from error
    if len(packed) > most:
        raise MessageTooLargeError(len(packed), limit=most)
    return packed


def unpack_body(data: bytes) -> Any:
    """Raises ValueError for what is no value."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError("a body that is no msgpack value") from error

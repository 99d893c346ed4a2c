"""A body becomes bytes when it is accepted: what is changed later changes nothing, and what cannot travel is said at once."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from bus.errors import MessageTooLargeError

_pack: Final = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def pack_body(body: Any, most: int) -> bytes:
    """Raises TypeError and ValueError for what msgpack cannot say, MessageTooLargeError."""
    if isinstance(body, bytearray | memoryview):
        body = bytes(body)
    packed = bytes(_pack(body))
    if len(packed) > most:
        raise MessageTooLargeError(len(packed), limit=most)
    return packed

"""The one encoding of protocol structures: msgpack arrays of nil, bool, unsigned, bin, ASCII str and array, in shortest form.

What parses re-encodes identically; all else raises RemoteProtocolError("malformed"). `unpack` looks only at the form; whoever
calls it checks each field's type, which also refuses what msgpack knows and the protocol does not (maps, floats, negative
numbers, extensions): they are no field of any structure.

Memory: msgpack takes room for an array before it has read it, once for each level. So every caller says how long the longest
array of its structure may be, and bytes are measured before they come here. Time: a byte that is an empty array costs as much as
a hundred others. So where nobody has vouched for the bytes yet, the caller also says how many arrays there may be.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Final

import msgpack

from bus.errors import RemoteProtocolError

_idle: Final[list[Callable[[Any], bytes]]] = []
"""Packers that nobody is at work with. One has one buffer, and that it is written in C does not help: packing makes small objects,
any of which may set off the collector, which runs Python code and so lets other threads in. What they, or that code, pack meanwhile
would land in the middle of this."""


def pack(value: Any) -> bytes:
    """In shortest form. Raises TypeError, ValueError and OverflowError for what has none."""
    try:
        packer = _idle.pop()
    except IndexError:
        packer = msgpack.Packer(use_bin_type=True, autoreset=True).pack
    packed = packer(value)
    _idle.append(packer)
    return packed


_MAX_U8: Final = 0xFF
_MAX_U16: Final = 0xFFFF
_NOWHERE: Final = 1 << 62
"""Past the end of anything."""
FEW_BYTES: Final = 4_096
"""In so few there is no harm in arrays, however many: what is short is not counted, which would cost more than parsing it."""


def malformed(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("malformed", detail)


def unpack(data: bytes, *, longest: int, arrays: int | None = None) -> list[Any]:
    """The array that these bytes are. `longest` bounds every array within, and `arrays` how many there are, itself included."""
    hook = None if arrays is None or len(data) <= FEW_BYTES else _at_most(arrays)
    try:
        value = msgpack.unpackb(data, raw=False, max_array_len=longest, max_map_len=0, max_ext_len=0, list_hook=hook)
    except (ValueError, RecursionError, IndexError) as error:  # msgpack's own errors are ValueErrors; the hook's is an IndexError
        raise malformed("no msgpack of the protocol's kind") from error
    if type(value) is not list:
        raise malformed("not an array")
    try:
        shortest = pack(value) == data if hook is None else _end(value, data, 0) == len(data)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise malformed("nested too deeply") from error
    if not shortest:
        raise malformed("not in shortest form")
    return value


_FEW_FIELDS: Final = 15
"""Of an array whose length is in its first byte."""


def _end(value: Any, data: bytes, at: int) -> int:
    """Where a value ends whose shortest form begins there; past all ends if something else stands there.

    As good as packing it all again, and quicker where most of it is in a few long fields. What is in an array of bytes is measured
    alone: a longer form of something in there shows at the end, because nothing else can be shorter than its shortest form.
    """
    if type(value) is bytes:
        head = _bytes_head(len(value))
        return at + len(head) + len(value) if data.startswith(head, at) else _NOWHERE
    if type(value) is list and len(value) <= _FEW_FIELDS:
        if data[at : at + 1] != bytes((0x90 + len(value),)):
            return _NOWHERE
        at += 1
        for field in value:
            at = _end(field, data, at)
        return at
    if type(value) is list and {*map(type, value)} == {bytes}:
        return at + array_of_bytes_size(value)
    packed = pack(value)
    return at + len(packed) if data.startswith(packed, at) else _NOWHERE


def array_of_bytes_size(value: list[bytes]) -> int:
    """How many bytes `pack` makes of an array that holds nothing but bytes."""
    fields = len(value)
    head = 1 if fields <= _FEW_FIELDS else 3 if fields <= _MAX_U16 else 5
    sizes = [*map(len, value)]
    least, most = min(sizes, default=0), max(sizes, default=0)
    if most <= _MAX_U8:
        return head + 2 * fields + sum(sizes)
    if least > _MAX_U8 and most <= _MAX_U16:
        return head + 3 * fields + sum(sizes)
    return head + sum(size + len(_bytes_head(size)) for size in sizes)


def _bytes_head(size: int) -> bytes:
    if size <= _MAX_U8:
        return b"\xc4%c" % size
    return b"\xc5" + size.to_bytes(2, "big") if size <= _MAX_U16 else b"\xc6" + size.to_bytes(4, "big")


def _at_most(arrays: int) -> Callable[[list[Any]], list[Any]]:
    """Lets so many pass."""
    seen = count(1)

    def one_more(value: list[Any]) -> list[Any]:
        if next(seen) > arrays:
            raise IndexError
        return value

    return one_more


def unpack_rows(data: bytes, *, most: int, width: int) -> list[Any]:
    """The array of these bytes, whose rows are arrays of `width` fields: a long list, without the room that `longest` would let
    every level within it take."""
    unpacker = msgpack.Unpacker(raw=False, max_array_len=width, max_map_len=0, max_ext_len=0, max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    try:
        count = unpacker.read_array_header()
        rows = [unpacker.unpack() for _ in range(count)] if count <= most else []
        again = pack(rows)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.OutOfData) as error:
        raise malformed("no list of the protocol's kind") from error
    if again != data:
        raise malformed("not in shortest form, or too long a list")
    return rows


def ascii_text(value: object) -> str:
    """The field, if it is an ASCII string."""
    if type(value) is not str or not value.isascii():
        raise malformed("a field is no ASCII text")
    return value


def sized(value: object, *sizes: int) -> bytes:
    """The field, if it is bytes of one of these lengths (any length without them)."""
    if type(value) is not bytes or (sizes and len(value) not in sizes):
        raise malformed("a field is no bytes of the right length")
    return value


def unsigned(value: object, *, most: int = (1 << 64) - 1) -> int:
    """The field, if it is an unsigned number that is not too large."""
    if type(value) is not int or not 0 <= value <= most:
        raise malformed("a field is no number in its range")
    return value


def array(value: object, length: int) -> list[Any]:
    """The field, if it is an array of this length."""
    if type(value) is not list or len(value) != length:
        raise malformed("a field is no array of the right length")
    return value

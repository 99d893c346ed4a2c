"""The one encoding: what parses re-encodes identically, and nothing that a stranger sends takes much memory."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RemoteProtocolError
from bus.protocol import codec, envelope, grants, handshake, papers

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 2**64 - 1), st.binary(max_size=40), st.text(max_size=10)),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@given(st.lists(VALUES, max_size=5))
def test_what_was_packed_unpacks(value: list[Any]):
    assert codec.unpack(codec.pack(value), longest=64) == value


@given(st.binary(max_size=60))
def test_any_bytes_unpack_or_are_malformed(data: bytes):
    try:
        value = codec.unpack(data, longest=64)
    except RemoteProtocolError:
        return
    assert codec.pack(value) == data


def test_what_another_thread_or_the_collector_packs_meanwhile_is_not_mixed_in():
    """The collector may run in the middle of packing, and let other threads in: where a field is no plain tuple, for example."""

    class Fields(NamedTuple):
        one: int
        two: bytes

    class Gone:
        itself: Gone

    found: list[bytes] = []

    def meanwhile(_: object) -> None:
        thread = threading.Thread(target=lambda: found.append(codec.pack(["another"])))
        thread.start()
        thread.join()
        found.append(codec.pack(["the same one"]))

    value, before = (Fields(1, b"x"), b"body"), gc.get_threshold()
    gc.collect()
    gc.disable()
    gone = Gone()
    gone.itself = gone
    watched = weakref.ref(gone, meanwhile)
    del gone
    try:
        gc.set_threshold(1)
        gc.enable()
        packed = codec.pack(value)
    finally:
        gc.set_threshold(*before)
        gc.enable()
    assert watched() is None
    assert found == [msgpack.packb(["another"]), msgpack.packb(["the same one"])]
    assert packed == msgpack.packb(((1, b"x"), b"body"))


WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no array": b"\x01",
    "a map": b"\x80",
    "a map within": b"\x91\x81\x01\x01",
    "a long form of an array": b"\xdc\x00\x01\x01",
    "a long form of a number": b"\x91\xcc\x01",
    "a long form of bytes": b"\x91\xc5\x00\x01a",
    "a long form of text": b"\x91\xd9\x01a",
    "bytes behind": b"\x90\x00",
    "bytes missing": b"\x92\x01",
    "an extension": b"\x91\xd4\x01\x00",
    "a time": b"\x91\xd6\xff\x00\x00\x00\x00",
    "text that is no UTF-8": b"\x91\xa1\xff",
    "half a surrogate": b"\x91\xa3\xed\xa0\x80",
    "the byte that stands for nothing": b"\x91\xc1",
    "an array that is too long": msgpack.packb([0] * 65),
    "an array that says more than there is": b"\xdd\xff\xff\xff\xff",
    "arrays in each other without end": b"\x91" * 100_000,
    "a number with a fraction, in short": b"\x91\xca\x00\x00\x00\x00",
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_another_form_is_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        codec.unpack(data, longest=64)
    assert caught.value.reason == "malformed"


def test_arrays_in_each_other_take_no_more_room_than_they_say():
    data = b"\xdc\x04\x00" * 400
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        codec.unpack(data, longest=1_024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_no_more_arrays_than_a_structure_has():
    long = bytes(codec.FEW_BYTES)
    assert codec.unpack(codec.pack([[1], [2], long]), longest=3, arrays=3) == [[1], [2], long]
    assert codec.unpack(codec.pack([[[]]]), longest=2, arrays=1) == [[[]]], "what is short is not counted"
    for data, arrays in ((codec.pack([[1], [2], long]), 2), (codec.pack([long]), 0), (codec.pack([[[]] * 64] * 64), 3)):
        with pytest.raises(RemoteProtocolError) as caught:
            codec.unpack(data, longest=64, arrays=arrays)
        assert caught.value.reason == "malformed"


def pairs_of_pairs(levels: int) -> bytes:
    data = b"\x90"
    for _ in range(levels):
        data = b"\x92" + data * 2
    return data


STRANGERS: dict[str, Callable[[bytes], Any]] = {
    "a host's hello": handshake.HelloA.parse,
    "a broker's hello": handshake.HelloB.parse,
    "an envelope": envelope.split,
    "what is sealed": envelope.split_plaintext,
    "papers": papers.Papers.parse,
    "a grant": grants.GrantBody.parse,
}


@pytest.mark.parametrize("parse", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_nobody_vouches_for_yet_is_given_up_at_the_first_array_too_many(parse: Callable[[bytes], Any]):
    """A megabyte of empty arrays would keep a broker's loop busy for a third of a second, and take 70 MB."""
    data = pairs_of_pairs(17)
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError) as caught:
        parse(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason == "malformed"
    assert (len(data), peak < 1 << 18) == ((2 << 17) - 1, True)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (codec.ascii_text, ["", "text"], ["täxt", b"text", 1, None]),
        (codec.sized, [b"", b"ab"], ["ab", 2, None, [b"ab"]]),
        (lambda value: codec.sized(value, 2, 3), [b"ab", b"abc"], [b"", b"a", b"abcd", "ab"]),
        (codec.unsigned, [0, 2**64 - 1], [-1, 2**64, True, 1.0, b"1", None]),
        (lambda value: codec.unsigned(value, most=7), [0, 7], [8, False]),
        (lambda value: codec.array(value, 2), [[1, 2]], [[1], (1, 2), b"ab", None]),
    ],
)
def test_fields_are_what_they_are(check: Any, good: list[Any], bad: list[Any]):
    for value in good:
        assert check(value) == value
    for value in bad:
        with pytest.raises(RemoteProtocolError) as caught:
            check(value)
        assert caught.value.reason == "malformed"


# ---- long lists ------------------------------------------------------------------------------------------------------------------

ROWS: dict[str, bytes] = {
    "too many rows": msgpack.packb([["A", 0]] * 6),
    "a row that is longer": msgpack.packb([["A", 0, 1]]),
    "rows in rows": b"\xdc\x40\x00" * 1_000,
    "no array": b"\xc4\x01a",
    "nothing": b"",
    "cut short": msgpack.packb([["A", 0], ["B", 1]])[:-1],
    "something behind": msgpack.packb([["A", 0]]) + b"\x00",
    "a long form": b"\xdc\x00\x01" + msgpack.packb(["A", 0]),
    "a number too large for a length": b"\xdd\xff\xff\xff\xff\x92\xa1A\x00",
    "text that is no UTF-8": b"\x91\x92\xa1\xff\x00",
}


def test_a_long_list_is_its_rows():
    rows = [["A", 0], ["B", 1], [b"", None]]
    assert codec.unpack_rows(codec.pack(rows), most=3, width=2) == rows
    assert codec.unpack_rows(b"\x90", most=3, width=2) == []


@pytest.mark.parametrize("data", ROWS.values(), ids=ROWS.keys())
def test_a_list_that_is_none_is_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        codec.unpack_rows(data, most=5, width=2)
    assert caught.value.reason == "malformed"

"""The laws of everything that foreign bytes are parsed as: any bytes parse or are refused as malformed, and what parses
re-encodes identically; and no bytes make parsing take more memory than its row says.

Changed by hypothesis from bytes that parse, and by coverage (`wire_target.py`, with the committed corpus) in a process of its own.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from guided import guided
from wire_rows import ROWS, TARGETS, Row, judge

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
every_target = pytest.mark.parametrize("target", TARGETS)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -1, 1.5]),
    st.binary(max_size=40),
    st.integers(0, 70).map(bytes),
    st.sampled_from(["", "A", "ALPHA", "news.today", "a..b", "é", "x" * 33, "_grant.ALPHA", "\x00"]),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(scalars, inner, max_size=2)), max_leaves=12
)
packed = values.map(msgpack.packb)


@st.composite
def changed(draw, example: bytes) -> bytes:
    """The bytes with something done to them."""
    place = draw(st.integers(0, len(example) - 1))
    match draw(st.sampled_from(["flip", "cut", "insert", "delete", "repeat"])):
        case "flip":
            return example[:place] + bytes([example[place] ^ draw(st.integers(1, 255))]) + example[place + 1 :]
        case "cut":
            return example[:place]
        case "insert":
            return example[:place] + draw(st.binary(min_size=1, max_size=8)) + example[place:]
        case "delete":
            return example[:place] + example[place + draw(st.integers(1, 8)) :]
        case _:
            return example[:place] + example[place:] * 2


def places(value: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """Every field of a structure, at any depth: the array that it stands in, and where."""
    for at, field in enumerate(value):
        yield value, at
        if isinstance(field, list):
            yield from places(field)


def one_change(example: bytes) -> Iterator[bytes]:
    """The structure with each of its fields in turn emptied, nil, left out, there twice, and turned around."""
    count = len([*places(msgpack.unpackb(example, raw=False))])
    for number in range(count):
        for change in ("nothing", "nil", "less", "twice", "reversed"):
            root = msgpack.unpackb(example, raw=False)
            array, at = [*places(root)][number]
            match change:
                case "nothing":
                    array[at] = type(array[at])() if array[at] is not None else 0
                case "nil":
                    array[at] = None
                case "less":
                    del array[at]
                case "twice":
                    array.insert(at, array[at])
                case _ if isinstance(array[at], list):
                    array[at].reverse()
            yield bytes(msgpack.packb(root))


@st.composite
def with_another_field(draw, example: bytes) -> bytes:
    """The structure with something else in one place, in shortest form: what only its own rules can refuse."""
    root = msgpack.unpackb(example, raw=False)
    array, at = draw(st.sampled_from([*places(root)]))
    match draw(st.sampled_from(["value", "value", "more", "swap"])):
        case "value":
            array[at] = draw(values)
        case "more":
            array.insert(at, draw(values))
        case _:
            array[0], array[at] = array[at], array[0]
    return bytes(msgpack.packb(root))


def is_msgpack(row: Row) -> bool:
    try:
        return isinstance(msgpack.unpackb(row.example, raw=False), list)
    except (ValueError, msgpack.UnpackException):
        return False


@every_row
def test_the_example_parses(row):
    assert row.judge(row.example)


@every_row
@given(data=st.one_of(st.binary(max_size=300), packed))
def test_any_bytes_obey_the_laws(row, data):
    row.judge(data)


@every_row
@given(data=st.data())
def test_any_bytes_near_those_that_parse_obey_the_laws(row, data):
    row.judge(data.draw(changed(row.example)))


structures = pytest.mark.parametrize("row", [row for row in ROWS if is_msgpack(row)], ids=lambda row: row.name)


@structures
def test_each_field_that_is_missing_empty_or_there_twice_obeys_the_laws(row):
    for data in one_change(row.example):
        row.judge(data)


@structures
@given(data=st.data())
def test_any_structure_near_those_that_parse_obeys_the_laws(row, data):
    row.judge(data.draw(with_another_field(row.example)))


@every_row
def test_nothing_parses_when_cut_or_with_a_tail(row):
    if row.name == "enrolment list":
        return  # a local file in JSON; that it is whole is said by its own encoding, which the laws hold
    for length in range(len(row.example)):
        assert not row.judge(row.example[:length])
    for tail in (b"\x00", b"\xc0", row.example):
        assert not row.judge(row.example + tail)


# ---- memory --------------------------------------------------------------------------------------------------------------------

LENGTHS = (15, 16, 250, 256, 1_000, 1_024, 16_000, 16_384, 65_535)
BOMBS = {
    **{f"arrays of {n} in each other": (b"\xdc" + n.to_bytes(2, "big")) * 2_000 for n in LENGTHS},
    **{f"an array of {n} empty ones": b"\xdc" + n.to_bytes(2, "big") + b"\x90" * n for n in LENGTHS},
    "a long array that is promised": b"\xdd\x7f\xff\xff\xff",
    "long bytes that are promised": b"\xc6\x7f\xff\xff\xff",
    "a long text that is promised": b"\xdb\x7f\xff\xff\xff",
    "a long map that is promised": b"\xdf\x7f\xff\xff\xff",
    "a long extension that is promised": b"\xc9\x7f\xff\xff\xff\x01",
    "arrays of one in each other": b"\x91" * 100_000,
    "maps in each other": b"\x81\x01" * 50_000,
    "brackets": b"[" * 100_000,
    "a number of many digits": b"9" * 4_000,
}


@every_row
@pytest.mark.parametrize("first", ["", "in the last field"])
def test_memory_is_bounded(row, first):
    """Whether the bomb is the whole, or stands where a structure that parses has its last field."""
    start = b""
    if first:
        if not is_msgpack(row):
            return
        fields = msgpack.unpackb(row.example, raw=False)
        start = bytes([0x90 | len(fields)]) + b"".join(msgpack.packb(field) for field in fields[:-1])
    for name, bomb in BOMBS.items():
        tracemalloc.start()
        try:
            row.judge(start + bomb)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= row.memory, f"{name}: {peak:,} bytes"


# ---- coverage ------------------------------------------------------------------------------------------------------------------


def corpus_of(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@every_target
def test_the_corpus_is_there_and_obeys_the_laws(target):
    entries = corpus_of(target)
    assert len(entries) >= 20, "an empty corpus tests nothing"
    found = {name for entry in entries for name in judge(target, entry.read_bytes())}
    assert found == {row.name for row in ROWS if row.target == target}, "the corpus has something that each row takes"


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.skipif(sys.platform != "linux", reason="atheris is built for Linux")
@every_target
def test_coverage_guided_input_obeys_the_laws(target, tmp_path):
    guided(tmp_path, "wire_target.py", target, corpus=target)

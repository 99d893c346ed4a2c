"""Cutting a stream into frames: the same frames however the bytes come, and never more memory than they are worth."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.protocol.frames import MAX_FRAME_BYTES
from bus.transport.framing import READ_BYTES, Incoming


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def feed(incoming: Incoming, data: bytes, piece: int) -> list[bytes]:
    """As a socket would, `piece` bytes at a time."""
    frames: list[bytes] = []
    view = memoryview(data)
    while view and incoming.fault is None:
        room = incoming.room()
        part = view[: min(piece, len(room))]
        room[: len(part)] = part
        frames += incoming.took(len(part))
        view = view[len(part) :]
    return frames


def naive(data: bytes) -> tuple[list[bytes], bool]:
    """(frames, whether a length was too large)."""
    frames = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if size > MAX_FRAME_BYTES:
            return frames, True
        if len(data) < 4 + size:
            break
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames, False


CASES = {
    "nothing": [],
    "an empty frame": [b""],
    "small frames": [b"a", b"bc", b"", b"def" * 100],
    "a large frame": [bytes(range(256)) * 1_000],
    "the largest frame": [b"x" * MAX_FRAME_BYTES],
    "large and small ones": [b"x" * 20_000, b"y", b"z" * 300_000, b"", b"w" * 16_384, b"v" * 16_385],
    "frames as long as a read": [b"x" * (READ_BYTES - 4), b"y" * READ_BYTES, b"z" * (READ_BYTES - 8)],
    "a frame and the beginning of a length": [b"x" * (READ_BYTES - 6), b"yz"],
}


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 1_000, 65_536, 10_000_000])
@pytest.mark.parametrize("case", CASES)
def test_frames_come_out_as_they_went_in(case, piece):
    if piece < 1_000 and case not in ("nothing", "an empty frame", "small frames", "large and small ones"):
        piece *= 977
    frames = CASES[case]
    incoming = Incoming()
    found = feed(incoming, framed(*frames), piece)
    assert found == frames
    assert all(type(frame) is bytes for frame in found)
    assert incoming.fault is None
    assert feed(incoming, framed(b"one more"), piece) == [b"one more"]


@given(st.lists(st.binary(max_size=40_000), max_size=8), st.integers(1, 70_000))
def test_they_do_so_in_pieces_of_any_size(frames, piece):
    assert feed(Incoming(), framed(*frames), piece) == frames


@given(st.binary(max_size=300), st.integers(1, 300))
def test_any_bytes_are_frames_or_a_fault(data, piece):
    incoming = Incoming()
    frames = feed(incoming, data, piece)
    assert (frames, incoming.fault is not None) == naive(data)
    if incoming.fault is not None:
        assert incoming.fault.reason == "malformed"


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("piece", [1, 1_000])
def test_a_length_that_no_frame_has_is_a_fault_after_the_good_frames(size, piece):
    incoming = Incoming()
    assert feed(incoming, framed(b"good") + struct.pack(">I", size) + b"x", piece) == [b"good"]
    assert incoming.fault is not None
    assert incoming.fault.reason == "malformed"


def test_who_claims_a_megabyte_has_to_send_it_first():
    tracemalloc.start()
    try:
        claims = []
        for _ in range(100):
            incoming = Incoming()
            assert feed(incoming, struct.pack(">I", MAX_FRAME_BYTES) + b"x" * 10, 5) == []
            claims.append(incoming)
        taken, _ = tracemalloc.get_traced_memory()
        assert taken < 100 * 8_192
    finally:
        tracemalloc.stop()
    more = b"x" * (MAX_FRAME_BYTES - 10)
    assert feed(claims[0], more, 1_000) == [b"x" * MAX_FRAME_BYTES]


def test_a_silent_link_takes_no_memory_of_its_own():
    Incoming()  # the buffer that all share
    tracemalloc.start()
    try:
        silent = [Incoming() for _ in range(1_000)]
        taken, _ = tracemalloc.get_traced_memory()
        assert taken < 1_000 * 300
    finally:
        tracemalloc.stop()
    assert len(silent) == 1_000


def test_two_links_that_take_turns_do_not_mix():
    one, other = Incoming(), Incoming()
    ones, others = framed(b"1" * 100, b"1" * 30_000), framed(b"2" * 100, b"2" * 30_000)
    found: tuple[list[bytes], list[bytes]] = ([], [])
    for at in range(0, len(ones), 77):
        found[0].extend(feed(one, ones[at : at + 77], 77))
        found[1].extend(feed(other, others[at : at + 77], 77))
    assert found == ([b"1" * 100, b"1" * 30_000], [b"2" * 100, b"2" * 30_000])

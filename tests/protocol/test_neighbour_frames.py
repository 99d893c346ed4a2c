"""Frames and greeting between brokers: what was encoded is parsed, all else is refused, and the specification says the same."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.broker import (
    asking,
    neighbour,
    neighbour_crossing,
    neighbour_greeting,
    neighbour_lanes,
    neighbour_shares,
    neighbours,
    publishing,
)
from bus.errors import RemoteProtocolError
from bus.protocol import frames, neighbour_frames
from bus.protocol.codec import pack
from bus.protocol.frames import Frame
from bus.protocol.neighbour_frames import MAX_GREETING_BYTES, Between, Greeting, greeting_tbs

SPEC = (Path(__file__).parents[2] / "docs" / "spec" / "12-neighbours.md").read_text()
EXAMPLES: dict[Between, tuple[Any, ...]] = {
    Between.GREET: (b"greeting",),
    Between.SEATED: (7 << 16, b"papers"),
    Between.UNSEATED: ("BUILDER",),
    Between.STOP: ("tasks.build", 1),
}


@pytest.mark.parametrize("frame", [*Between], ids=lambda frame: frame.name)
def test_what_was_encoded_is_parsed(frame: Between):
    assert neighbour_frames.parse(neighbour_frames.encode(frame, *EXAMPLES[frame])) == [frame, *EXAMPLES[frame]]


@pytest.mark.parametrize(
    "fields",
    [
        (Between.GREET, b""), (Between.GREET, "text"), (Between.GREET,), (Between.GREET, b"x", b"y"),
        (Between.SEATED, -1, b"x"), (Between.SEATED, 1, b""), (Between.SEATED, 1.0, b"x"),
        (Between.UNSEATED, "no name"), (Between.UNSEATED, b"BUILDER"),
        (Between.STOP, "tasks.*", 1), (Between.STOP, "tasks.build", 2), (Between.STOP, "tasks.build", True),
        (68, b"x"), (), (Frame.PUBLISH, 1, b"", []), (Frame.HELLO_A, b"x"), (Frame.OPEN, 2, "tasks"), (Frame.TRUST, 0, 0, 0, b""),
        (Frame.AUTHORITY, b"x"), (Frame.SETTLE, 1, 1, [], 0, ""), (Frame.STORED, 1, []), (Frame.OPENED, 2, 1, 0, 0),
    ],
    ids=str,
)  # fmt: skip
def test_what_neighbours_do_not_say_is_malformed(fields: tuple[Any, ...]):
    with pytest.raises(RemoteProtocolError) as raised:
        neighbour_frames.parse(pack([*fields]))
    assert raised.value.reason == "malformed"


def test_frames_of_neighbours_are_none_on_an_agents_link():
    for frame, fields in EXAMPLES.items():
        with pytest.raises(RemoteProtocolError):
            frames.parse(neighbour_frames.encode(frame, *fields))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_malformed(data: bytes):
    for heads in (b"", b"\x92\x40", b"\x93\x41", b"\x92\x42", b"\x93\x43"):
        with suppress(RemoteProtocolError):
            neighbour_frames.parse(heads + data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_greeting_or_malformed(data: bytes):
    with suppress(RemoteProtocolError):
        Greeting.parse(data)


def test_a_greeting_is_parsed_as_it_was_made_and_has_a_longest():
    greeting = Greeting((1, 2), bytes(32), bytes(16), b"papers", 7)
    assert Greeting.parse(greeting.encode()) == greeting
    longer = greeting._replace(papers=bytes(MAX_GREETING_BYTES))
    with pytest.raises(RemoteProtocolError):
        Greeting.parse(longer.encode())


def test_what_is_signed_is_another_thing_for_each_end_each_link_and_each_greeting():
    signed = [
        greeting_tbs(b"a", b"b"),
        greeting_tbs(b"b", b"a"),
        greeting_tbs(b"a", b"c"),
        greeting_tbs(b"a", b"b", server_leaf=b"x"),
        greeting_tbs(b"a", b"b", client_leaf=b"x"),
        greeting_tbs(b"a", b"b", server_leaf=b"x", client_leaf=b"y"),
        greeting_tbs(b"a", b"b", server_leaf=b"y", client_leaf=b"x"),
    ]
    assert len({*signed}) == len(signed)


def test_the_specification_has_the_frames_of_the_code():
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", SPEC, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(one.value, one.name) for one in Between]
    listed = SPEC.split("## Frames", 1)[1].split("have the\ntypes", 1)[0]
    assert {*re.findall(r"\b[A-Z_]{4,}\b|\bASK\b", listed)} == {one.name for one in neighbour_frames.COMMON}


def test_the_specification_has_the_bounds_of_the_code():
    bounds = [int(text.replace(",", "")) for text in re.findall(r"^\| [a-z].* \| (\d[\d,]*)(?:[ ;][^|]*)? \|$", SPEC, re.MULTILINE)]
    assert bounds == [
        neighbour.MAX_AGENTS, neighbour_crossing.MAX_BROUGHT, asking.MAX_FAR_EPOCHS, neighbour_shares.MOST, neighbour_shares.MOST,
        neighbour.MAX_ASIDE, neighbour_lanes.MAX_STOPPED, neighbour_crossing.MAX_TURNS, publishing.MAX_JUNK,
        neighbours.MAX_NEIGHBOURS,
    ]  # fmt: skip
    assert neighbour.MAX_ASIDE_BYTES == 8 << 20
    assert neighbour_greeting.MAX_SECONDS == 5
    assert asking.MAX_FAR_SENDERS == 16
    assert neighbour_shares.MAX_BYTES == 8 << 20
    assert (neighbour_lanes.STOP_SECONDS, neighbour_lanes.RENEW_SECONDS) == (10, 3)

"""Frames: what each may hold, and that nothing else passes. The specification's table and the code's are one."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest

from bus.errors import RemoteProtocolError
from bus.protocol import frames
from bus.protocol.frames import MAX_FRAME_BYTES, MAX_ROWS, Frame, column, encode, numbers, parse

ID, EPOCH, SIGNATURE = bytes(16), bytes(32), bytes(64)
GOOD = {
    Frame.HELLO_A: (b"hello",),
    Frame.HELLO_B: (b"hello",),
    Frame.PROVE: (SIGNATURE,),
    Frame.OPEN: (2, "tasks.build"),
    Frame.OPENED: (2, 1, 0, 7),
    Frame.PUBLISH: (1, column([2, 0]), [b"one", b"two"]),
    Frame.CREDIT: (0, 512),
    Frame.STORED: (1, [[ID, 9], [ID, 10]]),
    Frame.SUBSCRIBE: (1, "MONITOR", "tasks.>", "", "inbox", "new", 1024, "block"),
    Frame.SUBSCRIBED: (1,),
    Frame.UNSUBSCRIBE: (1,),
    Frame.DELIVER: (1, column([1, 2]), 1, 0, b"envelope"),
    Frame.SETTLE: (1, 3, [[1, 4], [9, 9]], 1000, "no"),
    Frame.INTEREST: (7, [["MONITOR", "tasks.>", 0]]),
    Frame.INTEREST_SEEN: (7,),
    Frame.ASK: (EPOCH, b"papers"),
    Frame.PAPERS: ([b"papers"], b""),
    Frame.TRUST: (1, 10, 5, b"parts"),
    Frame.AUTHORITY: (b"request",),
    Frame.PING: (1,),
    Frame.PONG: (1,),
    Frame.DRAIN: ("shutdown",),
    Frame.REFUSE: ("busy", ID),
}
BAD = {
    "a proof of another length": (Frame.PROVE, bytes(63)),
    "a negative alias": (Frame.OPEN, -1, "tasks.build"),
    "an alias of more than 32 bits": (Frame.OPEN, 1 << 32, "tasks.build"),
    "True for a number": (Frame.OPEN, True, "tasks.build"),
    "a topic that is too long": (Frame.OPEN, 2, "t" * 600),
    "a topic of other letters": (Frame.OPEN, 2, "täsks"),
    "a unit that there is not": (Frame.OPENED, 2, 1, 2, 7),
    "credit of two": (Frame.OPENED, 2, 2, 0, 7),
    "fewer aliases than envelopes": (Frame.PUBLISH, 1, column([2]), [b"one", b"two"]),
    "half an alias": (Frame.PUBLISH, 1, b"\0\0", [b"one"]),
    "a turn of nothing": (Frame.PUBLISH, 1, b"", []),
    "an envelope that is text": (Frame.PUBLISH, 1, column([2]), ["one"]),
    "an envelope of more than 1 MiB": (Frame.DELIVER, 1, b"", 1, 0, bytes((1 << 20) + 1)),
    "a large envelope in a turn": (Frame.PUBLISH, 1, column([2]), [bytes((1 << 20) + 1)]),
    "a stored id of another length": (Frame.STORED, 1, [[bytes(15), 9]]),
    "a row of one": (Frame.STORED, 1, [[ID]]),
    "a row that is none": (Frame.STORED, 1, [ID]),
    "rows that are none": (Frame.STORED, 1, ID),
    "nobody's subscription": (Frame.SUBSCRIBE, 1, "monitor", "tasks.>", "", "", "new", 1024, "block"),
    "a long word": (Frame.SUBSCRIBE, 1, "MONITOR", "tasks.>", "g" * 257, "", "new", 1024, "block"),
    "a verb that there is not": (Frame.SETTLE, 1, 5, [[1, 4]], 0, ""),
    "interest of another kind": (Frame.INTEREST, 7, [["MONITOR", "tasks.>", 3]]),
    "an id of neither kind": (Frame.ASK, bytes(20), b""),
    "no papers": (Frame.PAPERS, [], b""),
    "empty papers": (Frame.PAPERS, [b""], b""),
    "papers that are text": (Frame.PAPERS, ["papers"], b""),
    "a part after the end": (Frame.TRUST, 1, 10, 6, b"parts"),
    "a document of another kind": (Frame.TRUST, 3, 10, 5, b"parts"),
    "a document that is too large": (Frame.TRUST, 1, frames.MAX_DOCUMENT_BYTES + 1, 0, b"parts"),
    "an exact reason": (Frame.REFUSE, "bad_proof", ID),
    "a reason that is a list": (Frame.REFUSE, [], ID),
    "a ref of another length": (Frame.REFUSE, "busy", bytes(5)),
    "a field too many": (Frame.PING, 1, 2),
    "a field too few": (Frame.PONG,),
}


@pytest.mark.parametrize("frame", Frame, ids=lambda frame: frame.name)
def test_what_is_encoded_parses(frame):
    assert parse(encode(frame, *GOOD[frame])) == [frame, *GOOD[frame]]


@pytest.mark.parametrize("case", BAD)
def test_what_no_frame_may_hold_is_malformed(case):
    with pytest.raises(RemoteProtocolError) as caught:
        parse(msgpack.packb(list(BAD[case]), use_bin_type=True))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x90", b"\x91\x18", b"\x91\x00", b"\x92\xc0\x01", b"\x92\xc3\x01", b"\x81\x01\x02", msgpack.packb("x"), b"\x92\x14"],
)
def test_what_is_no_frame_is_malformed(data):
    with pytest.raises(RemoteProtocolError):
        parse(data)


@pytest.mark.parametrize("frame", Frame, ids=lambda frame: frame.name)
def test_no_frame_may_be_cut_or_have_a_tail(frame):
    data = encode(frame, *GOOD[frame])
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            parse(data[:end])
    with pytest.raises(RemoteProtocolError):
        parse(data + b"\0")


def test_a_frame_that_is_too_long_is_not_looked_at():
    with pytest.raises(RemoteProtocolError) as caught:
        parse(bytes(MAX_FRAME_BYTES + 1))
    assert caught.value.reason == "malformed"


def test_a_number_in_another_form_of_the_same_length_is_malformed():
    large = b"x" * 5_000
    good = encode(Frame.DELIVER, 300, b"", 1, 0, large)
    assert parse(good)[1] == 300
    with pytest.raises(RemoteProtocolError):
        parse(good.replace(b"\xcd\x01\x2c", b"\xd1\x01\x2c", 1))


def test_a_list_has_no_more_than_its_rows():
    with pytest.raises(RemoteProtocolError):
        parse(encode(Frame.PAPERS, [b"p"] * (MAX_ROWS + 1), b""))


def test_columns_go_there_and_back():
    assert numbers(column(range(5))) == (0, 1, 2, 3, 4)
    assert column([1]) == frames.sub_ref(1)


def test_a_dead_letter_goes_there_and_back():
    assert frames.parse_dead_letter(frames.dead_letter("max_deliver", 5, b"envelope")) == ("max_deliver", 5, b"envelope")
    for bad in (b"\x90", msgpack.packb(["why", 1]), msgpack.packb(["why", -1, b""]), msgpack.packb([1, 1, b""])):
        with pytest.raises(RemoteProtocolError):
            frames.parse_dead_letter(bad)


def test_the_specification_lists_the_same_frames():
    text = (Path(__file__).parents[2] / "docs" / "spec" / "08-link.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.*?) \| (?:host|broker|both)", text, re.MULTILINE)
    assert {name: int(number) for number, name, _ in rows} == {frame.name: int(frame) for frame in Frame}
    for number, _, fields in rows:
        outside = re.sub(r"\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\]", "list", fields)
        assert len(outside.split(", ")) == len(GOOD[Frame(int(number))]), fields

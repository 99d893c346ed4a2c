"""One link between two gateways, without NATS: what carries its messages here loses, repeats and changes them when told to."""

from __future__ import annotations

import random
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from bus.backbone.nats import neighbour_messages as messages
from bus.backbone.nats.neighbour_link import (
    HEARTBEAT_SECONDS,
    PIECE_BYTES,
    SILENCE_SECONDS,
    WINDOW_BYTES,
    NeighbourLink,
)
from bus.backbone.nats.sealing import EndKey
from bus.errors import ClosedError, ConnectionLostError, RemoteProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.testing import check_link
from bus.testing.link_ear import Ear, start, turns
from bus.transport.link import FLUSH_SECONDS, MAX_BUFFERED_BYTES, Peer
from bus.transport.soon import scheduler

ENOUGH = 400
"""Turns of the loop in which anything that comes has come."""


class Wire:
    """From one end to the other. `holds`: nothing gets through; `sent`: all that was ever said."""

    def __init__(self, soon):
        self.soon = soon
        self.sent: list[bytes] = []
        self.holds = False
        self.junk = 0
        self.to: NeighbourLink

    def post(self, message: bytes) -> None:
        self.sent.append(message)
        if not self.holds:
            self.soon(lambda: self.bring(message))

    def bring(self, message: bytes) -> None:
        words = messages.parse_words(message)
        self.junk += words is None or not self.to.heard(words)


class Both:
    """Both ends with their wires; `keys` of the one that began, as it has them."""

    def __init__(self, *, piece_bytes: int = PIECE_BYTES) -> None:
        soon = scheduler()
        one, other = EndKey(), EndKey()
        peer = Peer("nats", "nats:x", client_leaf=one.public, server_leaf=other.public)
        self.there, self.back = Wire(soon), Wire(soon)
        self.seal = one.agree(other.public, we_began=True)
        self.label = other.label
        self.near = NeighbourLink(peer, self.seal, other.label, self.there.post, soon=soon, now=0.0, piece_bytes=piece_bytes)
        sealing = other.agree(one.public, we_began=False)
        self.far = NeighbourLink(peer, sealing, one.label, self.back.post, soon=soon, now=0.0, piece_bytes=piece_bytes)
        self.there.to, self.back.to = self.far, self.near
        self.one, self.other = Ear(self.near), Ear(self.far)

    def say(self, number: int, body: bytes) -> None:
        """To the far end, what no NeighbourLink would."""
        head = messages.words_head(self.label, number)
        self.there.bring(head + self.seal.seal(number, head, body))


async def both(**options) -> Both:
    found = Both(**options)
    start(found.one, found.other)
    await turns()
    return found


@pytest.mark.anyio
async def test_a_link_between_gateways_is_a_link():
    @asynccontextmanager
    async def pair():
        found = Both()
        yield found.near, found.far

    await check_link(pair)


@pytest.mark.anyio
async def test_frames_of_one_turn_leave_in_one_message_and_nobody_can_read_it():
    ends = await both()
    ends.one.send(*(b"a secret %d" % number for number in range(100)))
    await ends.other.until(lambda: len(ends.other.frames) == 100)
    assert len(ends.there.sent) == 1
    assert b"secret" not in ends.there.sent[0]


@pytest.mark.anyio
async def test_a_large_frame_leaves_in_messages_that_nats_takes():
    ends = await both(piece_bytes=1_000)
    ends.one.send(b"before", bytes(MAX_FRAME_BYTES), b"after")
    await ends.other.until(lambda: len(ends.other.frames) == 3)
    assert {len(frame) for frame in ends.other.frames} == {6, MAX_FRAME_BYTES, 5}
    assert max(map(len, ends.there.sent)) == 1_000 + messages.OVERHEAD_BYTES


@pytest.mark.anyio
async def test_a_message_that_was_lost_ends_the_link_at_both_ends():
    ends = await both()
    ends.there.holds = True
    ends.one.send(b"lost")
    await turns()
    ends.there.holds = False
    ends.one.send(b"found")
    await ends.other.until(lambda: ends.other.lost)
    await ends.one.until(lambda: ends.one.lost)
    assert ends.other.frames == []
    assert isinstance(ends.other.lost[0], ConnectionLostError)
    assert isinstance(ends.one.lost[0], ConnectionLostError)


@pytest.mark.anyio
async def test_a_last_message_that_was_lost_is_missed_with_the_next_heartbeat():
    ends = await both()
    ends.there.holds = True
    ends.one.send(b"the last word")
    await turns()
    ends.there.holds = False
    ends.near.tick(0.5, may_judge=True)
    ends.near.tick(0.5 + HEARTBEAT_SECONDS, may_judge=True)
    await ends.other.until(lambda: ends.other.lost)


@pytest.mark.anyio
@pytest.mark.parametrize("case", ["repeated", "changed", "under another number", "of another link", "cut", "empty"])
async def test_what_somebody_else_says_is_junk_and_ends_nothing(case):
    ends = await both()
    ends.one.send(b"one")
    await ends.other.until(lambda: ends.other.frames)
    message = ends.there.sent[0]
    head = messages.words_head(ends.label, 2)
    ends.there.bring(
        {
            "repeated": message,
            "changed": message[:-1] + bytes([message[-1] ^ 1]),
            "under another number": head + message[len(head) :],
            "of another link": head + Both().seal.seal(2, head, messages.said(0, b"\0\0\0\1x")),
            "cut": message[: messages.OVERHEAD_BYTES - 1],
            "empty": b"",
        }[case]
    )
    ends.one.send(b"two")
    await ends.other.until(lambda: len(ends.other.frames) > 1)
    assert ends.there.junk == 1
    assert ends.other.frames == [b"one", b"two"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(messages.said(1, b""), id="took what was never sent"),
        pytest.param(b"\7" + bytes(8), id="a kind that there is not"),
        pytest.param(messages.said(0, b"\xff\xff\xff\xff"), id="a frame that is too long"),
    ],
)
async def test_a_gateway_that_makes_no_sense_is_left(body):
    ends = await both()
    ends.say(1, body)
    await ends.other.until(lambda: ends.other.lost)
    assert isinstance(ends.other.lost[0], RemoteProtocolError)
    assert ends.other.lost[0].reason == "malformed"


@pytest.mark.anyio
async def test_a_gateway_that_sends_more_than_it_may_is_left():
    ends = await both()
    ends.far.pause()
    piece = (100).to_bytes(4) + bytes(100)
    for number in range(1, WINDOW_BYTES // len(piece) + 1):
        ends.say(number, messages.said(0, piece))
    await turns()
    assert not ends.other.lost
    ends.say(WINDOW_BYTES // len(piece) + 1, messages.said(0, piece))
    await ends.other.until(lambda: ends.other.lost)
    assert ends.other.lost[0].reason == "malformed"


@pytest.mark.anyio
async def test_for_a_gateway_that_is_slow_only_a_window_is_under_way():
    ends = await both()
    ends.far.pause()
    frames = [bytes([number]) * 100_000 for number in range(20)]
    ends.one.send(*frames)
    await turns(ENOUGH)
    under_way = sum(len(message) - messages.OVERHEAD_BYTES for message in ends.there.sent)
    assert under_way == WINDOW_BYTES
    assert ends.near.buffered == 20 * 100_004 - WINDOW_BYTES
    assert not ends.near.writable
    ends.other.resume()
    await ends.other.until(lambda: len(ends.other.frames) == 20)
    assert ends.other.frames == frames


@pytest.mark.anyio
async def test_one_that_is_far_too_slow_is_cut():
    ends = await both()
    ends.far.pause()
    for _ in range(MAX_BUFFERED_BYTES // MAX_FRAME_BYTES + 2):
        ends.one.send(bytes(MAX_FRAME_BYTES))
    await ends.one.until(lambda: ends.one.lost)
    assert isinstance(ends.one.lost[0], ConnectionLostError)
    assert ends.near.buffered == 0


@pytest.mark.anyio
async def test_silence_ends_a_link_and_who_stood_still_does_not_judge():
    ends = await both()
    ends.far.tick(SILENCE_SECONDS + 1, may_judge=False)
    ends.far.tick(2 * SILENCE_SECONDS, may_judge=True)
    await turns()
    assert not ends.other.lost
    ends.far.tick(2 * SILENCE_SECONDS + 1.1, may_judge=True)
    await ends.other.until(lambda: ends.other.lost)
    assert isinstance(ends.other.lost[0], ConnectionLostError)


@pytest.mark.anyio
async def test_who_has_nothing_to_say_says_so_each_second():
    ends = await both()
    for quarter in range(1, 81):
        ends.near.tick(quarter / 4, may_judge=True)
        ends.far.tick(quarter / 4, may_judge=True)
        await turns(3)
    assert not ends.one.lost
    assert not ends.other.lost
    assert 15 <= len(ends.there.sent) <= 20


@pytest.mark.anyio
async def test_a_close_is_bounded_though_the_other_end_takes_nothing():
    ends = await both()
    ends.far.pause()
    ends.one.send(*[bytes(1 << 20)] * 3)
    await turns(ENOUGH)
    ends.one.close()
    await turns(ENOUGH)
    ends.near.tick(1.0, may_judge=True)
    await turns(ENOUGH)
    assert not ends.one.lost
    ends.near.tick(1.0 + FLUSH_SECONDS, may_judge=True)
    await ends.one.until(lambda: ends.one.lost)
    assert isinstance(ends.one.lost[0], ClosedError)


@given(st.sampled_from([b"", b"\1", b"\2", b"\3", b"\4"]), st.binary(max_size=120))
def test_any_bytes_are_a_message_or_none(kind, rest):
    data = kind + rest
    found = [messages.parse_here(data), messages.parse_keyed(data, messages.HELLO), messages.parse_keyed(data, messages.WELCOME)]
    words = messages.parse_words(data)
    if words is not None:
        assert words.head + words.sealed == data
    assert sum(one is not None for one in (*found, words)) <= 1


@pytest.mark.anyio
async def test_whatever_a_gateway_with_the_key_says_ends_the_link_or_is_heard():
    for seed in range(200):
        chance = random.Random(seed)
        ends = await both()
        for number in range(1, 4):
            ends.say(number, chance.choice([b"\0", b"\1", b""]) + chance.randbytes(chance.randrange(8, 60)))
        await turns()
        assert not ends.other.faults
        assert not ends.far.buffered

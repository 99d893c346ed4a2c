"""What a turn takes along fits into a frame, whatever waits: grants, small envelopes, and the largest that there are."""

from __future__ import annotations

import random

import pytest

from bus.agent.sealing_turns import Sent
from bus.agent.way import TURN_BYTES, Way
from bus.protocol.envelope import MAX_ENVELOPE_BYTES
from bus.protocol.frames import MAX_FRAME_BYTES, Frame, column, encode

SIZES = (200, 5_000, 130_793, 300_000, MAX_ENVELOPE_BYTES)


@pytest.mark.parametrize("seed", range(20))
def test_every_turn_fits_into_a_frame_and_nothing_is_left_or_moved(seed):
    chosen = random.Random(seed)
    way = Way()
    sealed = [Sent(bytes(chosen.choice(SIZES)), bytes(16), None, {}, 1) for _ in range(40)]
    for sent in sealed:
        way.seal(sent)
    for _ in range(chosen.choice((0, 1, 60, 300))):
        way.grant(0, bytes(4_000))
    taken = []
    while way.has_something:
        found = [] if way.has_a_turn_of_grants else way.take_sealed()
        grants = way.take_grants()
        taken += found
        envelopes = [*(envelope for _, envelope in grants), *(sent.envelope for sent in found)]
        assert len(encode(Frame.PUBLISH, 1, column([1] * len(envelopes)), envelopes)) <= MAX_FRAME_BYTES
    assert [*map(id, taken)] == [*map(id, sealed)]
    assert way.may_seal


def test_grants_go_alone_before_an_envelope_beside_which_they_have_no_room():
    way = Way()
    way.grant(0, bytes(TURN_BYTES // 2))
    assert not way.has_a_turn_of_grants
    way.seal(Sent(bytes(MAX_ENVELOPE_BYTES), bytes(16), None, {}, 1))
    assert way.has_a_turn_of_grants

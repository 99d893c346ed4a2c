"""The sender's half: numbers are taken once, one signature covers a turn, and what fails burns what it took."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import msgpack
import pytest
from small_world import Insider, World

from bus.errors import LocalProtocolError, MessageTooLargeError
from bus.identity.envelopes import seal
from bus.protocol.records import Records

TOPIC = "tasks.build"


def test_a_turn_is_one_signature_over_all_its_envelopes(world: World):
    director = world.agent("DIRECTOR")
    first, second = world.epoch(director, TOPIC), world.epoch(director, "tasks.other", priority=4)
    outgoing = [
        world.outgoing(director, TOPIC, [b"1"]),
        world.outgoing(director, "tasks.other", [b"2"]),
        world.outgoing(director, TOPIC),
    ]
    random = os.urandom(seal.RANDOM_BYTES * 3)
    envelopes = seal.seal_turn([first, second, first], outgoing, director.host, random=random)
    opened = [Insider(epoch).open(data) for epoch, data in zip((first, second, first), envelopes, strict=True)]
    assert [header[7] for header, _, _ in opened] == [0, 0, 1]
    assert {proof[5] for _, proof, _ in opened} == {opened[0][1][5]}, "one signature"
    assert [proof[2:4] for _, proof, _ in opened] == [[3, 0], [3, 1], [3, 2]]
    assert len({proof[7] for _, proof, _ in opened}) == 3, "each its own blind"
    assert len({header[12] for header, _, _ in opened}) == 3, "each its own id"
    assert len({data[-20:] for data in envelopes}) == 3


def test_random_bytes_are_used_once_each(world: World):
    """Id, blind and guard of one envelope, and those of the next: no byte serves twice."""
    director = world.agent("DIRECTOR")
    epoch = world.epoch(director, "secret.x")  # XChaCha20: the longest guard
    random = os.urandom(seal.RANDOM_BYTES * 2)
    outgoing = [world.outgoing(director, "secret.x")] * 2
    found = []
    for data in seal.seal_turn([epoch] * 2, outgoing, director.host, random=random):
        header, sealed = msgpack.unpackb(data)
        fields = msgpack.unpackb(header)
        plaintext = epoch.opened.open(sealed, seq=fields[7], header=header)
        found.append(fields[12] + msgpack.unpackb(plaintext)[0][7] + sealed[:16])
    assert b"".join(found) == random


def test_a_caller_may_give_the_id(world: World):
    director = world.agent("DIRECTOR")
    given = seal.given_id("DIRECTOR", "order-7")
    assert given == hashlib.sha256(b"tpmbus/1 id" + msgpack.packb(["DIRECTOR", "order-7"])).digest()[:16]
    assert given != seal.given_id("DEPUTY", "order-7")
    epoch, envelope = world.say(director, TOPIC, id=given)
    assert Insider(epoch).open(envelope)[0][12] == given


def test_an_envelope_is_sealed_once(world: World):
    director = world.agent("DIRECTOR")
    epoch = world.epoch(director, TOPIC)
    one = seal.draft(epoch, world.outgoing(director, TOPIC), suite=seal.HOST_SUITE, random=os.urandom(seal.RANDOM_BYTES))
    proof = seal.sign_by_host([one.content], [one.blind], director.host)[0]
    seal.seal(one, proof)
    with pytest.raises(LocalProtocolError):
        seal.seal(one, proof)
    other = seal.draft(epoch, world.outgoing(director, TOPIC), suite=seal.HOST_SUITE, random=os.urandom(seal.RANDOM_BYTES))
    seal.give_up([other])
    with pytest.raises(LocalProtocolError):
        seal.seal(other, proof)


class BrokenKey:
    """A key that cannot sign."""

    signer = bytes(32)

    def sign(self, tbs: bytes) -> bytes:
        raise LocalProtocolError("no more")


def test_a_turn_that_fails_burns_every_number_that_it_took(world: World):
    director = world.agent("DIRECTOR")
    epoch = world.epoch(director, TOPIC)
    outgoing = [world.outgoing(director, TOPIC)] * 3
    random = os.urandom(seal.RANDOM_BYTES * 3)
    with pytest.raises(LocalProtocolError):
        seal.seal_turn([epoch] * 3, outgoing, BrokenKey(), random=random)
    assert not epoch._issued
    header = Insider(epoch).open(world.send(director, epoch, outgoing[0])[0])[0]
    assert header[7] == 3, "burned numbers do not come back"


def test_what_is_too_large_takes_no_number(world: World):
    director = world.agent("DIRECTOR")
    epoch = world.epoch(director, TOPIC)
    large = world.outgoing(director, TOPIC, [bytes(seal.MAX_BODY_BYTES)])
    with pytest.raises(MessageTooLargeError) as caught:
        world.send(director, epoch, large)
    assert caught.value.limit == seal.MAX_BODY_BYTES
    assert epoch.next_seq == 0
    fits = world.outgoing(director, TOPIC, [bytes(seal.MAX_BODY_BYTES - 64)])
    envelope = world.send(director, epoch, fits)[0]
    assert len(envelope) <= 1 << 20
    assert world.receive(envelope, world.held(director, epochs=[epoch]), world.listening("BUILDER")).records is not None


@pytest.mark.parametrize("count", [0, 1_025])
def test_an_envelope_has_records_and_not_too_many(world: World, count: int):
    director = world.agent("DIRECTOR")
    epoch = world.epoch(director, TOPIC)
    outgoing: Any = world.outgoing(director, TOPIC)._replace(records=Records(bytes(count), [b""] * count, {}))
    with pytest.raises(ValueError, match="records"):
        world.send(director, epoch, outgoing)
    assert epoch.next_seq == 0


def test_an_empty_turn_is_misuse(world: World):
    with pytest.raises(ValueError, match="turn"):
        seal.seal_turn([], [], world.agent("DIRECTOR").host, random=b"")

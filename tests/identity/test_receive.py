"""The receiver's eleven lines: what passes, and every attack with the code that refuses it."""

from __future__ import annotations

import pytest
from small_world import World

from bus.identity.receive import Parked, receive


def test_what_was_sent_arrives_as_it_was_sent(world: World):
    director, builder = world.agent("DIRECTOR"), world.agent("BUILDER")
    epoch, envelope = world.say(director, "tasks.build", [b"one", b"two"])
    held = world.held(director, builder, epochs=[epoch])
    got = world.receive(envelope, held, world.listening("BUILDER", "tasks.>"))
    assert got.records.payloads == [b"one", b"two"]
    assert (got.header.sender, got.header.topic, got.by_identity) == ("DIRECTOR", "tasks.build", False)
    assert [hearing.subscription.agent for hearing in got.hearings] == ["BUILDER"]


def test_it_waits_for_the_key_and_for_the_papers(world: World):
    director = world.agent("DIRECTOR")
    epoch, envelope = world.say(director, "tasks.build")
    listening = world.listening("BUILDER")
    for held, reason in ((world.held(director), "missing_key"), (world.held(epochs=[epoch]), "missing_papers")):
        got = receive(envelope, held, snapshot=world.snapshot, listening=listening, now_ms=world.now)
        assert isinstance(got, Parked)
        assert got.reason == reason


def test_the_identity_key_signs_what_policy_marks(world: World):
    director = world.agent("DIRECTOR")
    epoch, envelope = world.say(director, "control.stop")
    got = world.receive(envelope, world.held(director, epochs=[epoch]), world.listening("BUILDER"))
    assert got.by_identity
    assert got.proof.suite == 19

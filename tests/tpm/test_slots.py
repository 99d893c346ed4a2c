"""The few places of a TPM: against a simulated chip that refuses what a real one refuses, and a naive model of who sits where."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bus.tpm.slots import Moves, Slots

KEYS = [f"key{number}" for number in range(16)]


class FullError(Exception):
    """0x902: no place for one more object."""


class SimulatedChip:
    """Places, numbered handles and saved contexts. A persistent parent takes a place while a command names it."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.objects: dict[int, str] = {}
        self.calls: list[str] = []
        self._number = 0

    def load(self, key: str) -> int:
        self._need(2, f"load {key}")  # the parent and the child
        return self._place(key)

    def save(self, handle: int) -> tuple[str]:
        self.calls.append(f"save {self.objects[handle]}")
        return (self.objects[handle],)

    def restore(self, context: tuple[str]) -> int:
        self._need(1, f"restore {context[0]}")
        return self._place(context[0])

    def flush(self, handle: int) -> None:
        self.calls.append(f"flush {self.objects.pop(handle)}")

    def _need(self, places: int, what: str) -> None:
        self.calls.append(what)
        if len(self.objects) + places > self.places:
            raise FullError(f"{what}: {len(self.objects)} of {self.places} places are taken")

    def _place(self, key: str) -> int:
        self._number += 1
        self.objects[self._number] = key
        return self._number


def slots_of(chip: SimulatedChip, **options: int) -> Slots[str, int, tuple[str]]:
    return Slots(Moves(chip.save, chip.restore, chip.flush), places=chip.places, **options)


class SlotsAgainstANaiveModel(RuleBasedStateMachine):
    @initialize(places=st.integers(3, 10), max_contexts=st.integers(1, 6))
    def open(self, places, max_contexts):
        self.chip = SimulatedChip(places)
        self.slots = slots_of(self.chip, max_contexts=max_contexts)
        self.places, self.max_contexts = places, max_contexts
        self.resident: list[str] = []  # the least recently used one first
        self.contexts: OrderedDict[str, None] = OrderedDict()
        self.counted = {"hits": 0, "restores": 0, "loads": 0, "evictions": 0}

    @rule(key=st.sampled_from(KEYS), beside=st.integers(0, 1))
    def get(self, key, beside):
        handle = self.slots.get(key, lambda: self.chip.load(key), beside=beside)
        assert self.chip.objects[handle] == key
        if key in self.resident:
            self.counted["hits"] += 1
            self.resident.remove(key)
            self.resident.append(key)
            self.leave_free(beside, keep=key)
        elif key in self.contexts:
            self.counted["restores"] += 1
            self.contexts.move_to_end(key)
            self.leave_free(1 + beside)
            self.resident.append(key)
        else:
            self.counted["loads"] += 1
            self.leave_free(2)
            self.resident.append(key)
        # What the next command needs beside this key has its place.
        assert len(self.chip.objects) + beside <= self.places

    @rule(places=st.integers(0, 4))
    def make_room(self, places):
        self.slots.make_room(places)
        self.leave_free(places)
        assert len(self.chip.objects) <= max(self.places - places, 0)

    @rule(key=st.sampled_from(KEYS))
    def drop(self, key):
        self.slots.drop(key)
        if key in self.resident:
            self.resident.remove(key)
        self.contexts.pop(key, None)

    @rule()
    def flush_all(self):
        self.slots.flush_all()
        self.resident.clear()
        assert not self.chip.objects

    @rule()
    def the_chip_starts_anew(self):
        self.chip.objects.clear()
        self.slots.forget_all()
        self.resident.clear()
        self.contexts.clear()

    def leave_free(self, places, keep=None):
        while len(self.resident) > max(self.places - places, 0) and self.resident[0] != keep:
            oldest = self.resident.pop(0)
            self.counted["evictions"] += 1
            if oldest not in self.contexts:
                self.contexts[oldest] = None
                if len(self.contexts) > self.max_contexts:
                    self.contexts.popitem(last=False)

    @invariant()
    def both_agree(self):
        if not hasattr(self, "slots"):
            return
        assert len(self.chip.objects) <= self.places
        assert list(self.slots.loaded) == self.resident
        assert {self.chip.objects[handle] for handle in self.slots.loaded.values()} == set(self.resident)
        assert len(self.chip.objects) == len(self.resident), "an object of nobody is left in the chip"
        assert list(self.slots.contexts) == list(self.contexts)
        assert {name: getattr(self.slots, name) for name in self.counted} == self.counted


SlotsAgainstANaiveModel.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestSlotsAgainstANaiveModel = SlotsAgainstANaiveModel.TestCase


def test_with_three_places_two_keys_take_turns_without_a_move():
    chip = SimulatedChip(3)
    slots = slots_of(chip)
    for key in ("a", "b") * 5:
        slots.get(key, lambda key=key: chip.load(key))
    assert chip.calls == ["load a", "load b"]
    assert (slots.loads, slots.hits, slots.evictions) == (2, 8, 0)


def test_with_three_places_three_keys_stay_once_they_were_restored():
    """A restore names no parent, so the third key finds a place that a load does not."""
    chip = SimulatedChip(3)
    slots = slots_of(chip)
    for key in ("a", "b", "c", "a"):
        slots.get(key, lambda key=key: chip.load(key))
    chip.calls.clear()
    for key in ("b", "c", "a") * 3:
        slots.get(key, lambda key=key: chip.load(key))
    assert chip.calls == []


def test_a_context_is_saved_once_and_serves_again():
    chip = SimulatedChip(3)
    slots = slots_of(chip)
    for key in ("a", "b", "c", "d", "e") * 6:
        slots.get(key, lambda key=key: chip.load(key))
    assert slots.loads == 5
    assert sorted(call for call in chip.calls if call.startswith("save")) == [f"save {key}" for key in "abcde"]


def test_a_load_that_fails_leaves_nothing_behind():
    chip = SimulatedChip(3)
    slots = slots_of(chip)
    slots.get("a", lambda: chip.load("a"))

    def fail() -> int:
        raise FullError("somebody else sits there")

    with pytest.raises(FullError):
        slots.get("b", fail)
    assert list(slots.loaded) == ["a"]
    assert slots.loads == 1
    slots.get("b", lambda: chip.load("b"))
    assert list(slots.loaded) == ["a", "b"]

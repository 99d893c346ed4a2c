"""Every state that the models can reach has every property; and each model that is broken on purpose is caught, with its story."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import model_enrolment as enrolment
import model_messages as messages
from model_explorer import Explored, TooManyStatesError, explore

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "explanation" / "the-model.md"

SCENES = {
    "live": {
        "the sender publishes news": 2,
        "a reader forges": 1,
        "the sender renews": 1,
        "the receiver restarts": 2,
        "the receiver renews": 1,
        "time passes": 2,
    },
    "durable": {"the sender publishes jobs": 2, "the receiver restarts": 2, "the sender renews": 1},
    "sealing": {
        "the sender publishes news": 2,
        "the sender publishes jobs": 3,
        "the sender renews": 1,
        "the sender restarts": 1,
        "the sender forks": 1,
    },
    "revocation": {
        "the sender publishes news": 1,
        "the sender publishes jobs": 1,
        "the sender's host key is stolen": 1,
        "the sender's identity is revoked": 1,
        "the receiver restarts": 1,
    },
    "rotation": {
        "the sender publishes news": 2,
        "the sender publishes jobs": 1,
        "the sender's identity key is rotated": 1,
        "the receiver restarts": 1,
    },
}
"""What may happen, and how often; all that may always happen comes on top."""

STATES = {"live": 20_000, "durable": 5_000, "sealing": 4_000, "revocation": 20_000, "rotation": 10_000, "enrolment": 20_000}
"""At least so many, or the scene shows little; at most five times as many, or it has grown unseen."""

BROKEN = {
    "window moved before the proof": (
        "live",
        messages.NOT_LOST,
        ["the sender publishes news", "a reader forges", "the broker delivers forged news 0/2147483648"],
    ),
    "began not looked at": (
        "live",
        messages.ONCE,
        [
            "the sender publishes news",
            "the broker delivers news 0/0",
            "the receiver restarts",
            "the sender grants epoch 0 again",
            "the broker delivers news 0/0",
        ],
    ),
    "proof of another header taken": (
        "live",
        messages.GENUINE,
        ["the sender publishes news", "a reader forges", "the broker delivers forged other 0/1"],
    ),
    "window forgotten when its epoch ends": (
        "live",
        messages.ONCE,
        [
            "the sender publishes news",
            "time passes",
            "the sender publishes news",
            "time passes",
            "the broker delivers news 0/1",
            "the broker delivers news 0/1",
        ],
    ),
    "windows dropped at renewal": (
        "live",
        messages.ONCE,
        ["the sender publishes news", "the broker delivers news 0/0", "the receiver renews", "the broker delivers news 0/0"],
    ),
    "papers dropped at renewal": ("live", messages.NOT_LOST, ["the sender publishes news", "the sender renews"]),
    "durable judged by a window": ("durable", messages.UNFINISHED, ["the sender publishes jobs", "the broker delivers jobs 0/0"]),
    "ledger committed after the ack": (
        "durable",
        messages.FINISHED,
        [
            "the sender publishes jobs",
            "the broker delivers jobs 0/0",
            "a handler finishes record 0 of jobs 0/0",
            "the receiver restarts",
            "the broker delivers jobs 0/0",
        ],
    ),
    "epoch restored after a restart": (
        "sealing",
        messages.SEALED_ONCE,
        ["the sender publishes jobs", "the sender restarts", "the sender publishes jobs"],
    ),
    "epochs kept over fork": (
        "sealing",
        messages.SEALED_ONCE,
        ["the sender publishes jobs", "the sender forks", "the sender publishes jobs", "the sender publishes jobs"],
    ),
    "revocation judged by sent_ms": (
        "revocation",
        messages.REVOKED,
        [
            "the sender publishes news",
            "the sender's identity is revoked",
            "the receiver gets the statement",
            "the broker delivers news 0/0",
        ],
    ),
    "rotation dated before the switch": (
        "rotation",
        messages.NOT_LOST,
        ["the sender publishes news", "the sender's identity key is rotated", "the receiver gets the statement"],
    ),
    "nonce not burned": (
        "enrolment",
        enrolment.NONCE_ONCE,
        [
            "ONE asks, and gets nonce 0",
            "TWO asks, and gets nonce 1",
            "ONE answers nonce 0 with the first token",
            "ONE signs for its successor TWO",
            "TWO answers nonce 1 with the consent of ONE",
            "TWO answers nonce 1 with the second token",
        ],
    ),
    "token not burned": (
        "enrolment",
        enrolment.TOKEN_ONCE,
        [
            "ONE asks, and gets nonce 0",
            "ONE asks, and gets nonce 1",
            "ONE answers nonce 0 with the first token",
            "ONE answers nonce 1 with the first token",
        ],
    ),
    "taken names not looked at": (
        "enrolment",
        enrolment.ONE_HOLDER,
        [
            "ONE asks, and gets nonce 0",
            "TWO asks, and gets nonce 1",
            "ONE answers nonce 0 with the first token",
            "TWO answers nonce 1 with the second token",
        ],
    ),
    "consent without the nonce": (
        "enrolment",
        enrolment.CONSENT_ONCE,
        [
            "ONE asks, and gets nonce 0",
            "ONE asks, and gets nonce 1",
            "TWO asks, and gets nonce 2",
            "TWO asks, and gets nonce 3",
            "ONE answers nonce 0 with the first token",
            "ONE signs for its successor TWO",
            "TWO answers nonce 2 with the consent of ONE",
            "TWO signs for its successor ONE",
            "ONE answers nonce 1 with the consent of TWO",
            "TWO answers nonce 3 with the consent of ONE",
        ],
    ),
}
"""What is broken -> the scene, the property that fails, and the shortest way there."""


def walk(scene: str, broken: str = "") -> Explored:
    most = 5 * STATES[scene]
    if scene == "enrolment":
        return explore(enrolment.Desk(), partial(enrolment.moves, broken=broken), enrolment.fault, most=most)
    start = messages.World(tuple(SCENES[scene].items()), delivers=scene != "sealing")
    return explore(start, partial(messages.moves, broken=broken), partial(messages.fault, broken=broken), most=most)


@pytest.mark.parametrize("scene", STATES)
def test_every_property_holds_in_every_state(scene):
    explored = walk(scene)
    assert not explored.fault, str(explored)
    assert explored.states >= STATES[scene]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_on_purpose_is_caught(broken):
    scene, fault, trace = BROKEN[broken]
    explored = walk(scene, broken)
    assert (explored.fault, [*explored.trace]) == (fault, trace), str(explored)


def test_every_property_is_one_that_something_broken_violates():
    properties = {
        text for model in (messages, enrolment) for text in vars(model).values() if isinstance(text, str) and text.endswith(".")
    }
    assert {fault for _, fault, _ in BROKEN.values()} == {text for text in properties if "\n" not in text}


def test_every_way_to_break_the_models_is_tried():
    code = "".join((HERE / name).read_text() for name in ("model_messages.py", "model_enrolment.py"))
    assert set(re.findall(r'broken [!=]= "([^"]+)"', code)) == set(BROKEN)


def test_the_document_says_the_same():
    text = PAGE.read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert [row for row in rows if row[0] in BROKEN] == [(broken, fault) for broken, (_, fault, _) in BROKEN.items()]
    stories = re.findall(r"^```text\n(.*?)\n```", text, re.MULTILINE | re.DOTALL)
    assert [story.split("\n") for story in stories] == [BROKEN["began not looked at"][2], BROKEN["consent without the nonce"][2]]


def test_the_models_are_small_enough_to_read():
    def lines(name: str) -> int:
        return sum(bool(line.strip()) for line in (HERE / name).read_text().splitlines())

    for model in ("model_messages.py", "model_enrolment.py"):
        assert lines("model_explorer.py") + lines(model) < 300


# ---- the explorer ----------------------------------------------------------------------------------------------------------------


def counting(state: int) -> list[tuple[str, int]]:
    return [("one more", state + 1), ("twice", state * 2)]


def test_the_explorer_finds_the_shortest_story():
    explored = explore(1, counting, lambda state: "ten" if state == 10 else "", most=1_000)
    assert (explored.fault, explored.trace) == ("ten", ("one more", "twice", "one more", "twice"))
    assert str(explored).splitlines()[1:] == [*explored.trace]


def test_the_explorer_says_when_there_are_more_states_than_it_may_see():
    with pytest.raises(TooManyStatesError):
        explore(1, counting, lambda _: "", most=100)


def test_the_explorer_ends_when_all_is_seen():
    assert explore(0, lambda state: [("on", (state + 1) % 7)], lambda _: "", most=7) == Explored(7, "", ())

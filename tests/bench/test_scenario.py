"""Scenario files: those that ship can be played, and every mistake has its place."""

from __future__ import annotations

import math

import pytest

from bus.bench.mixed import reference
from bus.bench.part import Part, at_the_gateway, names, share_out
from bus.bench.scenario import Scenario, changed, checked, find, hooks, load, read, shipped
from bus.errors import PolicyError

GOOD = "version: 1\nabout: a test\nrates: [100, 1000]\n"


def problems(text: str) -> list[tuple[int, int]]:
    with pytest.raises(PolicyError) as caught:
        read(text, file="own.yaml")
    assert {problem.file for problem in caught.value.problems} == {"own.yaml"}
    return [(problem.line, problem.column) for problem in caught.value.problems]


def test_what_ships_covers_what_people_ask():
    found = {name: load(find(name)) for name in shipped()}
    assert {scenario.kind for scenario in found.values()} == {"stream", "requests", "mix", "start"}
    assert {scenario.transport for scenario in found.values()} == {"embedded", "unix", "tls", "nats"}
    assert {scenario.delivery for scenario in found.values()} == {"live", "identity", "durable"}
    assert any(scenario.kill_broker for scenario in found.values())
    assert found["fan-out"].readers > 1 < found["fan-in"].senders
    assert all(name == scenario.name and scenario.about for name, scenario in found.items())


def test_the_smallest_file_has_defaults():
    scenario = read(GOOD, file="own.yaml")
    assert (scenario.name, scenario.kind, scenario.transport, scenario.delivery) == ("own", "stream", "unix", "live")
    assert (scenario.rates, scenario.size, scenario.processes, scenario.runs) == ((100.0, 1_000.0), 256, 2, 3)


MISTAKES = {
    "an unknown key": (GOOD + "sizes: 64B\n", [(4, 1)]),
    "an unknown kind": (GOOD + "kind: strem\n", [(4, 7)]),
    "a size without unit": (GOOD + "size: 64\n", [(4, 7)]),
    "too small a body": (GOOD + "size: 63B\n", [(4, 7)]),
    "too large a body": (GOOD + "size: 65KiB\n", [(4, 7)]),
    "no rate": ("version: 1\nabout: x\nrates: []\n", [(3, 8)]),
    "a rate of nothing": ("version: 1\nabout: x\nrates: [0]\n", [(3, 8)]),
    "rates missing": ("version: 1\nabout: x\n", [(1, 1)]),
    "embedded in two processes": (GOOD + "transport: embedded\n", [(1, 1)]),
    "requests that are kept": (GOOD + "kind: requests\ndelivery: durable\n", [(4, 7)]),
    "many at once with receipts": (GOOD + "call: publish_many\ndelivery: durable\n", [(4, 7)]),
    "nobody sends": (GOOD + "senders: 0\n", [(4, 10)]),
    "a start at somebody's hub": (GOOD + "kind: start\n", [(1, 1)]),
    "a broker that is no process": (GOOD + "transport: embedded\nprocesses: 1\nkill_broker: true\n", [(6, 14)]),
    "two at once": (GOOD + "size: 1B\nruns: 0\n", [(4, 7), (5, 7)]),
    "no YAML": ("version: [\n", [(2, 1)]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_every_mistake_has_its_place(case):
    text, places = MISTAKES[case]
    assert problems(text) == places


def test_a_name_that_nothing_has_is_refused():
    with pytest.raises(PolicyError):
        find("one-two-one")


def test_the_command_line_says_it_instead():
    scenario = changed(read(GOOD, file="own.yaml"), rates=(5.0,), seconds=2.0, runs=None, size=1_024, transport="embedded")
    assert (scenario.rates, scenario.seconds, scenario.runs, scenario.size) == ((5.0,), 2.0, 3, 1_024)
    assert scenario.processes == 1, "embedded is one process"
    with pytest.raises(ValueError, match="size"):
        changed(scenario, size=10)


PROGRAM = """
SCENARIO = {"version": 1, "about": "with hooks", "rates": [10], "transport": "embedded", "processes": 1}

def body(number, size):
    return bytes(size)
"""


def test_a_python_file_says_the_same_words_and_brings_hooks(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(PROGRAM)
    scenario = load(find(str(path)))
    assert (scenario.name, scenario.transport, scenario.rates) == ("own", "embedded", (10.0,))
    found = hooks(scenario.program)
    assert (found.body(1, 8), found.hear, found.opened) == (bytes(8), None, None)
    assert hooks(None) == (None, None, None)


@pytest.mark.parametrize(
    "text", ["", "SCENARIO = 1", "1 / 0", 'SCENARIO = {"version": 1, "rates": [1]}', PROGRAM + "SCENARIO['size'] = '1B'"]
)
def test_a_python_file_is_held_to_the_same_rules(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        load(path)
    assert {problem.file for problem in caught.value.problems} == {str(path)}


HOOKS = {
    "text": "def body(number, size): return 'text'",
    "more than its size": "def body(number, size): return bytes(size + 1)",
    "an error": "def body(number, size): return bytes(size)[size]",
}


@pytest.mark.parametrize("case", HOOKS)
def test_a_body_that_is_none_is_known_before_anything_is_started(tmp_path, case):
    path = tmp_path / "own.py"
    path.write_text(f"{PROGRAM}\n{HOOKS[case]}\n")
    with pytest.raises(ValueError, match="body"):
        changed(load(path))


def test_a_body_that_grows_is_never_sent():
    own = checked(lambda number, size: bytes(size + number // 7), 48)
    assert len(own(6)) == 48
    with pytest.raises(ValueError, match="message 7"):
        own(7)


@pytest.mark.parametrize("text", ["body = 3", "def hear(message): pass", "async def opened(agent): pass", "raise SystemExit(3)"])
def test_a_hook_that_cannot_be_called_is_refused(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(f"{PROGRAM}\n{text}\n")
    with pytest.raises(PolicyError):
        load(path)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 0.0, 4_000.0])
@pytest.mark.parametrize("word", ["seconds", "warm_seconds"])
def test_a_window_has_an_end(word, seconds):
    with pytest.raises(ValueError, match="seconds"):
        changed(read(GOOD, file="own.yaml"), **{word: seconds})


# ---- who does what ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("senders", "readers", "processes", "parts"),
    [(1, 1, 1, 1), (1, 1, 2, 2), (1, 75, 2, 2), (20, 1, 2, 2), (1, 100, 4, 4), (3, 3, 4, 4), (1, 1, 8, 2), (2, 9, 5, 5)],
)
def test_everybody_has_a_place_and_only_one(senders, readers, processes, parts):
    scenario = changed(read(GOOD, file="own.yaml"), senders=senders, readers=readers, processes=processes)
    shares = share_out(scenario)
    assert len(shares) == len({name for name, _ in shares}) == parts
    sends = [row.agent for _, duties in shares for row in duties.get("sends", ())]
    hears = [row.agent for _, duties in shares for row in duties.get("hears", ())]
    assert sorted([*sends, *hears]) == sorted(names(scenario))
    assert (len(set(sends)), len(set(hears))) == (senders, readers)
    assert all(duties.get("sends") or duties.get("hears") for _, duties in shares)


def test_a_part_travels_as_json():
    scenario = load(find("one-to-one"))
    [(name, duties), _] = share_out(scenario)
    part = Part(name, "/state", scenario, agents=names(scenario), **duties)
    assert Part.of_document(part.document()) == part
    assert Scenario.of_document(scenario.document()) == scenario


def test_over_nats_who_only_reads_is_at_the_gateway_and_so_is_every_second_part_of_the_mix():
    shares = share_out(changed(load(find("nats-live")), senders=2, readers=3, processes=4))
    assert at_the_gateway(shares) == {"reader 1": ["READER0", "READER2"], "reader 2": ["READER1"]}
    assert at_the_gateway(share_out(changed(load(find("nats-live")), processes=1))) == {}
    mixed = share_out(changed(load(find("mix")), processes=3, transport="nats"), reference())
    assert at_the_gateway(mixed) == {"fleet 2": [*dict(mixed)["fleet 2"]["mixed"]]}

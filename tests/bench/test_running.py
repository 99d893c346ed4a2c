"""Real processes, small and short: what is sent is held against what came until it adds up, and what goes wrong on purpose shows.

Keys are in files (`--tpm software`) and the state folder is the same for all: neither is what is tried here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest

import bus
from bus.bench.crowd import POLICY, Delay, Look
from bus.bench.mixed import reference, sources
from bus.bench.part import FORBIDDEN, ROLE, TOPICS
from bus.bench.processes import children, cpu_seconds, memory_mib
from bus.bench.result import Result
from bus.bench.running import Wanted, measure, part_of
from bus.bench.scenario import Scenario, changed, find, load
from bus.bench.step import Step
from bus.hub.hub import Hub
from bus.hub.state import open_state
from bus.hub.tpm_process import stop_service
from bus.policy import open_policy
from bus.protocol.suites import HOST_SUITE

pytestmark = pytest.mark.slow

QUICK = {"runs": 1, "seconds": 0.4, "warm_seconds": 0.2}


class Watcher:
    def __init__(self) -> None:
        self.runs, self.looks, self.ended = list[int](), list[Look](), list[Step]()

    def run_begins(self, run: int, _: int) -> None:
        self.runs.append(run)

    def looked(self, look: Look) -> None:
        self.looks.append(look)

    def step_ended(self, step: Step) -> None:
        self.ended.append(step)


async def enrolled(state: Path) -> None:
    """What every scenario here needs, made once: a root, an authority, agents with keys and certificates."""
    names = [f"{part}{number}" for part in ("SENDER", "READER") for number in range(3)]
    async with (
        bus.open(state=state, policy=POLICY, agents=dict.fromkeys(names, ROLE), tpm="software") as hub,
        anyio.create_task_group() as tasks,
    ):
        for name in names:
            tasks.start_soon(opened_once, hub, name)


async def opened_once(hub: Hub, name: str) -> None:
    async with hub.agent(name):
        pass


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tb", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        for name in ("TPMBUS_TPM", "TPMBUS_POLICY", "TPMBUS_STATE"):
            patch.delenv(name, raising=False)
        anyio.run(enrolled, folder / "state")
        anyio.run(stop_service, open_state(folder / "state"))
        yield folder / "state"
    shutil.rmtree(folder)


def planned(scenario: str, **words) -> Scenario:
    return changed(load(find(scenario)), **{**QUICK, **words})


async def played(state: Path, plan: Scenario, watcher: Watcher | None = None, *, delay: Delay | None = None) -> Result:
    return await measure(plan, Wanted(state=state, tpm="software", delay=delay), watcher or Watcher())


def play(state: Path, scenario: str, watcher: Watcher | None = None, **words) -> Result:
    return anyio.run(played, state, planned(scenario, **words), watcher)


def only(result: Result) -> Step:
    [step] = result.runs[0].steps
    return step


def adds_up(step: Step, readers: int = 1) -> None:
    assert step.sent + sum(step.not_sent.values()) == step.due / readers
    assert step.delivered + step.lost == step.sent * readers


def test_in_processes_of_their_own_everything_adds_up_and_was_really_done(state):
    watcher = Watcher()
    result = play(state, "one-to-one", watcher, rates=(500.0, 1_000.0))
    assert [step.rate for step in watcher.ended] == [500, 1_000]
    assert watcher.looks[-1].heard == 600
    for step in result.runs[0].steps:
        adds_up(step)
        assert (step.lost, step.duplicated, step.reordered, step.not_sent) == (0, 0, 0, {})
        assert step.delivered == step.due == round(0.6 * step.rate)
        assert step.latency.count == round(0.4 * step.rate), "the warm-up is thrown away"
        assert 0 < step.latency.p50 <= step.latency.p90 <= step.latency.p99 <= step.latency.p999 <= step.latency.max
        names = {process.name for process in step.processes}
        assert names == {"hub", "sender 1", "reader 1", "bench", "tpm"}
        assert all(process.memory_mib > 10 for process in step.processes)
        assert step.costs["sender"] > step.costs["generator"] > 0
        assert step.proof["policy_refuses"] == 1
        assert step.proof["signatures_verified"] > 0 < step.proof["envelopes_opened"]
        assert step.proof["refused"] == 0
    assert Result.of_document(result.document()) == result
    assert result.scenario["tpm"] == "software"


DAMAGING = """
import time
import bus

SCENARIO = {"version": 1, "about": "a stall, and two that are dropped", "rates": [1000], "transport": "embedded", "processes": 1}
heard = 0

def opened(agent):
    @agent.hooks.deliver
    def drop(_, message):
        if message.data[8:12] in (bytes([0, 0, 0, 7]), bytes([0, 0, 0, 150])):
            raise bus.Drop("on purpose")
        return message

def body(number, size):
    return bytes(size)

async def hear(message):
    global heard
    heard += 1
    if heard == 300:
        time.sleep(0.3)
"""


@pytest.fixture(scope="module")
def damaged(state: Path) -> Step:
    """In a window of 0.6 s everything stands still for 0.3: half of its messages were due while nobody could send one."""
    program = state.parent / "damaging.py"
    program.write_text(DAMAGING)
    return only(play(state, str(program), seconds=0.6))


def test_whoever_stands_still_is_seen_in_the_percentiles(damaged):
    assert damaged.latency.max >= 295
    assert damaged.latency.p90 >= 150, "who was due in the stall waited, though nobody sent in it"
    assert max(damaged.over_time, key=lambda moment: moment.max).max >= 295
    assert damaged.longest_silence >= 0.29


def test_what_is_dropped_on_purpose_is_counted_as_lost(damaged):
    adds_up(damaged)
    assert (damaged.lost, damaged.duplicated, damaged.reordered) == (2, 0, 0)
    assert not damaged.kept


def test_how_late_the_generator_was_is_told_of_every_message(damaged):
    assert damaged.generator_late.count == damaged.sent
    assert damaged.generator_late.max >= 295, "who was due when the stall began was sent when it was over"
    assert damaged.generator_late.p90 >= 150


UNANSWERED = """
import bus

SCENARIO = {
    "version": 1, "about": "some are never answered", "kind": "requests", "rates": [100], "transport": "embedded", "processes": 1,
}
asked = 0

def opened(agent):
    @agent.hooks.publish
    def drop(_, record):
        global asked
        if agent.name == "READER0":
            asked += 1
            if asked % 10 == 0:
                raise bus.Drop("on purpose")
        return record
"""


def test_a_request_whose_reply_never_came_is_lost(state):
    program = state.parent / "unanswered.py"
    program.write_text(UNANSWERED)
    step = only(play(state, str(program), seconds=0.3))
    adds_up(step)
    assert (step.sent, step.lost, step.not_sent) == (50, 5, {})


async def all_played(state: Path, plans: Sequence[Scenario], delays: Mapping[str, Delay]) -> dict[str, Step]:
    """Each in a folder of its own, so that none waits for another; mostly they wait for a process to start or a window to end."""
    found, few = {}, anyio.CapacityLimiter(3)

    async def one(plan: Scenario) -> None:
        async with few:
            found[plan.name] = only(await played(state.with_name(plan.name), plan, delay=delays.get(plan.name)))

    async with anyio.create_task_group() as group:
        for plan in plans:
            group.start_soon(one, plan)
    return found


@pytest.mark.timeout(120)
def test_whatever_is_played_adds_up(state):
    plans = [
        planned("identity", rates=(100.0,), transport="embedded"),
        planned("durable", rates=(300.0,), senders=3, readers=2, transport="embedded"),
        planned("nats", rates=(200.0,), seconds=0.3),
        planned("nats-live", rates=(200.0,), seconds=0.3),
        planned("requests", rates=(200.0,), transport="embedded"),
        planned("cold-start", seconds=0.1),
    ]
    for plan in plans:
        shutil.copytree(state, state.with_name(plan.name), ignore=shutil.ignore_patterns("run", "*.lock"))
    found = anyio.run(all_played, state, plans, {"identity": Delay(ecc=0.03, rsa=0.03)})

    adds_up(slow := found["identity"])
    assert slow.lost == 0
    assert slow.latency.p50 >= 30, "a slow TPM is as slow as it was told"
    assert slow.tpm["operations"] <= 0.4 / 0.03 + 2, "what waits while one operation runs shares the next"

    adds_up(kept := found["durable"], readers=2)
    assert (kept.sent, kept.delivered, kept.duplicated, kept.reordered) == (180, 360, 0, 0)

    adds_up(elsewhere := found["nats"])
    assert (elsewhere.sent, elsewhere.delivered, elsewhere.duplicated, elsewhere.reordered) == (100, 100, 0, 0)
    assert {process.name for process in elsewhere.processes} >= {"hub", "gateway", "nats-server"}

    adds_up(across := found["nats-live"])
    assert (across.sent, across.delivered, across.duplicated, across.reordered) == (100, 100, 0, 0)
    costs, signed = across.costs, across.algorithms[f"{HOST_SUITE.name} (sessions)"]
    assert costs["gateway"] > costs["hub"] / 4, "each message goes by both brokers"
    assert 0 < signed <= across.sent, "and what signed it counts once"

    adds_up(asked := found["requests"])
    assert (asked.delivered, asked.latency.count) == (120, 80), "each is timed until its reply"

    started = found["cold-start"]
    assert started.latency.count == started.delivered == 1
    assert started.latency.p50 > 100
    assert started.proof["policy_refuses"] == started.proof["messages_handed_over"] == 1
    assert started.proof["signatures_verified"] > 0
    assert {process.name for process in started.processes} == {"started", "bench"}
    assert all(process.memory_mib > 10 for process in started.processes)


def test_scenarios_that_cannot_share_a_state_folder_have_parts_of_it(tmp_path):
    names = ("one-to-one", "durable", "mix", "nats", "nats-live")
    found = {name: part_of(tmp_path, load(find(name))) for name in names}
    assert found["one-to-one"] == found["durable"] == tmp_path
    assert found["nats"] == found["nats-live"] == tmp_path / "nats"
    assert found["mix"] == tmp_path / "mix"
    assert part_of(tmp_path, changed(load(find("mix")), transport="nats")) == tmp_path / "mix-nats"


# ---- what they run under ---------------------------------------------------------------------------------------------------------


def test_the_policy_signs_keeps_and_refuses():
    policy = open_policy(str(POLICY))
    assert ROLE in policy.roles
    assert policy.topic_rule(f"{TOPICS['identity']}.s0").signed_by == "identity"
    assert policy.topic_rule(f"{TOPICS['live']}.s0").signed_by == "session"
    assert policy.topic_rule(f"{TOPICS['durable']}.s0").class_ == "durable"
    assert not policy.decide("SENDER0", "publish", FORBIDDEN).allowed


def test_the_reference_mix_has_a_number_for_every_agent_on_every_topic():
    mix = reference()
    found = sources(mix)
    assert sorted(found.values()) == list(range(len(found)))
    assert {
        (sending.agent, sending.topic) for sending, _ in zip(mix.schedule(rate=1_000, seed=1), range(2_000), strict=False)
    } <= set(found)


def test_processes_are_measured_from_outside():
    assert memory_mib(os.getpid()) > 10
    assert cpu_seconds(os.getpid()) > 0
    assert (memory_mib(2**22 + 1), cpu_seconds(2**22 + 1), children(2**22 + 1)) == (0.0, 0.0, [])

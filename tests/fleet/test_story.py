"""A task goes its way through the whole fleet: plan, work, results, deployment, audit, records, summaries; another has a flaw.

LOGKEEPER looks on: it may hear everything but incidents, and is no part of the crew here.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import bus.testing
from bus import shipped
from bus.fleet.crew import Crew
from bus.fleet.handlers import load_handlers
from bus.policy import open_policy

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.processes]

POLICY = open_policy()
DOES = load_handlers(shipped.folder("agents") / "handlers")
ONLOOKER = "LOGKEEPER"
SHIPPED = shipped.folder("policies")


class Story:
    """What the onlooker saw, in its order."""

    def __init__(self, hub) -> None:
        self._hub = hub
        self.seen: list[tuple[str, str, dict]] = []

    async def look_on(self, subscription) -> None:
        async for message in subscription:
            if isinstance(message.body, dict):
                self.seen.append((message.topic, message.sender, message.body))

    async def pass_seconds(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self._hub.clock.advance(0.05)
            await anyio.wait_all_tasks_blocked()

    def of(self, task: str) -> list[str]:
        return [topic for topic, _, body in self.seen if body.get("task") == task]

    def senders(self, topic: str) -> set[str]:
        return {sender for seen, sender, _ in self.seen if seen == topic}


@asynccontextmanager
async def fleet_at_work():
    async with bus.testing.open() as hub, hub.agent(ONLOOKER) as onlooker, onlooker.subscribe(">") as everything:
        roles = {name: role for name, role in POLICY.agents.items() if name != ONLOOKER}
        crew, story = Crew(hub, roles, DOES, None, clock=hub.clock), Story(hub)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(story.look_on, everything)
            await tasks.start(crew.run)
            await crew.speak_up(rate=0)
            yield story, crew
            tasks.cancel_scope.cancel()


def members(role: str) -> set[str]:
    return set(POLICY.members(role))


async def test_a_task_goes_from_plan_to_summary():
    async with fleet_at_work() as (story, crew):
        await story.pass_seconds(1.2)  # DIRECTOR gives out one task a second
        await crew.fall_silent()
        await story.pass_seconds(1)
        assert crew.lost == {}
    trail = story.of("T0001")
    in_order = [
        "tasks.build", "plans.ready", "work.build.rust", "results.build", "work.test.rust", "results.test", "work.deploy.rust",
        "deployment.done", "results.deploy", "summaries.task", "summaries.translated",
    ]  # fmt: skip
    assert [topic for topic in trail if topic in in_order] == in_order
    assert {"records.build", "records.test", "records.deploy", "announcements.audited"} <= set(trail)
    assert story.senders("tasks.build") == {"DIRECTOR"}
    assert story.senders("plans.ready") <= members("architecture")
    assert story.senders("results.build") <= members("development") | members("language")
    assert story.senders("results.test") <= members("development")
    assert story.senders("deployment.done") <= members("infrastructure")
    assert story.senders("records.deploy") == {"DATABASE"}
    assert story.senders("announcements.audited") == {"SECURITYAUDITOR"}


async def test_every_step_of_a_task_is_done_once_and_by_one():
    async with fleet_at_work() as (story, crew):
        await story.pass_seconds(3.2)
        await crew.fall_silent()
        await story.pass_seconds(1)
    for task in ("T0001", "T0002", "T0003"):
        steps = story.of(task)
        for topic in ("plans.ready", "results.build", "results.test", "results.deploy", "records.deploy", "summaries.task"):
            assert steps.count(topic) == 1, (task, topic, steps)


async def test_a_flaw_is_found_reported_and_mended():
    async with fleet_at_work() as (story, crew):
        await story.pass_seconds(6.6)  # the sixth task has one
        await crew.fall_silent()
        await story.pass_seconds(1)
    trail = story.of("T0006")
    assert [topic for topic in trail if topic.startswith("tasks.")] == ["tasks.build", "tasks.fix"]
    results = [body["ok"] for topic, _, body in story.seen if topic == "results.test" and body["task"] == "T0006"]
    assert results == [False, True]
    assert "alarms.failed" in trail
    assert trail.index("tasks.fix") < trail.index("deployment.done")
    assert story.senders("tasks.fix") == {"QADIRECTOR"}
    assert story.senders("tasks.build") == {"DIRECTOR", "PROJECTORCHESTRATOR"}
    assert "T0005" in {body.get("task") for topic, _, body in story.seen if topic == "summaries.task"}


@pytest.mark.parametrize("topic", ["control.pause", "deployment.planned", "revocation.agent", "policy.changed"])
async def test_all_that_is_critical_is_audited(topic):
    async with bus.testing.open() as hub, hub.agent("SECURITYAUDITOR") as auditor, hub.agent(ONLOOKER) as onlooker:
        async with onlooker.subscribe("announcements.*") as said, auditor.serving(DOES["security"].handlers(auditor)):
            async with hub.agent("CSO" if topic.startswith("revocation") else "DIRECTOR") as sender:
                await sender.publish(topic, "now")
                found = (await anext(said)).body
    assert (found["of"], found["topic"], found["signed_by"]) == (sender.name, topic, "identity")


@pytest.fixture
def folder(own_provisioned, monkeypatch) -> Path:
    """The state folder of the whole fleet."""
    for name, value in own_provisioned.environ.items():
        monkeypatch.setenv(name, value)
    return own_provisioned.state.folder


async def test_whoever_is_said_to_be_stolen_is_cut_off(folder):
    """By an authority that is one: of a bus in memory a test is its own."""
    async with (
        bus.open(policy=SHIPPED, state=folder) as hub,
        hub.agent("CSO") as cso,
        hub.agent("SECURITY") as security,
        hub.agent("MONITOR") as monitor,
    ):
        async with (
            cso.serving(DOES["security"].handlers(cso)),
            monitor.subscribe("revocation.*") as said,
            hub.agent("SWIFT") as swift,
        ):
            async with swift.subscribe("tasks.>") as tasks:
                await security.publish("incidents.stolen", {"agent": "SWIFT"})
                message = await anext(said)
                with pytest.raises(bus.RevokedError):
                    await anext(tasks)
    assert (message.sender, message.topic, message.body["agent"]) == ("CSO", "revocation.done", "SWIFT")

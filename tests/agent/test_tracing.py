"""Traces: the span in which something is published goes along with it, and what is done about it belongs to the same trace."""

from __future__ import annotations

import subprocess
import sys

import anyio
import pytest
from agent_scenes import Later, scene, soon

import bus

pytestmark = pytest.mark.anyio

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = int(PARENT.split("-")[1], 16)


@pytest.fixture(scope="module")
def tracer():
    """From here on this process traces; a program without OpenTelemetry is the last test."""
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider().get_tracer("tests")


async def test_what_is_published_in_a_span_carries_it_along_in_every_way(tracer):
    from opentelemetry import trace

    async with (
        scene("LEAD", "PAINTER") as (_, lead, painter),
        painter.subscribe("tasks.>") as tasks,
        anyio.create_task_group() as group,
    ):
        with tracer.start_as_current_span("planning") as span:
            await lead.publish("tasks.paint", 1)
            await lead.publish("tasks.paint", 2)
            await lead.publish("tasks.paint", 3, headers={"k": "v"})
            await lead.publish_soon("tasks.paint", 4)
            lead.publish_nowait("tasks.paint", 5)
            await lead.publish_many("tasks.paint", [6, 7])
            asked = Later(group, lambda: lead.request("tasks.paint", 8))
            messages = sorted([await soon(anext(tasks)) for _ in range(8)], key=lambda message: message.body)
        assert [message.body for message in messages] == list(range(1, 9))
        carried = span.get_span_context()
        expected = f"00-{carried.trace_id:032x}-{carried.span_id:016x}-{carried.trace_flags:02x}"
        assert {message.trace for message in messages} == {expected}
        assert messages[2].headers["k"] == "v"
        context = bus.trace_context(messages[0].headers)
        assert trace.get_current_span(context).get_span_context().trace_id == carried.trace_id
        with tracer.start_as_current_span("painting", context=context):
            await messages[-1].reply("done")
        reply = await asked.result()
        assert reply.trace.split("-")[1] == expected.split("-")[1]
        assert reply.trace != expected


async def test_without_a_span_nothing_is_added_and_what_the_caller_says_stays(tracer):
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", 1)
        await lead.publish("tasks.paint", 2, headers={"traceparent": PARENT})
        with tracer.start_as_current_span("planning"):
            await lead.publish("tasks.paint", 3, headers={"traceparent": PARENT})
        found = [await soon(anext(tasks)) for _ in range(3)]
        assert [message.trace for message in found] == [None, PARENT, PARENT]
        assert dict(found[0].headers) == {}


async def test_what_a_handler_does_belongs_to_the_trace_of_its_message(tracer):
    from opentelemetry import trace

    async with scene("LEAD", "PAINTER") as (hub, lead, painter), lead.subscribe("results.>") as results:
        seen = []

        @painter.on("tasks.>")
        async def paint(message):
            seen.append(trace.get_current_span().get_span_context().trace_id)
            await painter.publish("results.paint", message.body)

        async with painter.serving():
            await lead.publish("tasks.paint", 1, headers={"traceparent": PARENT})
            await lead.publish("tasks.paint", 2)
            await hub.settle()
        found = [await soon(anext(results)) for _ in range(2)]
        assert seen == [TRACE, 0]
        assert [message.trace for message in found] == [PARENT, None]


async def test_hooks_see_it(tracer):
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        seen = []
        lead.hooks.publish(lambda _, record: seen.append(record.headers.get("traceparent")) or record)
        with tracer.start_as_current_span("planning"):
            for _ in range(2):
                await lead.publish("tasks.paint", 1)
            await lead.publish_many("tasks.paint", [1])
        assert seen == [(await soon(anext(tasks))).trace for _ in range(3)]


ALONE = """
import sys, anyio
sys.modules["opentelemetry"] = None
import bus, bus.testing

async def main():
    async with bus.testing.open() as hub, hub.agent("DIRECTOR") as director, hub.agent("MONITOR") as monitor:
        async with monitor.subscribe("tasks.>") as tasks:
            await director.publish("tasks.build", 1, headers={"traceparent": "00-1-2-01"})
            message = await anext(tasks)
            print(message.trace)
            try:
                bus.trace_context(message.headers)
            except ModuleNotFoundError:
                print("not installed")

anyio.run(main)
"""


def test_without_opentelemetry_everything_else_works():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["00-1-2-01", "not", "installed"]), done.stderr

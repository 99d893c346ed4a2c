"""Operations watch. MONITOR counts and publishes the counts, TRACER follows tasks, LOGKEEPER notes who said something about what.

ALERTER raises an alarm for each result that is none.
"""

from collections import Counter, OrderedDict

import bus

TRAILS = 1_000
"""Tasks that TRACER remembers."""

every_seconds = 2.0
seen: Counter[str] = Counter()


async def beat(agent: bus.Agent, number: int) -> None:
    if agent.name == "MONITOR":
        await agent.publish("telemetry.fleet", {"number": number, "seen": dict(seen)})


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()
    watch = {"MONITOR": monitor, "TRACER": trace, "LOGKEEPER": log}.get(agent.name)
    if watch is not None:
        watch(on)

    if agent.name == "ALERTER":

        @on.on("results.*")
        async def alert(message: bus.Message) -> None:
            if not message.body["ok"]:
                await agent.publish("alarms.failed", message.body)

    return on


def monitor(on: bus.Handlers) -> None:
    @on.on(">")
    async def count(message: bus.Message) -> None:
        seen[message.topic.partition(".")[0]] += 1


def trace(on: bus.Handlers) -> None:
    trails: OrderedDict[str, list[str]] = OrderedDict()

    @on.on(">")
    async def follow(message: bus.Message) -> None:
        task = message.body.get("task") if isinstance(message.body, dict) else None
        if isinstance(task, str):
            trails.setdefault(task, []).append(f"{message.topic} {message.sender}")
            if len(trails) > TRAILS:
                trails.popitem(last=False)


def log(on: bus.Handlers) -> None:
    lines: Counter[tuple[str, str]] = Counter()

    @on.on(">")
    async def note(message: bus.Message) -> None:
        lines[message.sender, message.topic.partition(".")[0]] += 1

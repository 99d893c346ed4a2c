"""Interfaces show people what happens: each knows whose word on each topic was the last, and WEB tells whoever comes later."""

import bus

every_seconds = 5.0
screens: dict[str, dict[str, str]] = {}


async def beat(agent: bus.Agent, number: int) -> None:
    if agent.name == "WEB":
        await agent.publish("summaries.page", {"number": number, "latest": screens["WEB"]})


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()
    screen = screens.setdefault(agent.name, {})

    async def show(message: bus.Message) -> None:
        screen[message.topic] = message.sender

    for pattern in ("summaries.*", "alarms.*", "announcements.*"):
        on.on(pattern)(show)
    return on

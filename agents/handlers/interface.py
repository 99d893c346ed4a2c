"""Interfaces show people what happens: each knows who spoke last on what, and WEB asks for the records and publishes a page."""

import bus

every_seconds = 5.0
screens: dict[str, dict[str, str]] = {}


async def beat(agent: bus.Agent, number: int) -> None:
    if agent.name == "WEB":
        records = await agent.request("questions.records", {"who": "WEB"}, timeout=5)
        await agent.publish("summaries.page", {"number": number, "records": records.body, "latest": screens["WEB"]})


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()
    screen = screens.setdefault(agent.name, {})

    async def show(message: bus.Message) -> None:
        screen[message.topic] = message.sender

    for pattern in ("summaries.*", "alarms.*", "announcements.*"):
        on.on(pattern)(show)
    return on

"""Data keeps records. DATABASE writes one of every result, the others of the group index them, and all answer questions."""

import bus

indexed: dict[str, int] = {}


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    @on.on("questions.records", group="librarians")
    async def answer(message: bus.Message) -> dict[str, object]:
        return {"to": message.sender, "records": dict(indexed)}

    if agent.name == "DATABASE":

        @on.on("results.*", durable="book")
        async def record(message: bus.Message) -> None:
            result = message.body
            row = {name: result[name] for name in ("task", "step", "by", "ok")}
            await agent.publish(f"records.{result['step']}", row, id=message.id)  # the same result twice is one record

    else:

        @on.on("records.*", group="keepers", durable="keepers")
        async def index(message: bus.Message) -> None:
            indexed[message.topic] = indexed.get(message.topic, 0) + 1

    return on

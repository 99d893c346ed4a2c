"""Data keeps records: DATABASE writes one of every result, and the others of the group index them."""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()
    indexed: dict[str, int] = {}

    if agent.name == "DATABASE":

        @on.on("results.*", durable="book")
        async def record(message: bus.Message) -> None:
            result = message.body
            row = {
                "task": result["task"],
                "step": result["step"],
                "by": result["by"],
                "ok": result["ok"],
                "position": message.position,
            }
            await agent.publish(f"records.{result['step']}", row, id=message.id)  # the same result twice is one record

    else:

        @on.on("records.*", group="keepers", durable="keepers")
        async def index(message: bus.Message) -> None:
            indexed[message.topic] = indexed.get(message.topic, 0) + 1

    return on

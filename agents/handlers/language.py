"""The experts for one language each take building from the same group as development does, and report what came out."""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    @on.on("work.build.*", group="builders", durable="builders")
    async def build(message: bus.Message) -> None:
        await agent.publish("results.build", {**message.body, "step": "build", "by": agent.name, "ok": True})

    return on

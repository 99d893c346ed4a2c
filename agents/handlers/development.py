"""Development takes building and testing from queue groups, one message each, and reports what came out."""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    async def report(step: str, work: dict[str, object], *, ok: bool) -> None:
        await agent.publish(f"results.{step}", {**work, "step": step, "by": agent.name, "ok": ok})

    @on.on("work.build.*", group="builders", durable="builders")
    async def build(message: bus.Message) -> None:
        await report("build", message.body, ok=True)

    @on.on("work.test.*", group="testers", durable="testers")
    async def test(message: bus.Message) -> None:
        await report("test", message.body, ok=not message.body["flaw"])

    return on

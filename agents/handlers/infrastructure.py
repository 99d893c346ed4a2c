"""Infrastructure deploys what passed its test, says so under its identity key, and reports it."""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    @on.on("work.deploy.*", group="deployers", durable="deployers")
    async def deploy(message: bus.Message) -> None:
        work = message.body
        await agent.publish("deployment.done", {"task": work["task"], "by": agent.name})  # critical: signed by the TPM itself
        await agent.publish("results.deploy", {**work, "step": "deploy", "by": agent.name, "ok": True})

    return on

"""Architecture turns each task into a plan, has another architect look at it, and turns the plan into work.

A task is taken by one of the group. The plan is asked about before it is published: whoever reviews is of the group too.
"""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    @on.on("tasks.*", group="planners")
    async def plan(message: bus.Message) -> None:
        task = message.body
        draft = {**task, "by": agent.name, "steps": ["build", "test", "deploy"]}
        verdict = await agent.request("plans.review", draft, timeout=5)
        if verdict.body["approved"]:
            await agent.publish("plans.ready", {**draft, "reviewed_by": verdict.sender})
            await agent.publish(f"work.build.{task['language']}", task)

    @on.on("plans.review", group="reviewers")
    async def review(message: bus.Message) -> dict[str, bool]:
        steps = message.body.get("steps", []) if isinstance(message.body, dict) else []
        return {"approved": steps[-1:] == ["deploy"]}

    return on

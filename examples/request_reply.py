"""One agent asks, another answers. Where nobody listens, the question fails at once and does not wait."""

import anyio

import bus

handlers = bus.Handlers()


@handlers.on("plans.review", group="reviewers")
async def review(message: bus.Message) -> dict[str, object]:
    return {"plan": message.body["id"], "approved": message.body["cost"] < 100}  # what a handler returns is the reply


async def main() -> None:
    async with bus.open() as hub, hub.agent("MONITOR") as monitor:
        try:
            await monitor.request("plans.review", {"id": 6, "cost": 1}, timeout=2)
        except bus.NoRespondersError:
            print("nobody reviews plans yet")

        async with hub.agent("ARCHITECT") as architect, architect.serving(handlers):
            for plan in ({"id": 7, "cost": 40}, {"id": 8, "cost": 400}):
                reply = await monitor.request("plans.review", plan, timeout=2)
                print(reply.sender, reply.body)


if __name__ == "__main__":
    anyio.run(main)

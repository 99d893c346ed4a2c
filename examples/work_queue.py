"""Work that is kept until it is done: a group shares it, one message each, and what is not acked comes again."""

import anyio

import bus

JOBS = 6


async def worker(hub: bus.Hub, name: str, done: anyio.abc.ObjectSendStream[str]) -> None:
    async with hub.agent(name) as agent:
        async with agent.subscribe("work.build.queue", group="builders", durable="queue", start="all") as work:
            async for job in work:
                if job.body["number"] == 3 and not job.redelivered:
                    await job.nak(delay=0.1)  # not now: somebody of the group gets it again
                    continue
                await job.ack()  # from here on nobody gets it again, whatever is restarted
                await done.send(f"{name} did job {job.body['number']}{', at the second try' if job.redelivered else ''}")


async def main() -> None:
    finished, results = anyio.create_memory_object_stream[str](JOBS)
    async with bus.open() as hub, hub.agent("ARCHITECT") as architect, anyio.create_task_group() as tasks:
        for number in range(JOBS):  # nobody works yet: it is on disk when `publish` returns
            await architect.publish("work.build.queue", {"number": number})
        for name in ("PYTHON", "RUST"):
            tasks.start_soon(worker, hub, name, finished)
        for _ in range(JOBS):
            print(await results.receive())
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)

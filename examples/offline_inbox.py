"""An agent that is away misses nothing: what is kept for it is sealed to a key that waits in its TPM."""

import anyio

import bus


async def main() -> None:
    async with bus.open() as hub:
        async with hub.agent("DATABASE") as database, database.subscribe("results.>", durable="inbox"):
            pass  # from here on, results are kept for DATABASE under the name `inbox`

        async with hub.agent("PYTHON") as python:  # DATABASE is away
            for number in range(3):
                position = await python.publish("results.build", {"number": number, "ok": True})
                print(f"stored at {position}")

        async with hub.agent("DATABASE") as database, database.subscribe("results.>", durable="inbox") as results:
            for _ in range(3):
                message = await anext(results)
                print(message.sender, message.body)
                await message.ack()


if __name__ == "__main__":
    anyio.run(main)

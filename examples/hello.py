"""Two agents: one says something, the other hears it. What passes between them is signed and encrypted; nothing is configured."""

import anyio

import bus


async def main() -> None:
    async with bus.open() as hub:  # a broker in this process, a software TPM, the default policy
        async with hub.agent("DIRECTOR") as director, hub.agent("MONITOR") as monitor:
            async with monitor.subscribe("tasks.>") as tasks:
                await director.publish("tasks.build", {"ref": "main"})
                async for message in tasks:
                    print(message.sender, message.topic, message.body, message.signed_by)
                    break


if __name__ == "__main__":
    anyio.run(main)

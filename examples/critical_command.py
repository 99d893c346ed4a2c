"""A command that must not be forged: policy says that the TPM key itself signs it, and who may say it at all."""

import anyio

import bus


async def main() -> None:
    async with bus.open() as hub:
        async with hub.agent("DIRECTOR") as director, hub.agent("PYTHON") as python:
            async with python.subscribe("control.>") as control:
                await director.publish("control.pause", {"seconds": 30})  # returns when the TPM has signed and it is on its way
                order = await anext(control)
                print(f"{order.sender} ordered {order.topic}, signed by its {order.signed_by} key")

            try:
                await python.publish("control.pause", {"seconds": 3600})
            except bus.NotPermittedError as error:
                print(f"{error.agent} may not: {error.rule}")


if __name__ == "__main__":
    anyio.run(main)

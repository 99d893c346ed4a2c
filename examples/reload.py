"""A policy that changes while the bus runs: who loses a right is shut out at once, and told which rule did it."""

import tempfile
from pathlib import Path

import anyio

import bus

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: ecc256/sha256, publish: [tasks.>]}
  worker: {key: ecc256/sha256, subscribe: [tasks.>]}
"""


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(POLICY)
        async with bus.open(policy=policy, state=Path(folder) / "state") as hub:
            async with hub.agent("LEAD") as lead, hub.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
                await lead.publish("tasks.paint", "the door")
                print("PAINTER was told:", (await anext(tasks)).body)

                policy.write_text(POLICY.replace("subscribe: [tasks.>]", "subscribe: [notices.>]"))
                try:
                    async for message in tasks:  # the hub sees that the file changed, signs it, and judges everybody by it
                        print("never:", message.body)
                except bus.NotPermittedError as error:
                    print(f"{error.agent} is shut out: {error.rule}")


if __name__ == "__main__":
    anyio.run(main)

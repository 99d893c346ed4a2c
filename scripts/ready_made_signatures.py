"""Writes bus/testing/ready_made_signatures.bin: what the root of tests has signed before, so that tests need not wait for RSA-4096.

To be run when shipped policies or the default start of `ManualClock` change. Without it tests work as well, and start some
milliseconds later.

    .venv/bin/python scripts/ready_made_signatures.py
"""

from __future__ import annotations

import anyio

from bus.policy.files import SHIPPED
from bus.testing import ManualClock, ready_made
from bus.testing.policy_texts import texts_of
from bus.testing.world import World

USUAL_NAMES = ("ALICE", "BOB", "CAROL")
"""Of agents in the policy that lists none."""


async def main() -> None:
    rows: dict[bytes, bytes] = {}
    sign = ready_made.root_signs

    def noted(tbs: bytes) -> bytes:
        return rows.setdefault(ready_made.tag(tbs), sign(tbs))

    ready_made.root_signs = noted  # type: ignore[assignment]  # it is a cache of the same function
    for name in SHIPPED:
        world = World(await texts_of(name), ManualClock())
        world.materials(*(world.policy.agents or USUAL_NAMES))
        world.broker_materials()
    ready_made.SIGNATURES.write_bytes(b"".join(tag + signature for tag, signature in sorted(rows.items())))
    print(f"{len(rows)} signatures in {ready_made.SIGNATURES}")


anyio.run(main)

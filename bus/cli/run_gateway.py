"""`tpmbus run` in the state folder of a gateway: its broker alone. The fleet and the policy are the authority's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bus.cli.output import Output
    from bus.cli.run_plan import Wanted


async def run_gateway(wanted: Wanted, output: Output) -> int:
    import anyio

    from bus.cli.loop import until_stopped
    from bus.cli.terminal import reloading
    from bus.hub.open import supervise
    from bus.tpm.serving import notify

    if wanted.roster not in (None, "none"):
        raise click.UsageError(
            "a gateway runs no fleet: its agents come from other processes (`tpmbus sub PATTERN --as AGENT`, bus.connect)"
        )
    async with supervise(
        policy=wanted.policy, state=wanted.state, listen=wanted.listen, tpm=wanted.tpm, backbone=wanted.backbone
    ) as hub:
        async with reloading(hub, output) as gone, until_stopped(also=gone):
            output.note(f"The gateway listens at {', '.join(hub.urls)}")  # whoever reads this may say at once that it is enough
            notify("READY=1")
            with anyio.move_on_after(wanted.seconds):
                await anyio.sleep_forever()
        notify("STOPPING=1")
        output.document(await hub.statistics())
    return 0

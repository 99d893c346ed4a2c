"""`tpmbus host gateway`: the papers by which a hub on this machine serves a bus whose authority is another machine's."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bus.cli.authority import date
from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.hub.gateway_papers import Brought


@click.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--over", required=True, metavar="COMMAND", help="What leads to the hub's desk: 'ssh hub.example tpmbus host desk --gateways'."
)
@click.option("--listen", multiple=True, metavar="URL", help="As for `tpmbus run`: what is tls:// there needs a certificate.")
@command(state=True)
def gateway(name: str, *, over: str, listen: tuple[str, ...], state: Path | None, output: Output) -> None:
    """On another machine: make it a gateway called NAME, which serves the same bus over the same NATS servers.

    Its key is made here. Then `tpmbus run --backbone URL` in this state folder serves agents of this machine, and whoever comes to
    the addresses of --listen. Call it again each day where it listens at tls://: such a certificate lasts a day. What is not due is
    not made again.
    """
    import anyio

    words = shlex.split(over)
    if not words:
        raise click.UsageError("--over names no command")
    brought = anyio.run(_bring, name, words, listen, state)
    until_ms = brought.certificate.not_after_ms
    output.table(("gateway", "certificate", "ends"), [(name, "made" if brought.is_new else "was there", date(until_ms))])
    output.document({"gateway": name, "made": brought.is_new, "not_after_ms": until_ms})


async def _bring(name: str, words: list[str], listen: tuple[str, ...], state: Path | None) -> Brought:
    from anyio import to_thread

    from bus.clock import SystemClock
    from bus.hub.far_desk import way_over
    from bus.hub.gateway_papers import GatewayPapers
    from bus.hub.state import open_state

    opened = await to_thread.run_sync(open_state, state)
    async with way_over(words) as way:
        return await GatewayPapers(opened, way, SystemClock()).bring(name, listen)

"""How `pub`, `sub` and `request` become an agent: which one, where its bus is, and whether somebody else is it now.

One live session an agent: whoever comes later takes over, and the earlier one ends. A command that did that by mistake would stop
an agent of a running fleet, so it asks first, and does it only with `--take-over`. (It asks the hub of its own state folder; a bus
elsewhere it cannot ask.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.completing import agent_names
from bus.errors import ConnectError, NotPermittedError

if TYPE_CHECKING:
    import bus


def _named(context: click.Context, _: click.Parameter, agent: str | None) -> str | None:
    if not agent and not context.resilient_parsing:
        raise click.UsageError("say which agent to be: --as AGENT, or TPMBUS_AGENT; `tpmbus agents` lists them while a hub runs")
    return agent


def agent_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--as`, `--url` and `--take-over`: `agent`, `url` and `take_over`."""
    decorate = [
        click.option(
            "--as",
            "agent",
            callback=_named,
            envvar="TPMBUS_AGENT",
            metavar="AGENT",
            help="Which agent to be.  [required, or TPMBUS_AGENT]",
            shell_complete=agent_names,
        ),
        click.option(
            "--url",
            envvar="TPMBUS_URL",
            help="Where the bus is: unix:///path or tls://host:port.  [default: TPMBUS_URL, else the hub of the state folder]",
        ),
        click.option("--take-over", is_flag=True, help="Be this agent although it is live elsewhere; its session there ends."),
    ]
    for option in reversed(decorate):
        function = option(function)
    return function


@asynccontextmanager
async def joined(agent: str, *, url: str | None, state: Path | None, take_over: bool) -> AsyncIterator[bus.Agent]:
    """Be this agent until the end of the block. Raises NotPermittedError where it is live elsewhere."""
    import anyio.to_thread

    import bus
    from bus.hub.state import open_state

    opened = await anyio.to_thread.run_sync(open_state, state)
    if not take_over:
        await _check_that_nobody_is(agent, opened.admin_socket, url)
    async with bus.connect(url or await _local_url(opened.admin_socket), agent=agent, state=opened.folder) as joined_agent:
        yield joined_agent


async def _check_that_nobody_is(agent: str, socket: Path, url: str | None) -> None:
    from bus.hub.admin import ask

    try:
        found = await ask(socket, "agents", names=[agent])
    except ConnectError:
        if url is None:
            raise
        return  # a bus elsewhere has its own desk, and we no way to it
    for live in found:
        if live["live"]:
            where = f"it is live in process {live['process']}" if live["process"] else "it is live elsewhere"
            raise NotPermittedError(agent, "join the bus", f"{where}; --take-over ends its session there")


async def _local_url(socket: Path) -> str:
    from bus.hub.admin import ask

    status = await ask(socket, "status")
    if not status["urls"]:
        raise ConnectError("this hub listens nowhere: start it with --listen")
    return str(status["urls"][0])

"""How `pub`, `sub` and `request` become an agent: which one, where its bus is, and whether somebody else is it now.

One live session an agent: whoever comes later takes over, and the earlier one ends. A command that did that by mistake would stop
an agent of a running fleet, so it asks first, and does it only with `--take-over`. (It asks the hub of its own state folder; a bus
elsewhere it cannot ask.) From the question until it is live it has a lock of this agent: of two commands that begin in the same
instant both would hear that nobody is it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.completing import agent_names
from bus.errors import ConnectError, NotPermittedError, StateInUseError

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
    async with AsyncExitStack() as stack:
        with ExitStack() as alone:
            if not take_over:
                await anyio.to_thread.run_sync(alone.enter_context, _alone(agent, opened.runtime))
                await _check_that_nobody_is(agent, opened.admin_socket, url)
            where = url or await _local_url(opened.admin_socket)
            joined_agent = await stack.enter_async_context(bus.connect(where, agent=agent, state=opened.folder))
        yield joined_agent


@contextmanager
def _alone(agent: str, runtime: Path) -> Iterator[None]:
    """No other command becomes this agent meanwhile. Raises NotPermittedError at once where one does."""
    from bus.hub.state import owned
    from bus.protocol.names import is_agent_name

    with ExitStack() as stack:
        if is_agent_name(agent):  # who has no such name is told so by the bus, and a path would be somebody else's file
            try:
                stack.enter_context(owned(runtime / f"{agent}.joining"))
            except StateInUseError as error:
                where = f"process {error.pid} becomes it at this moment; --take-over ends its session there"
                raise NotPermittedError(agent, "join the bus", where) from error
        yield


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

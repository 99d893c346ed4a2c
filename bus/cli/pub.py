"""`tpmbus pub`: publish from a shell."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bus.cli.bodies import parse_body, parse_headers
from bus.cli.completing import topics_to_publish
from bus.cli.joining import agent_options, joined
from bus.cli.options import command
from bus.cli.output import Output
from bus.errors import BusError


@click.command(short_help="Publish a message, or one for each line of stdin.")
@click.argument("topic", shell_complete=topics_to_publish)
@click.argument("body", required=False)
@click.option("--raw", is_flag=True, help="The body is bytes, not JSON or a string.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be given again.")
@click.option("--id", "message_id", help="The message's own id: sent again within ten minutes, it is the same message.")
@click.option("--ttl", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="How long it is worth delivering.")
@click.option("--priority", help="One of those that the topic's rule offers: critical, high, normal, bulk.")
@click.option(
    "--wait",
    type=click.Choice(["accepted", "sent", "stored"]),
    help="For what to wait.  [default: stored where the topic is kept, else sent]",
)
@agent_options
@command(state=True)
def pub(
    *,
    topic: str,
    body: str | None,
    raw: bool,
    headers: tuple[str, ...],
    message_id: str | None,
    ttl: float | None,
    priority: str | None,
    wait: str | None,
    agent: str,
    url: str | None,
    take_over: bool,
    state: Path | None,
    output: Output,
) -> int:
    """Publish BODY on TOPIC: JSON if it parses, else a string. Without BODY, a message for each line of stdin, as they come.

    Exit code 4: policy says no, or the agent is live elsewhere. 6: no bus there.
    """
    from bus.cli.loop import run

    try:
        given = parse_headers(headers) or None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if body is None and message_id is not None:
        raise click.UsageError("--id is for one message: give BODY")
    options: dict[str, Any] = {"headers": given, "ttl": ttl, "priority": priority}

    async def publish() -> dict[str, Any]:
        async with joined(agent, url=url, state=state, take_over=take_over) as speaker:
            if body is None:
                bodies = (parse_body(line, raw=raw) async for line in lines_of_stdin())
                with which_line(output):
                    return {"published": await speaker.publish_many(topic, bodies, wait=wait, **options)}
            text = parse_body(body.encode(errors="surrogateescape"), raw=raw)
            receipt = await speaker.publish_soon(topic, text, id=message_id, **options)
            if wait == "stored" or (wait is None and receipt.durable):
                return {"published": 1, "position": await receipt.stored()}
            if wait != "accepted":
                await receipt.sent()
            return {"published": 1} if receipt.id or wait == "accepted" else {"published": 1, "heard": False}

    try:
        found = run(publish)
    except (TypeError, ValueError) as error:  # an option that this topic does not take
        raise click.UsageError(str(error)) from error
    if found.get("heard") is False:
        output.note(f"Nobody listens to {topic}, and it is not kept: the message is gone.")
    output.document({"topic": topic, "agent": agent, **found})
    return 0


@contextmanager
def which_line(output: Output) -> Iterator[None]:
    """A script that goes on after an error has to know where."""
    try:
        yield
    except BusError as error:
        taken: int = getattr(error, "accepted", 0)
        output.note(f"{taken:,} {'line' if taken == 1 else 'lines'} of stdin had been taken before this:")
        raise


async def lines_of_stdin() -> AsyncIterator[bytes]:
    """Line by line without their ends, as they come; the last may lack its end."""
    import anyio.to_thread

    source: Any = sys.stdin.buffer
    while line := await anyio.to_thread.run_sync(source.readline, abandon_on_cancel=True):
        yield line.removesuffix(b"\n").removesuffix(b"\r")

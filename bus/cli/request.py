"""`tpmbus request`: ask from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bus.cli.bodies import as_bytes, as_document, as_text, body_of, dump, parse_body, parse_headers
from bus.cli.completing import topics_to_publish
from bus.cli.joining import agent_options, joined
from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    import bus


@click.command(short_help="Ask something, and print the reply.")
@click.argument("topic", shell_complete=topics_to_publish)
@click.argument("body", required=False)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.option("--raw", is_flag=True, help="The body is bytes, and so is what is printed.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be given again.")
@agent_options
@command(state=True)
def request(
    *,
    topic: str,
    body: str | None,
    timeout: float,
    raw: bool,
    headers: tuple[str, ...],
    agent: str,
    url: str | None,
    take_over: bool,
    state: Path | None,
    output: Output,
) -> None:
    """Ask BODY on TOPIC (JSON if it parses, else a string; without BODY, all of stdin), and print the body of the reply.

    Of a reply that is bytes and no text it shows how it begins; --raw and --json have all of it.

    Exit code 7: nobody listens there, nobody replied in time, or whoever did says that it failed; 4: policy says no, or the agent
    is live elsewhere; 6: no bus there.
    """
    from bus.cli.loop import run

    if raw and output.json:
        raise click.UsageError("--raw prints the body alone, --json a document: choose one")
    try:
        given = parse_headers(headers) or None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    text = sys.stdin.buffer.read() if body is None else body.encode(errors="surrogateescape")

    async def ask() -> bus.Message:
        async with joined(agent, url=url, state=state, take_over=take_over) as asker:
            return await asker.request(topic, parse_body(text, raw=raw), timeout=timeout, headers=given)

    reply = run(ask)
    if raw:
        sys.stdout.buffer.write(as_bytes(body_of(reply)))
    else:
        print(dump(as_document(reply)) if output.json else as_text(body_of(reply)))

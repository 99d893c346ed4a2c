"""`tpmbus sub`: listen from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.bodies import as_bytes, as_document, as_line, body_of, dump
from bus.cli.completing import topics_to_hear
from bus.cli.joining import agent_options, joined
from bus.cli.options import command, whole_pattern
from bus.cli.output import EXIT_SILENCE, Output

if TYPE_CHECKING:
    import bus


MOST_AT_ONCE = 1_024


@click.command(short_help="Print the messages of a topic or pattern.")
@click.argument("pattern", shell_complete=topics_to_hear, callback=whole_pattern)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many messages.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="End after so many seconds.")
@click.option("--group", help="Share the messages with the others of this queue group.")
@click.option(
    "--durable", metavar="NAME", help="What is kept waits under this name while nobody listens; it is acked when printed."
)
@click.option(
    "--start", default="new", show_default=True, help="Where a new durable name begins: new, all, last, a time or a position."
)
@click.option("--raw", is_flag=True, help="Print bodies alone, bytes as they are, a line each.")
@agent_options
@command(state=True)
def sub(
    *,
    pattern: str,
    count: int | None,
    timeout: float | None,
    group: str | None,
    durable: str | None,
    start: str,
    raw: bool,
    agent: str,
    url: str | None,
    take_over: bool,
    state: Path | None,
    output: Output,
) -> int:
    """Print what is published on PATTERN: `*` stands for one token, a final `>` for the rest. With --json, a document a line.

    Of a body that is bytes and no text, a line shows how long it is and how it begins; --raw and --json have all of it.

    Exit code 0 after --count messages, after --timeout without --count, and when SIGTERM asks; 7 if --timeout came before --count
    messages did; 4: policy says no, or the agent is live elsewhere; 6: no bus there; 130: Ctrl-C.
    """
    from bus.cli.loop import run

    if raw and output.json:
        raise click.UsageError("--raw prints bodies alone, --json documents: choose one")
    seen = 0

    async def show(subscription: bus.Subscription) -> None:
        nonlocal seen
        async for message in subscription:
            _print(message, raw=raw, output=output)
            await message.ack()
            seen += 1
            if seen == count:
                return

    async def listen() -> int:
        import anyio

        from bus.cli.loop import until_stopped

        options: dict[str, Any] = {"group": group, "durable": durable, "start": _start(start)}
        if durable is not None and count is not None:
            options["limit"] = min(count, MOST_AT_ONCE)  # what is handed out and not shown would count as delivered in vain
        place = joined(agent, url=url, state=state, take_over=take_over)
        async with place as listener, listener.subscribe(pattern, **options) as subscription, until_stopped() as stopped:
            output.note(f"{agent} listens to {pattern}")  # whoever reads this may say at once that it is enough
            with anyio.move_on_after(timeout):
                await show(subscription)
        return stopped.exit_code or (EXIT_SILENCE if stopped.by is None and count is not None and seen < count else 0)

    try:
        return run(listen)
    except (TypeError, ValueError) as error:  # an option that no subscription takes
        raise click.UsageError(str(error)) from error


def _print(message: bus.Message, *, raw: bool, output: Output) -> None:
    if raw:
        sys.stdout.buffer.write(as_bytes(body_of(message)) + b"\n")
        sys.stdout.buffer.flush()
    else:
        print(dump(as_document(message)) if output.json else as_line(message), flush=True)


def _start(text: str) -> Any:
    """A word, a position, or a time."""
    from datetime import datetime

    if text.isdigit():
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text

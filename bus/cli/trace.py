"""`tpmbus trace`: what passes the broker, as it passes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bus.cli.bodies import dump
from bus.cli.desk import watch
from bus.cli.options import command, whole_pattern
from bus.cli.output import Output


@click.command(short_help="Show each envelope as it passes the broker.")
@click.argument("pattern", default=">", callback=whole_pattern)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@command(state=True)
def trace(*, pattern: str, count: int | None, state: Path | None, output: Output) -> int:
    """Show what passes on topics that PATTERN matches, until Ctrl-C. With --json, a document a line.

    When, on which topic, by whom, how many records and bytes; how many subscriptions get it at once (of a queue group, one),
    whether it is kept for those who take it later, or why it was refused. The broker knows no more: what is inside is sealed.
    """
    seen = 0

    def show(item: dict[str, Any]) -> bool:
        nonlocal seen
        print(dump(item) if output.json else _line(item), flush=True)
        seen += 1
        return seen != count

    return watch(state, "trace", show, pattern=pattern).exit_code


def _line(item: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(item["at_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    missed = f"  ({item['missed']} not shown before this one)" if item["missed"] else ""
    held = f"{_counted(item['records'], 'record')}, {item['size']:,} bytes"
    return f"{at}  {item['topic']}  {item['sender']}  {held}  {_fate(item)}{missed}"


def _fate(item: dict[str, Any]) -> str:
    if item["refused"]:
        return f"refused: {item['refused']}"
    return f"{'kept, and ' if item['kept'] else ''}to {_counted(item['subscriptions'], 'subscription')}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

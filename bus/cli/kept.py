"""`tpmbus consumers` and `tpmbus dead`: what is kept, for whom, and what could not be done."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bus.cli.admin import moment
from bus.cli.completing import agent_names
from bus.cli.desk import ask
from bus.cli.options import command
from bus.cli.output import Output

_COUNTS = ("behind", "outstanding", "waiting")


@click.group(short_help="Who reads what is kept, and how far behind they are.")
def consumers() -> None:
    """Who reads what is kept. A consumer is an agent's (capitals) or a group's (small letters), under a name."""


@consumers.command("list")
@command(state=True)
def list_consumers(*, state: Path | None, output: Output) -> None:
    """All consumers, as OWNER/NAME. `start`: where it began; who opens it again says the same. `behind`: positions that it has
    not looked at yet; `out`: handed out and not settled; `waiting`: to be handed out again; `used`: when it was read last, or now.
    """
    found = ask(state, "consumers")
    output.document(found)
    output.table(
        ("consumer", "pattern", "start", "behind", "out", "waiting", "used"),
        (
            (f"{one['owner']}/{one['name']}", one["pattern"], _start(one["start"]), *(one[count] for count in _COUNTS), _used(one))
            for one in found
        ),
        empty="Nobody reads what is kept: `durable=` of a subscription makes a consumer, or "
        "`tpmbus sub PATTERN --as AGENT --durable NAME`.",
    )


def _start(text: str) -> str:
    """As `tpmbus sub --start` takes it."""
    word, _, number = text.partition("=")
    if word == "time":
        return datetime.fromtimestamp(int(number) / 1000, UTC).isoformat(timespec="milliseconds")
    return number or word


def _used(consumer: dict[str, Any]) -> str:
    return "now" if consumer["open"] else moment(consumer["used"])


@consumers.command("remove")
@click.argument("owner", shell_complete=agent_names)
@click.argument("name")
@command(state=True)
def remove_consumer(*, owner: str, name: str, state: Path | None, output: Output) -> None:
    """Forget the consumer NAME of OWNER. What waits for it is kept for others until its time, and no longer for it."""
    ask(state, "remove_consumer", owner=owner, name=name)
    output.document({"removed": f"{owner}/{name}"})
    output.line(f"The consumer {name} of {owner} is removed.")


@click.group(short_help="Messages that nobody could deal with.")
def dead() -> None:
    """Dead letters: what was handed out as often as its topic's rule says, or given up by its reader."""


@dead.command("list")
@click.option("--class", "class_", default="", help="Of this retention class alone.")
@click.option("--most", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many of them.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="After this position.")
@command(state=True)
def list_dead(*, class_: str, most: int, after: int, state: Path | None, output: Output) -> None:
    """Dead letters, the oldest first."""
    found = ask(state, "dead_letters", class_=class_, most=most, after=after)
    output.document(found)
    columns = ("class", "position", "topic", "sender", "consumer", "reason", "deliveries")
    output.table(
        (*columns, "died"),
        ([*(one[column] for column in columns), moment(one["died"])] for one in found),
        empty="No dead letters.",
    )


def _of_one(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command about one dead letter: it is named by its class and its position."""

    def decorate(function: Callable[..., None]) -> click.Command:
        located = click.argument("position", type=int)(command(state=True)(function))
        return dead.command(name)(click.argument("class_", metavar="CLASS")(located))

    return decorate


@_of_one("show")
def show_dead(*, class_: str, position: int, state: Path | None, output: Output) -> None:
    """What is known of a dead letter. Its content is sealed: who may read it subscribes to `_dead.` and its topic."""
    found = ask(state, "show_dead", class_=class_, position=position)
    output.document(found)
    output.table(("what", "value"), found.items())


@_of_one("requeue")
def requeue_dead(*, class_: str, position: int, state: Path | None, output: Output) -> None:
    """Hand the original to its consumer again, as if for the first time."""
    ask(state, "requeue_dead", class_=class_, position=position)
    output.document({"class": class_, "position": position})
    output.line(f"Dead letter {position} of {class_} is handed out again.")


@_of_one("drop")
def drop_dead(*, class_: str, position: int, state: Path | None, output: Output) -> None:
    """Forget a dead letter."""
    ask(state, "drop_dead", class_=class_, position=position)
    output.document({"class": class_, "position": position})
    output.line(f"Dead letter {position} of {class_} is dropped.")

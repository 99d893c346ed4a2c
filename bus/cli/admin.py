"""`tpmbus agents`, `topics`, `subscriptions`: whom and what the running hub of a state folder knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bus.cli.completing import agent_names
from bus.cli.desk import ask
from bus.cli.options import command, whole_pattern
from bus.cli.output import Output

SHOWN = 3
"""Names of a list."""


@click.command(short_help="Which agents there are, and which are live.")
@click.argument("names", nargs=-1, metavar="[AGENT]...", shell_complete=agent_names)
@click.option("--live", is_flag=True, help="Only those that are live.")
@command(state=True)
def agents(*, names: tuple[str, ...], live: bool, state: Path | None, output: Output) -> None:
    """Every agent of the policy: its role, whether it is live, in which process, and with how many subscriptions."""
    found = [one for one in ask(state, "agents", names=list(names)) if one["live"] or not live]
    output.document(found)
    output.table(
        ("agent", "role", "live", "process", "subscriptions", "session until"),
        (
            (one["agent"], one["role"], _live(one), one["process"], one["subscriptions"] or "", moment(one["until"]))
            for one in found
        ),
        empty="No agent is live: `tpmbus run` starts the fleet." if live else None,
    )


@click.command(short_help="Topics that are open: who publishes there, and who hears it.")
@click.argument("pattern", default=">", callback=whole_pattern)
@command(state=True)
def topics(*, pattern: str, state: Path | None, output: Output) -> None:
    """Topics on which somebody publishes now, and that PATTERN matches. Of long lists it shows the first; --json has all."""
    found = ask(state, "topics", pattern=pattern)
    output.document(found)
    output.table(
        ("topic", "class", "publishers", "readers"),
        ((one["topic"], one["class"], _some(one["publishers"]), _some(one["readers"])) for one in found),
        empty=f"Nobody publishes now on a topic that {pattern} matches.",
    )


@click.command(short_help="Who listens to what.")
@click.argument("agent", required=False, shell_complete=agent_names)
@command(state=True)
def subscriptions(*, agent: str | None, state: Path | None, output: Output) -> None:
    """Subscriptions that are open now, of AGENT or of all."""
    if agent is not None:
        ask(state, "agents", names=[agent])  # a name that policy does not know is a mistake, and no empty list
    found = ask(state, "subscriptions", agent=agent)
    names = ("agent", "pattern", "group", "durable", "overflow", "credit")
    output.document(found)
    output.table(
        ("agent", "pattern", "group", "durable", "overflow", "credit", "held bytes", "at"),
        ((*(one[name] for name in names), one["held_bytes"] or "", one["neighbour"].partition(" ")[0]) for one in found),
        empty=f"{agent} listens to nothing now." if agent else "Nobody listens to anything now.",
        spare=("held bytes", "credit", "overflow"),
    )


def moment(text: str | None) -> str:
    """A time as a person reads it."""
    return "" if text is None else text[:19].replace("T", " ") + "Z"


def _some(names: list[str]) -> str:
    """How many, and the first of them."""
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def _live(agent: dict[str, Any]) -> str:
    """Whether, and at which other broker if it is not here."""
    if agent["link"] == "neighbour":
        return f"at {agent['address'].partition(' ')[0]}"
    return "yes" if agent["live"] else ""

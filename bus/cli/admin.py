"""`tpmbus agents`, `topics`, `subscriptions`: whom and what the running hub of a state folder knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bus.cli.completing import agent_names
from bus.cli.desk import ask
from bus.cli.options import command
from bus.cli.output import Output


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
        ((one["agent"], one["role"], _live(one), one["process"], one["subscriptions"] or "", one["until"]) for one in found),
    )


@click.command(short_help="Topics that are open: who publishes there, and who hears it.")
@click.argument("pattern", default=">")
@command(state=True)
def topics(*, pattern: str, state: Path | None, output: Output) -> None:
    """Topics on which somebody publishes now, and that PATTERN matches."""
    found = ask(state, "topics", pattern=pattern)
    output.document(found)
    output.table(
        ("topic", "class", "unit", "publishers", "readers"),
        ((one["topic"], one["class"], one["unit"], ", ".join(one["publishers"]), ", ".join(one["readers"])) for one in found),
    )


@click.command(short_help="Who listens to what.")
@click.argument("agent", required=False, shell_complete=agent_names)
@command(state=True)
def subscriptions(*, agent: str | None, state: Path | None, output: Output) -> None:
    """Subscriptions that are open now, of AGENT or of all."""
    found = ask(state, "subscriptions", agent=agent)
    names = ("agent", "pattern", "group", "durable", "overflow", "credit")
    output.document(found)
    output.table(
        ("agent", "pattern", "group", "durable", "overflow", "credit", "held bytes", "at"),
        ((*(one[name] for name in names), one["held_bytes"] or "", one["neighbour"].partition(" ")[0]) for one in found),
    )


def _live(agent: dict[str, Any]) -> str:
    """Whether, and at which other broker if it is not here."""
    if agent["link"] == "neighbour":
        return f"at {agent['address'].partition(' ')[0]}"
    return "yes" if agent["live"] else ""

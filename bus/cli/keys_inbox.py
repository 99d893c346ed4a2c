"""`tpmbus keys inbox`: what opens the messages of durable subscriptions. Looking needs no TPM; renewing does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.authority import date
from bus.cli.completing import agent_names
from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.identity.inbox_record import InboxKey, Record


@click.command("inbox", short_help="Show and renew the keys that durable messages are sealed to.")
@click.argument("agents", nargs=-1, metavar="[AGENT]...", shell_complete=agent_names)
@click.option("--renew", is_flag=True, help="A new key for each AGENT, now. What was sealed to the old ones still opens.")
@command(state=True, policy=True)
def inbox(agents: tuple[str, ...], *, renew: bool, state: Path | None, policy: str | None, output: Output) -> None:
    """Counter, kind, id, validity and state of each inbox key; of all agents that have one, if none is named.

    current: senders are told of it. overlapping: still valid beside a newer one. waiting for destruction: nobody seals to it any
    more, but what was sealed to it may wait until the date shown.
    """
    from bus.hub.state import open_state
    from bus.identity.inbox import InboxFolder

    opened = open_state(state)
    folder = InboxFolder(opened.inbox)
    if renew and not agents:
        raise click.UsageError("name the agents that are to have a new inbox key")
    made = _renew(opened, policy, agents) if renew else {}
    records = [folder.existing(name) for name in agents or folder.names()]
    now = time.time_ns() // 1_000_000
    rows = [(record, key) for record in records for key in record.keys]
    output.table(
        ("agent", "counter", "kind", "id", "valid from", "until", "sealed by", "state", "kept until"),
        (_row(record, key, now) for record, key in rows),
        spare=("id", "valid from", "sealed by", "kind", "counter"),
    )
    output.line(f"{len(rows)} inbox keys of {len(records)} agents{f'; {len(made)} made now' if renew else ''}")
    output.document({"keys": [_as_json(record, key, now, made=made) for record, key in rows], "made": len(made)})


def _renew(opened: Any, policy_path: str | None, agents: tuple[str, ...]) -> dict[str, int]:
    """The counter of each new key."""
    import anyio

    from bus.clock import SystemClock
    from bus.hub.inboxes import renew_inboxes
    from bus.hub.tpm_process import open_engine

    async def run() -> dict[str, int]:
        async with open_engine(opened, policy=policy_path) as engine:
            kept = await renew_inboxes(opened, engine, agents, clock=SystemClock())
        return {name: one.record.counter for name, one in kept.items()}

    return anyio.run(run)


def _row(record: Record, key: InboxKey, now_ms: int) -> tuple[object, ...]:
    from bus.identity.inbox_record import phase

    body = key.body
    return (
        record.name,
        key.counter,
        key.kind,
        key.id.hex(),
        date(body.not_before_ms)[:16],
        date(body.not_after_ms)[:16],
        key.place.origin,
        phase(record, key, now_ms=now_ms).value,
        date(key.needed_until_ms)[:10],
    )


def _as_json(record: Record, key: InboxKey, now_ms: int, *, made: dict[str, int]) -> dict[str, Any]:
    from bus.identity.inbox_record import phase

    body = key.body
    return {
        "agent": record.name,
        "counter": key.counter,
        "kind": key.kind,
        "id": key.id.hex(),
        "not_before_ms": body.not_before_ms,
        "not_after_ms": body.not_after_ms,
        "needed_until_ms": key.needed_until_ms,
        "state": phase(record, key, now_ms=now_ms).value,
        "origin": key.place.origin,
        "identity_sha256": body.identity.hex(),
        "made": made.get(record.name) == key.counter,
    }

"""The rows, and how long each may take: together less than 25 minutes, also where all are stopped.

In the order of the table, but for `hooks`: it makes the keys of 76 agents with a quick TPM, and `mix` finds them there.
"""

from __future__ import annotations

from targets_table import buses, crowd, played
from targets_table.running import Row

ROWS = (
    Row(
        "one-to-one",
        "1 to 1, session-signed, beside nats-py, zenoh-python, CURVE and slim-bindings with MLS",
        370,
        buses.one_to_one,
    ),
    Row("open-loop", "the same, open loop at 10, 50 and 75 % of its maximum", 190, buses.open_loop),
    Row("tpm-batches", "1 to 1, every batch signed by the TPM (swtpm, ecc256)", 75, buses.signed_by_the_tpm),
    Row("identity", "identity-signed through a TPM of 40 ms, one agent, 8,000 a second", 75, played.identity),
    Row("hooks", "the mix with hooks on each side of each agent", 140, played.hooks),
    Row("mix", "the reference mix at 8,000 a second with a TPM of 40/120 ms; hit rate of the caches", 150, played.mix),
    Row("requests", "request and reply, one at a time, beside nats-py", 70, buses.requests),
    Row("fan-out", "1 to 75 in one process, beside nats-py", 110, buses.fan_out),
    Row("durable", "durable, acknowledged one by one, 500 in flight, both units, beside JetStream on files", 80, buses.durable),
    Row("scale", "cost per message from 76 to 10,000 agents, from 10 to 100,000 subscriptions", 240, crowd.scale),
)
MOST_SECONDS = 25 * 60


def chosen(only: str | None) -> list[Row]:
    """Raises ValueError for a name that no row has."""
    wanted = [name.strip() for name in only.split(",")] if only else [row.name for row in ROWS]
    if unknown := [name for name in wanted if name not in {row.name for row in ROWS}]:
        raise ValueError(f"no row is called {', '.join(unknown)}: there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if row.name in wanted]

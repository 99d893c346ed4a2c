"""`tpmbus status`: what the running hub is, for a person: what is wrong first, then a few lines of each part.

All numbers that there are come with `--json`. A number that a hub does not tell (an older one, a gateway) is left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from bus.cli.desk import ask
from bus.cli.options import command
from bus.cli.output import Output

Facts = list[tuple[str, str]]
_REFUSALS = (
    ("not_stored", "not stored", "the disk or NATS could not take it"),
    ("dropped", "dropped", "who reads is too slow, or away"),
    ("cut", "links cut", "broker.log in the state folder says whose"),
    ("papers_refused", "papers refused", "`tpmbus trust status` says who is believed"),
)
"""What a broker counts by reason, and what to say of it."""


_FEATURES = (("message_ttl", "which drops each message a day after its own time"),)
"""What servers were found to do that the oldest do not, and what to say of it."""


@click.command(short_help="What the running hub is doing.")
@command(state=True)
def status(*, state: Path | None, output: Output) -> None:
    """What the running hub is and does: first what is wrong, if anything is. With --json, every number that it counts."""
    found = ask(state, "status")
    output.document(found)
    wrong = troubles(found)
    output.facts(
        _name(found), [("wrong" if number == 0 else "", text) for number, text in enumerate(wrong)] or [("wrong", "nothing")]
    )
    for title, facts in sections(found):
        output.facts(title, facts)
    output.line("Every number: tpmbus status --json")


def troubles(found: Mapping[str, Any]) -> list[str]:
    """A line for each thing that somebody should look at, what hinders most first."""
    numbers = found["numbers"]
    broker, host, tpm = (numbers.get(part, {}) for part in ("broker", "host", "tpm"))
    said = [f"{what}: {error}" for what, error in found.get("failures", {}).items()]
    if found.get("backbone_connected") is False:
        said.append(f"NATS cannot be reached ({_servers(found)}): what is durable waits")
    if host.get("connected") is False and host.get("agents"):  # a hub that has none of its own has no link of its own either
        said.append("the hub is not connected to its broker: broker.log in the state folder says why")
    said += [
        f"the TPM {name} is away: `tpmbus doctor`" for name, one in tpm.get("tpms", {}).items() if not one.get("is_there", True)
    ]
    if tpm.get("failures"):
        said.append(f"operations of the TPM failed: {_by_reason(tpm['failures'])}")
    if failed := host.get("sessions", {}).get("failed", 0):
        said.append(f"{_count(failed, 'session')} could not be renewed")
    for name, what, advice in _REFUSALS:
        if broker.get(name):
            said.append(f"{what}: {_by_reason(broker[name])} ({advice})")
    refused = {**broker.get("refused", {}), **host.get("refusals", {})}
    if refused:
        said.append(f"refused: {_by_reason(refused)} (docs/spec/06-receiving.md has every reason)")
    if letters := broker.get("backbone", {}).get("dead_letters", 0):
        said.append(f"{_count(letters, 'dead letter')}: `tpmbus dead list`")
    if (starts := broker.get("starts", 1)) > 1:
        said.append(f"the broker was started {starts} times: broker.log in the state folder says why")
    return said


def sections(found: Mapping[str, Any]) -> Iterator[tuple[str, Facts]]:
    """Title and lines of each part."""
    numbers = found["numbers"]
    broker, host, tpm = (numbers.get(part, {}) for part in ("broker", "host", "tpm"))
    yield "hub", _hub(found, broker)
    yield "broker", _broker(broker)
    if kept := broker.get("backbone"):
        yield "durable messages", _kept(found, broker, kept)
    if host.get("agents"):
        yield "agents of the hub's own process", _host(host)
    if tpm.get("tpms"):
        yield "TPM", _tpm(tpm)


def _name(found: Mapping[str, Any]) -> str:
    what = f"Gateway {found['gateway']}" if "gateway" in found else "Hub"
    return f"{what} of {found['domain']}, process {found['pid']}"


def _hub(found: Mapping[str, Any], broker: Mapping[str, Any]) -> Facts:
    facts = [
        ("listens at", "\n".join(found["urls"]) or "nowhere"),
        ("state folder", str(found["state"])),
        ("policy", f"{found['policy']}, version {found['policy_version']}"),
        ("trust", f"statement {found['trust_statement']}"),
        ("agents live", _live(found["agents_live"], broker.get("neighbours", {}))),
    ]
    if "gateways" in broker:
        others = broker["gateways"]
        facts.append(("other brokers", f"{others.get('neighbours', 0)} linked, {others.get('links_lost', 0)} links lost so far"))
    return facts


def _live(live: int, neighbours: Mapping[str, Any]) -> str:
    """Those of the whole bus, and how many of them came in here."""
    elsewhere = neighbours.get("agents", 0)
    if not neighbours.get("open", 0):
        return f"{live:,}"
    return f"{live:,} on the bus: {live - elsewhere:,} here, {elsewhere:,} at other brokers"


def _broker(broker: Mapping[str, Any]) -> Facts:
    refused, dropped = sum(broker.get("refused", {}).values()), sum(broker.get("dropped", {}).values())
    links = f"{broker.get('links_open', 0):,} open, {broker.get('links_half_open', 0):,} half open"
    return _known(
        broker,
        ("subscriptions", "subscriptions", lambda n: f"{n:,} on {broker.get('topics', 0):,} topics that are open"),
        ("links", "links", lambda _: links),
        ("received", "received", lambda n: f"{n:,} envelopes, {broker.get('admitted', 0):,} admitted, {refused:,} refused"),
        ("admitted", "of these", lambda _: f"{broker.get('routed', 0):,} had readers, {broker.get('unheard', 0):,} had none"),
        ("delivered", "delivered", lambda n: f"{n:,} copies, {dropped:,} dropped, {broker.get('held', 0):,} held back now"),
    )


def _kept(found: Mapping[str, Any], broker: Mapping[str, Any], kept: Mapping[str, Any]) -> Facts:
    state = {True: ", connected", False: ", not connected", None: ""}[found.get("backbone_connected")]
    is_journal = found["backbone"] == "journal"
    facts = [("kept in", "the journal of the state folder" if is_journal else _servers(found) + state)]
    if version := found.get("backbone_version"):
        known = [text for feature, text in _FEATURES if feature in found.get("backbone_features", [])]
        facts.append(("nats-server", f"{version}, {', '.join(known) or 'nothing that is newer than 2.9'}"))
    return facts + _known(
        {**kept, "stored": broker.get("stored", 0)},
        ("stored", "stored", lambda n: f"{n:,} envelopes, {kept.get('duplicates', 0):,} that were there already"),
        (
            "handed_out",
            "handed out",
            lambda n: f"{n:,}, of these {kept.get('redelivered', 0):,} once more; {kept.get('acks', 0):,} acked",
        ),
        ("unsettled", "not settled", lambda n: f"{n:,} now"),
        ("open_consumers", "consumers", lambda n: f"{n:,} read now: `tpmbus consumers list` shows all"),
        ("dead_letters", "dead letters", lambda n: f"{n:,}"),
        ("segment_bytes", "on disk", lambda n: f"{n / 1e6:,.1f} MB"),
    )


def _servers(found: Mapping[str, Any]) -> str:
    """Of NATS, as they were named."""
    return ", ".join(found["backbone"])


def _host(host: Mapping[str, Any]) -> Facts:
    sent, sessions = host.get("sent", {}), host.get("sessions", {})
    verifying = host.get("keyring", {}).get("verifying", {})
    return _known(
        {**host, **host.get("received", {}), **verifying},
        (
            "agents",
            "agents",
            lambda n: f"{n:,}, with {sessions.get('open', 0):,} sessions; {sessions.get('renewals', 0):,} renewed",
        ),
        ("sent", "published", lambda _: f"{sent.get('published', 0):,} messages in {sent.get('envelopes', 0):,} envelopes"),
        ("delivered", "delivered", lambda n: f"{n:,} messages"),
        ("hit_rate", "verified", lambda share: f"{share:.1%} of the messages by a signature that was verified before"),
    )


def _tpm(tpm: Mapping[str, Any]) -> Facts:
    rows = []
    for name, one in tpm["tpms"].items():
        longest = f"the longest wait {one.get('longest_wait', 0.0):.2f} s"
        signed = f"{one.get('signatures', 0):,} signatures for {one.get('signed_contents', 0):,} contents"
        rows.append((name, f"{signed}, busy for {one.get('busy', 0.0):,.1f} s, {longest}, {one.get('restarts', 0):,} restarts"))
    return rows


def _known(numbers: Mapping[str, Any], *rows: tuple[str, str, Any]) -> Facts:
    """A line for each number that is told: its name there, its name here, and what to say of it."""
    return [(name, say(numbers[key])) for key, name, say in rows if key in numbers]


def _by_reason(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"

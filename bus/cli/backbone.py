"""`tpmbus backbone`: what several brokers need beside themselves, which is servers of NATS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.backbone.nats.server_config import Cluster, Room

_GIB: Final = 1 << 30
_DAY_MS: Final = 86_400_000


@click.group()
def backbone() -> None:
    """What keeps and moves messages for several brokers."""


@backbone.command("nats-config")
@click.option("--servers", required=True, metavar="NAME=HOST:PORT,..", help="The servers, as brokers reach them: n1=10.0.0.1:4222.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder to write to.")
@click.option("--broker", "brokers", multiple=True, default=("broker",), metavar="NAME", help="Who gets a key. Repeatable.")
@click.option("--tls", metavar="FOLDER", help="Where, on the servers, ca.pem and NAME.pem and NAME.key of each lie.")
@click.option("--plaintext", is_flag=True, help="No TLS, though servers are on other machines.")
@click.option("--store", default="/var/lib/nats", show_default=True, metavar="FOLDER", help="Where, on the servers, messages lie.")
@click.option(
    "--rate", type=click.FloatRange(min=0.001), default=10, show_default=True, help="Durable messages a second, of each class."
)
@click.option("--size", type=click.IntRange(1, 1 << 20), default=1024, show_default=True, help="Bytes of a message, on average.")
@click.option("--force", is_flag=True, help="Write configurations anew that are there. Keys stay.")
@command(state=True, policy=True)
def nats_config(
    *,
    servers: str,
    out: Path,
    brokers: tuple[str, ...],
    tls: str | None,
    plaintext: bool,
    store: str,
    rate: float,
    size: int,
    force: bool,
    state: Path | None,
    policy: str | None,
    output: Output,
) -> None:
    """Write the configuration of NATS servers for this policy's bus, and the keys by which they know its brokers.

    One file for each server, which `nats-server -c FILE -t` accepts, and a key file for each broker and for `look`, who may see how
    streams and consumers stand and no message. Who shows none of these keys is refused. Room on the disks is estimated from the
    retention classes of the policy, --rate and --size. What is here already is kept; with --force configurations are not.

    On the machine with the authority, a broker that is called like a gateway that was revoked (west, of WEST) is left out. Servers
    that run read what was written after `nats-server --signal reload=PID`; whoever is left out is cut off then.
    """
    from bus.backbone.classes import retention_classes
    from bus.backbone.nats import config_folder, server_config
    from bus.backbone.nats.nkeys import public_text
    from bus.policy import open_policy

    rules = open_policy(policy)
    try:
        found = server_config.parse_servers(servers)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--servers") from error
    _check_names(brokers)
    brokers, revoked = _without_revoked(brokers, state)
    if tls is None and not plaintext and not all(server.is_of_this_machine for server in found):
        raise click.UsageError("servers on other machines need --tls FOLDER (or --plaintext, where the network is yours alone)")
    if not force:
        config_folder.check_is_free(out, [server.name for server in found])
    keys = config_folder.seeds(out, [*brokers, config_folder.LOOK])
    rooms = server_config.rooms(retention_classes(rules), a_second=rate, message_bytes=size)
    cluster = server_config.Cluster(
        rules.domain,
        found,
        {name: public_text(keys[name]) for name in brokers},
        public_text(keys[config_folder.LOOK]),
        server_config.store_bytes(rooms),
        store,
        tls=tls or "",
        routes_password=config_folder.password(out, [server.name for server in found]),
    )
    config_folder.write(out, keys, {server.name: server_config.config_of(cluster, server) for server in found})
    for name in revoked:
        seed = config_folder.seed_file(out, name)
        output.note(
            f"{name} is left out: the gateway {name.upper()} was revoked. Throw {seed} away, so that nobody gets that key again"
        )
    _show(cluster, rooms, out, output, revoked)


def _without_revoked(brokers: tuple[str, ...], state: Path | None) -> tuple[tuple[str, ...], list[str]]:
    """Those that count, and those that were revoked, as far as this machine knows."""
    from bus.hub.broker_identity import revoked_gateways
    from bus.hub.state import folder_from

    known = revoked_gateways((state or folder_from(os.environ)).expanduser() / "trust")
    revoked = [name for name in brokers if name.upper() in known]
    left = tuple(name for name in brokers if name not in revoked)
    if not left:
        raise click.BadParameter(f"{', '.join(revoked)} was revoked, and nobody else is to get in", param_hint="--broker")
    return left, revoked


def _check_names(brokers: tuple[str, ...]) -> None:
    from bus.backbone.nats.config_folder import LOOK
    from bus.backbone.nats.server_config import is_name

    for name in brokers:
        if not is_name(name) or name == LOOK:
            raise click.BadParameter(f"{name!r} is no name of a broker here: 1 to 32 of a-z 0-9 _ -", param_hint="--broker")


def _show(cluster: Cluster, rooms: list[Room], out: Path, output: Output, revoked: list[str]) -> None:
    from bus.backbone.nats.config_folder import LOOK, config_file, seed_file
    from bus.backbone.nats.server_config import LOOK_INBOX

    steps = _next_steps(cluster, out)
    output.table(
        ("class", "kept for", "on each server"),
        ((room.class_, f"{room.retention_ms / _DAY_MS:g} days", f"{room.bytes / _GIB:.1f} GiB") for room in rooms),
    )
    count, domain = len(cluster.servers), cluster.domain
    output.line(f"Wrote {count} server{'s' if count > 1 else ''} and {len(cluster.brokers) + 1} keys for {domain} to {out}")
    for step in steps:
        output.line(f"  {step}")
    document: dict[str, Any] = {
        "domain": domain,
        "servers": [
            {"name": one.name, "address": one.address, "routes_port": one.routes_port, "file": str(config_file(out, one.name))}
            for one in cluster.servers
        ],
        "brokers": [{"name": name, "nkey": key, "seed_file": str(seed_file(out, name))} for name, key in cluster.brokers.items()],
        "revoked": revoked,
        "look": {"nkey": cluster.look, "seed_file": str(seed_file(out, LOOK)), "inbox_prefix": LOOK_INBOX},
        "classes": [room._asdict() for room in rooms],
        "store_bytes": cluster.store_bytes,
        "tls": bool(cluster.tls),
        "next": steps,
    }
    output.document(document)


def _next_steps(cluster: Cluster, out: Path) -> list[str]:
    from bus.backbone.nats.config_folder import LOOK, config_file, seed_file
    from bus.backbone.nats.server_config import LOOK_INBOX

    scheme = "tls" if cluster.tls else "nats"
    urls = ",".join(f"{scheme}://{server.address}" for server in cluster.servers)
    first, broker = cluster.servers[0], next(iter(cluster.brokers))
    return [
        f"on each server: nats-server -c NAME.conf -t, then nats-server -c NAME.conf ({config_file(out, first.name)}, ..)",
        f"each broker: tpmbus run --backbone {urls} --nats-key {seed_file(out, broker)}",
        f"to look: nats --nkey {seed_file(out, LOOK)} --inbox-prefix {LOOK_INBOX} --server {urls} stream ls",
        "servers that run already: nats-server --signal reload=PID on each",
        "a key file goes to whom it is for and stays nowhere else",
    ]

"""The configuration of NATS servers for one bus, as text made from values. Nothing waits here, and nothing is read.

What policy says of it:

    domain            the account: a bus has one of its own, and what stands in another is in another world
    durable topics    a stream for each retention class, which brokers make; here they are room on the disks
    who may what      brokers alone speak to NATS, so agents, roles and topics are no users and no permissions here

A server lets in whom it knows by an nkey: each broker, and `look`, who may ask how streams and consumers stand. `look` hears no
subject of a message. Each of them has an inbox of its own and hears no other, because whoever listens to everybody's inboxes gets
what is delivered to them. Who shows no key is nobody. A broker may do what its code does and nothing else, which a test runs so.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bus.backbone.interface import RetentionClass
from bus.backbone.nats.layout import SPARE_MS, Names
from bus.backbone.nats.login import inbox_of

USUAL_PORT: Final = 4_222
ROUTES_ABOVE: Final = 2_000
"""So far above its port a server listens to the others, if nothing else is said."""
MAX_SERVERS: Final = 16
LOOK_INBOX: Final = "_INBOX_look"
OVERHEAD_BYTES: Final = 512
"""Of an envelope beside its message, and of what NATS writes beside that."""
REPLICAS: Final = 3
BUCKETS: Final = ("consumers", "grants", "classes", "trust")
FOLLOWED: Final = ("trust",)
"""Of the buckets: brokers hear when something changes there."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
_MAX_PORT: Final = 65_535
_GIB: Final = 1 << 30
_BROKER_MAY_ASK: Final = (
    "STREAM.CREATE.*",
    "STREAM.UPDATE.*",
    "STREAM.INFO.*",
    "STREAM.MSG.GET.*",
    "STREAM.MSG.DELETE.*",
    "CONSUMER.DURABLE.CREATE.*.*",
    "CONSUMER.INFO.*.*",
    "CONSUMER.DELETE.*.*",
    "CONSUMER.MSG.NEXT.*.*",
)
_LOOK_MAY_ASK: Final = (
    "INFO",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.INFO.*",
    "CONSUMER.NAMES.*",
    "CONSUMER.LIST.*",
    "CONSUMER.INFO.*.*",
)


class Server(NamedTuple):
    name: str
    host: str
    port: int
    routes_port: int

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_of_this_machine(self) -> bool:
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class Room(NamedTuple):
    """What a class takes on each server, as far as it can be told beforehand."""

    class_: str
    retention_ms: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Cluster:
    domain: str
    servers: Sequence[Server]
    brokers: Mapping[str, str]
    """Name -> the public half of its nkey."""
    look: str
    """The same of who may look."""
    store_bytes: int
    store: str
    """The folder in which each server has one."""
    tls: str = ""
    """The folder on the servers with ca.pem, and NAME.pem and NAME.key of each; empty for none."""
    routes_password: str = field(default="", repr=False)
    """By which servers of one cluster know each other."""
    space: str = "tpmbus"


def parse_servers(text: str) -> tuple[Server, ...]:
    """`n1=host:port,..`, and a port for the other servers after another colon if it is not the usual. Raises ValueError."""
    found = tuple(_server(one.strip()) for one in text.split(",") if one.strip())
    if not 0 < len(found) <= MAX_SERVERS:
        raise ValueError(f"1 to {MAX_SERVERS} servers, as n1=host:{USUAL_PORT},n2=host:{USUAL_PORT}")
    if len({one.name for one in found}) < len(found):
        raise ValueError("two servers have one name")
    places = [(one.host, port) for one in found for port in (one.port, one.routes_port)]
    if len(set(places)) < len(places):
        raise ValueError("two servers have one address, or one of them has one port for brokers and for servers")
    return found


def is_name(text: str) -> bool:
    """Of a server, or of a broker here."""
    return _NAME.fullmatch(text) is not None


def rooms(classes: Iterable[RetentionClass], *, a_second: float, message_bytes: int) -> list[Room]:
    """If so many messages of this length come into each class."""
    each = message_bytes + OVERHEAD_BYTES
    return [Room(one.name, one.retention_ms, round((one.retention_ms + SPARE_MS) / 1000 * a_second * each)) for one in classes]


def store_bytes(found: Iterable[Room]) -> int:
    """What one server needs for them, in whole GiB, and a quarter to spare."""
    return max(1, -(-sum(room.bytes for room in found) * 5 // (4 * _GIB))) * _GIB


def config_of(cluster: Cluster, server: Server) -> str:
    """Of one server."""
    parts = [
        f"# NATS server {server.name} for the bus of {cluster.domain}, by `tpmbus backbone nats-config`. It may hold a password.",
        f"server_name: {_text(server.name)}",
        f"listen: {_text(_listen(server, server.port))}",
        f"client_advertise: {_text(server.address)}",
        "max_payload: 2MB  # an envelope has up to 1 MiB, and NATS counts its headers in",
        _jetstream(cluster, server),
        _tls(cluster, server),
        _cluster(cluster, server) if len(cluster.servers) > 1 else "",
        _accounts(cluster),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def broker_permissions(space: str, key: str) -> dict[str, list[str]]:
    """What the code of a broker does on NATS. `key`: the public half of its nkey."""
    names = Names(space)
    buckets = [f"$KV.{space}_{name}.>" for name in BUCKETS]
    asks = [f"$JS.API.{verb}" for verb in _BROKER_MAY_ASK]
    own = [names.again, names.here, names.to("*"), names.authority, names.answers("*")]
    return {
        "publish": [f"{space}.>", *buckets, "$JS.ACK.>", *asks],
        "subscribe": [f"{inbox_of(key)}.>", *own, *(f"$KV.{space}_{name}.>" for name in FOLLOWED), *map(names.told, FOLLOWED)],
    }


def look_permissions() -> dict[str, list[str]]:
    return {"publish": [f"$JS.API.{verb}" for verb in _LOOK_MAY_ASK], "subscribe": [f"{LOOK_INBOX}.>"]}


# ---- parts -----------------------------------------------------------------------------------------------------------------------


def _jetstream(cluster: Cluster, server: Server) -> str:
    store = _text(f"{cluster.store.rstrip('/')}/{server.name}")
    return f"jetstream {{\n  store_dir: {store}\n  max_file_store: {cluster.store_bytes // _GIB}GB\n  max_memory_store: 64MB\n}}"


def _tls(cluster: Cluster, server: Server, *, indent: str = "", verify: bool = False) -> str:
    if not cluster.tls:
        return ""
    lines = [f"{name}: {_text(path)}" for name, path in _files(cluster.tls, server)]
    if verify:
        lines.append("verify: true")
    inside = "".join(f"{indent}  {line}\n" for line in lines)
    return f"{indent}tls {{\n{inside}{indent}}}"


def _files(folder: str, server: Server) -> list[tuple[str, str]]:
    before = f"{folder.rstrip('/')}/"
    return [
        ("cert_file", f"{before}{server.name}.pem"),
        ("key_file", f"{before}{server.name}.key"),
        ("ca_file", f"{before}ca.pem"),
    ]


def _cluster(cluster: Cluster, server: Server) -> str:
    password = _text(cluster.routes_password)
    others = [one for one in cluster.servers if one != server]
    routes = [f"    {_text(f'nats-route://servers:{cluster.routes_password}@{one.host}:{one.routes_port}')}" for one in others]
    lines = [
        "cluster {",
        f"  name: {_text(cluster.domain)}",
        f"  listen: {_text(_listen(server, server.routes_port))}",
        f"  advertise: {_text(f'{server.host}:{server.routes_port}')}",
        f'  authorization {{ user: "servers", password: {password}, timeout: 5 }}',
        _tls(cluster, server, indent="  ", verify=True),
        "  routes: [",
        *routes,
        "  ]",
        "}",
    ]
    return "\n".join(line for line in lines if line)


def _accounts(cluster: Cluster) -> str:
    users = [_user(name, key, broker_permissions(cluster.space, key)) for name, key in cluster.brokers.items()]
    users.append(_user("look: how streams and consumers stand, and no message", cluster.look, look_permissions()))
    inside = "\n".join(users)
    return f"accounts {{\n  {_text(cluster.domain)}: {{\n    jetstream: enabled\n    users: [\n{inside}\n    ]\n  }}\n}}"


def _user(comment: str, key: str, permissions: Mapping[str, Sequence[str]]) -> str:
    lists = [f"          {verb}: {{ allow: [{', '.join(map(_text, subjects))}] }}" for verb, subjects in permissions.items()]
    body = "\n".join(lists)
    return f"      {{ # {comment}\n        nkey: {key}\n        permissions: {{\n{body}\n        }}\n      }}"


def _listen(server: Server, port: int) -> str:
    if server.is_of_this_machine:
        return f"{server.host}:{port}"
    return f"[::]:{port}" if server.host.startswith("[") else f"0.0.0.0:{port}"


def _server(text: str) -> Server:
    name, _, address = text.partition("=")
    found = _HOST.match(address)
    host = found.group() if found is not None else ""
    ports = address[len(host) :].split(":")[1:]
    numbers = [int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0 for port in ports]
    if not is_name(name) or not host or len(numbers) not in (1, 2) or not address.startswith(f"{host}:"):
        raise ValueError(f"{text!r} is no server: it is n1=host:{USUAL_PORT}, the name 1 to 32 of a-z 0-9 _ -")
    port, routes_port = numbers[0], numbers[-1] if len(numbers) > 1 else numbers[0] + ROUTES_ABOVE
    if not 0 < min(port, routes_port) <= max(port, routes_port) <= _MAX_PORT:
        raise ValueError(f"{text!r} has a port that there is not: they go from 1 to {_MAX_PORT:,}")
    return Server(name, host, port, routes_port)


def _text(value: str) -> str:
    """As a string of NATS's configuration, whose escapes are JSON's for what can be in it here."""
    return json.dumps(value)

"""Where a broker keeps what is durable: in the journal of its state folder, or on NATS servers, which several brokers share.

    nats://h1:4222,tls://user:password@h2:4222         servers of one cluster; `tls` asks for their certificates

Who changes from the one to the other leaves nothing behind without being told: what lies in the journal and may still be read is
not on NATS, so a broker that is to use NATS does not begin before somebody has decided about it.

A broker in a process of its own asks nobody for addresses once it is contained: names are looked up before (`looked_up`), and
the certificate that a server shows is still held against its name.
"""

from __future__ import annotations

import os
import shlex
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from anyio import to_thread
from anyio.lowlevel import current_token

from bus.backbone.interface import Backbone
from bus.backbone.journal import kept_in, open_journal
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.login import NO_LOGIN, Login
from bus.clock import Clock
from bus.errors import BackboneError, ConnectError

PORT: Final = 4_222
MAX_SERVERS: Final = 16
MAX_PORT: Final = 65_535
WAIT_SECONDS: Final = 10.0
"""For a server that answers, when a broker begins."""
EXAMPLE: Final = "nats://h1:4222,nats://h2:4222"


@dataclass(frozen=True, slots=True)
class NatsServers:
    urls: tuple[str, ...] = field(repr=False)
    """With a password, where they need one."""
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Addresses that were looked up, each with the name that its certificate has to show."""
    login: Login = field(default=NO_LOGIN, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConnectError."""
        found = [one.strip() for one in text.split(",") if one.strip()]
        if not 0 < len(found) <= MAX_SERVERS:
            raise ConnectError(f"a backbone is 1 to {MAX_SERVERS} servers of NATS, with commas between them: {EXAMPLE}")
        return cls(tuple(_checked(one) for one in found))

    @property
    def shown(self) -> list[str]:
        """For people: nobody's password."""
        return [f"{one.scheme}://{_host(one)}:{one.port or PORT}" for one in map(urlsplit, self.urls)]

    @property
    def text(self) -> str:
        """What `parse` takes. It may have passwords."""
        return ",".join(self.urls)

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(urlsplit(url).port or PORT for url in self.urls)

    def looked_up(self) -> Self:
        """With addresses for names; a server that nobody knows now is left out. Blocks. Raises BackboneError("disk")."""
        urls, names = [], {}
        for one in map(urlsplit, self.urls):
            for address in _addresses(one):
                names[address] = one.hostname or ""
                urls.append(one._replace(netloc=_netloc(one, address)).geturl())
        if not urls:
            text = f"no NATS server is known by the name that it has in {', '.join(self.shown)}"
            raise BackboneError("disk", f"{text}: does `getent hosts` find it?")
        return replace(self, urls=tuple(urls), names=MappingProxyType(names))

    def logged_in(self, environ: Mapping[str, str]) -> Self:
        """With what the file says that TPMBUS_NATS_NKEY or TPMBUS_NATS_CREDS names. Blocks. Raises BackboneError("login")."""
        return self if self.login != NO_LOGIN else replace(self, login=Login.from_environment(environ))

    def tls(self) -> ssl.SSLContext | None:
        """With the certificates that this machine believes, or those of SSL_CERT_FILE; none where no server asks for it."""
        if not any(url.startswith("tls:") for url in self.urls):
            return None
        context = _Named(ssl.PROTOCOL_TLS_CLIENT)
        context.names = self.names
        context.load_default_certs()
        return context


class _Named(ssl.SSLContext):
    """Who dials an address that was looked up asks for the name."""

    names: Mapping[str, str]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if isinstance(server_hostname, str):
            server_hostname = self.names.get(server_hostname, server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


async def open_backbone(journal: Path, servers: NatsServers | None, clock: Clock) -> Backbone:
    """Run its `run`, and close it at the end.

    Raises BackboneError("journal_holds") for messages that NATS does not have, StateInUseError, and what opens either of them does.
    """
    if servers is None:
        return await open_journal(journal, clock)
    await to_thread.run_sync(_check_nothing_is_left, journal, clock.now_ms())
    servers = await to_thread.run_sync(servers.logged_in, os.environ)
    return await open_nats(servers.urls, clock, tls=servers.tls(), login=servers.login, wait_seconds=WAIT_SECONDS)


def loop_is_trio() -> bool:
    """On which no NATS can be spoken: there a broker that does so needs a process of its own."""
    token: Any = current_token().native_token
    return hasattr(token, "run_sync_soon")


def _check_nothing_is_left(journal: Path, now_ms: int) -> None:
    if count := kept_in(journal, now_ms=now_ms):
        text = f"{journal} keeps some {count:,} messages that nobody on NATS would ever get"
        first = "to have them read, run once more without --backbone until `tpmbus consumers list` shows nobody behind"
        here, aside = shlex.quote(str(journal)), shlex.quote(f"{journal}.before")
        then = f"then, while no hub runs here, move them away: `mv {here} {aside}`"
        lost = "Consumers begin on NATS as new ones; what is unread or dead by then stays in that folder, for who moves it back"
        raise BackboneError("journal_holds", f"{text}. If they matter, {first}; {then}. {lost}", path=str(journal))


def _checked(url: str) -> str:
    try:
        one = urlsplit(url)
        right = one.scheme in ("nats", "tls") and bool(one.hostname) and (one.port is None or 0 < one.port <= MAX_PORT)
    except ValueError:
        right = False
    if not right or one.path not in ("", "/") or one.query or one.fragment:
        raise ConnectError(f"{url.rpartition('@')[2]!r} is no server of NATS: say nats://host:4222, or tls://host:4222")
    return one._replace(path="").geturl()


def _addresses(one: SplitResult) -> Iterable[str]:
    try:
        found = socket.getaddrinfo(one.hostname, one.port or PORT, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return dict.fromkeys(str(place[4][0]) for place in found)


def _host(one: SplitResult) -> str:
    return f"[{one.hostname}]" if ":" in (one.hostname or "") else str(one.hostname)


def _netloc(one: SplitResult, address: str) -> str:
    who, at, _ = one.netloc.rpartition("@")
    return f"{who}{at}{f'[{address}]' if ':' in address else address}:{one.port or PORT}"

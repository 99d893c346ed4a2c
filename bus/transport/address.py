"""Where a broker listens: `unix:///path`, `tls://host:port`, `memory:NAME`. Nothing else is an address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bus.errors import ConnectError


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class TlsAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"tls://[{self.host}]:{self.port}" if ":" in self.host else f"tls://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MemoryAddress:
    name: str

    def __str__(self) -> str:
        return f"memory:{self.name}"


Address = UnixAddress | TlsAddress | MemoryAddress


def parse(url: str) -> Address:
    """Raises ConnectError, which says how an address looks."""
    scheme, _, rest = url.partition(":")
    if scheme == "unix" and rest.startswith("///") and "\0" not in rest:
        return UnixAddress(Path(rest.removeprefix("//")))
    if scheme == "memory" and rest and "/" not in rest:
        return MemoryAddress(rest)
    if scheme == "tls":
        return _tls(url)
    raise _unknown(url)


def _tls(url: str) -> TlsAddress:
    try:
        found = urlsplit(url)
        host, port = found.hostname, found.port
    except ValueError:
        raise _unknown(url) from None
    if not host or port is None or "@" in found.netloc or url.partition("://")[2].rstrip("/") != found.netloc:
        raise _unknown(url)
    return TlsAddress(host, port)


def _unknown(url: str) -> ConnectError:
    return ConnectError(f"{url!r} is no address: use unix:///path/of/socket, tls://host:port, or memory:NAME")

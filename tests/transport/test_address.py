"""Addresses, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.errors import ConnectError
from bus.transport.address import MemoryAddress, TlsAddress, UnixAddress, parse

GOOD = {
    "unix:///run/tpmbus/bus.sock": UnixAddress(Path("/run/tpmbus/bus.sock")),
    "unix:///run/a b/ü#?.sock": UnixAddress(Path("/run/a b/ü#?.sock")),
    "tls://broker.example:4433": TlsAddress("broker.example", 4433),
    "tls://127.0.0.1:1": TlsAddress("127.0.0.1", 1),
    "tls://[::1]:4433": TlsAddress("::1", 4433),
    "memory:NAME": MemoryAddress("NAME"),
    "memory:test-7": MemoryAddress("test-7"),
}

BAD = [
    "", "bus.sock", "/run/bus.sock", "unix:bus.sock", "unix://host/bus.sock", "unix:/run/bus.sock", "unix:///a\0b",
    "tcp://host:1", "tls:host:1", "tls://host", "tls://:4433", "tls://host:port", "tls://host:99999", "tls://host:1/path",
    "tls://host:1?x=1", "tls://host:1#x", "tls://user@host:1", "tls://[::1:1",
    "memory:", "memory://NAME", "memory:a/b", "MEMORY",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_understood_and_written_as_it_was(url):
    assert parse(url) == GOOD[url]
    assert str(parse(url)) == url


@pytest.mark.parametrize("url", BAD)
def test_nothing_else_is_an_address(url):
    with pytest.raises(ConnectError):
        parse(url)

"""Listen at an address, and hand each link that comes to whoever serves it."""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel

from bus.errors import ConnectError, ConnectionLostError
from bus.transport import in_memory, unix
from bus.transport.address import Address, MemoryAddress, UnixAddress, parse
from bus.transport.connected import TrackedLink, unix_link
from bus.transport.link import Link

MOST_LINKS: Final = 4_096
RESERVED_DESCRIPTORS: Final = 64
"""For what the process itself has to open while strangers hold all others: a journal, a bundle, the way to the TPM."""
_log = logging.getLogger(__name__)


class Door:
    """Where links come in. `links` are open now; `turned_away` were closed at once, for want of room."""

    def __init__(self, address: Address, on_link: Callable[[Link], None], *, most: int, reserve: int) -> None:
        self.address = str(address)
        self.links = self.turned_away = 0
        self._on_link, self._most = on_link, most
        self._highest_descriptor = _raise_descriptor_limit() - reserve

    def has_room_for(self, accepted: socket.socket) -> bool:
        """A new descriptor is the lowest that is free, so its number tells how many are in use."""
        if self.links < self._most and accepted.fileno() < self._highest_descriptor:
            return True
        self.turned_away += 1
        return False

    def take(self, link: TrackedLink) -> bool:
        if self.links >= self._most:
            self.turned_away += 1
            return False
        self.links += 1
        link.gone = self._gone
        try:
            self._on_link(link)
        except Exception:  # noqa: BLE001  a mistake with one link must not shut out all others
            _log.exception("a link that came to %s could not be served, and was closed", self.address)
            link.close(flush=False)
        return True

    def _gone(self) -> None:
        self.links -= 1


@asynccontextmanager
async def listening(
    url: str,
    on_link: Callable[[Link], None],
    *,
    most: int = MOST_LINKS,
    reserve: int = RESERVED_DESCRIPTORS,
    group: str | int | None = None,
) -> AsyncIterator[Door]:
    """Links come to `on_link` until the block ends; those that have come stay.

    At a Unix socket the owner may come, and `group` if there is one. Raises ConnectError if the place is not fit for it,
    StateInUseError if somebody listens there.
    """
    address = parse(url)
    door = Door(address, on_link, most=most, reserve=reserve)
    match address:
        case MemoryAddress():
            with in_memory.registered(address, door.take):
                yield door
        case UnixAddress():
            async with unix.listening(address.path, group=group) as listener, _accepting(listener.socket, door):
                yield door
        case _:
            raise ConnectError(f"{address} is not built yet")


@asynccontextmanager
async def _accepting(listener: socket.socket, door: Door) -> AsyncIterator[None]:
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_accept, listener, door)
        try:
            yield
        except Exception as error:  # noqa: BLE001  raised again below, and not as a group of one
            failed = error
        finally:
            tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _accept(listener: socket.socket, door: Door) -> None:
    while True:
        accepted = await unix.accept_socket(listener)
        if not door.has_room_for(accepted):
            accepted.close()
            await anyio.lowlevel.checkpoint()
            continue
        try:
            link = await unix_link(accepted, door.address)
        except (OSError, ConnectionLostError):
            continue  # gone before it was there
        door.take(link)


def _raise_descriptor_limit() -> int:
    """As many as this process may have: the usual 1,024 are fewer than the agents of one large fleet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

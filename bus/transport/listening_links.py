"""Listen at an address, and hand each link that comes to whoever serves it.

Strangers can connect, and say nothing. So a process takes as many descriptors as it may have, keeps some for itself, and closes at
once what comes beyond that or beyond `most`: who waits in line would wait for nothing. A stranger has HANDSHAKE_SECONDS to do what
TLS wants, costs none of the memory of TLS before it has said something, and not many are that far at the same time. Who does not
become a link is in the log, once a minute. A crowd is let in a bite at a time (see `bites`), and who says nothing is no more than a
socket (see `lobby`).
"""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel

from bus.transport import bites, in_memory, tcp, unix
from bus.transport.address import MemoryAddress, TlsAddress, UnixAddress, parse
from bus.transport.bites import Bites
from bus.transport.connected import TrackedLink, tls_link, unix_link, unix_peer
from bus.transport.framing import LENGTH
from bus.transport.link import Link, Peer
from bus.transport.lobby import Lobby
from bus.transport.tls import HANDSHAKE_SECONDS, Tls
from bus.transport.unwelcome import Unwelcome, stranger

MOST_LINKS: Final = 4_096
RESERVED_DESCRIPTORS: Final = 64
"""For what the process itself has to open while strangers hold all others: a journal, a bundle, the way to the TPM."""
MOST_HANDSHAKES: Final = 256
TurnAway = Callable[[Peer, str], bytes]
"""Given who, and why."""
_log = logging.getLogger(__name__)


class Door:
    """Where links come in. `tls` may be set while it is open: certificates last a day."""

    def __init__(
        self, url: str, on_link: Callable[[Link], None], tls: Tls | None, turn_away: TurnAway | None, *, most: int, reserve: int
    ) -> None:
        self.url, self.tls = url, tls
        self.links = 0
        """Open now, those that still shake hands included."""
        self.turned_away = 0
        """Closed at once, for want of room."""
        self.failed = 0
        """Gone before they were a link."""
        self._unwelcome, self._bites = Unwelcome(), Bites()
        self._on_link, self._turn_away, self._most = on_link, turn_away, most
        self._lobby: Lobby | None = None
        self._highest_descriptor = _raise_descriptor_limit() - reserve
        self._shaking_hands = anyio.CapacityLimiter(MOST_HANDSHAKES)

    @property
    def silent(self) -> int:
        """Of those that are open, who has not said a word and is no link yet."""
        return 0 if self._lobby is None else len(self._lobby)

    def take(self, link: TrackedLink) -> bool:
        """One from this process, if there is room."""
        if admitted := self._admit():
            self._serve(link)
        return admitted

    async def answer(self, listener: socket.socket) -> None:
        """All who come to a Unix socket, until this is cancelled."""
        if self._turn_away is not None:
            await self._through_lobby(listener, self._hear)
            return
        while True:
            if accepted := await self._next(listener):
                await self._welcome(accepted, partial(unix_link, address=self.url))

    async def answer_tls(self, listener: socket.socket) -> None:
        """All who come to a socket of TCP, until this is cancelled."""
        await self._through_lobby(listener, self._hear_tls)

    async def _through_lobby(self, listener: socket.socket, hear: Callable[[Lobby], Coroutine[Any, Any, None]]) -> None:
        lobby = self._lobby = Lobby(seconds=HANDSHAKE_SECONDS)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hear, lobby)
                tasks.start_soon(self._watch, lobby)
                while True:
                    accepted = await self._next(listener)
                    if accepted and (oldest := lobby.enter(accepted)):
                        self._put_off(oldest, "too many who say nothing")
                    await anyio.lowlevel.checkpoint()  # a crowd comes one by one, and others have their turn in between
        finally:
            lobby.close(self._let_go)

    async def _hear(self, lobby: Lobby) -> None:
        while True:
            caller, silent_seconds = await lobby.spoken()
            await self._welcome(caller, partial(unix_link, address=self.url, silent_seconds=silent_seconds))

    async def _hear_tls(self, lobby: Lobby) -> None:
        handshakes = Bites(bites.HANDSHAKES)
        async with anyio.create_task_group() as tasks:
            while True:
                await handshakes.one_more()
                caller, silent_seconds = await lobby.spoken()
                tasks.start_soon(self._welcome, caller, partial(self._shake_hands, seconds=HANDSHAKE_SECONDS - silent_seconds))

    async def _watch(self, lobby: Lobby) -> None:
        while True:
            self._put_off(await lobby.late(), f"no handshake within {HANDSHAKE_SECONDS:g} s")

    def _put_off(self, caller: socket.socket, why: str) -> None:
        """One that never said a word, and has to go. At a Unix socket it is told so, which over TLS it would not understand."""
        if self._turn_away is not None and caller.family == socket.AF_UNIX:
            word = self._turn_away(unix_peer(caller, self.url), why)
            with suppress(OSError):  # it is gone already
                caller.send(LENGTH.pack(len(word)) + word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            self.failed += 1
            self._hung_up_on(stranger(caller), why)
        self._let_go(caller)

    def _let_go(self, caller: socket.socket) -> None:
        self.links -= 1
        caller.close()

    async def _next(self, listener: socket.socket) -> socket.socket | None:
        await self._bites.one_more()
        accepted = await unix.accept_socket(listener)
        if self._admit(accepted):
            return accepted
        self._hung_up_on(stranger(accepted), "there is no room for more connections")
        accepted.close()
        await anyio.lowlevel.checkpoint()  # a crowd must not keep the loop for itself
        return None

    def _admit(self, accepted: socket.socket | None = None) -> bool:
        """A new descriptor is the lowest that is free, so its number tells how many are in use."""
        if self.links >= self._most or (accepted is not None and accepted.fileno() >= self._highest_descriptor):
            self.turned_away += 1
            return False
        self.links += 1
        return True

    async def _welcome(self, accepted: socket.socket, make: Callable[[socket.socket], Awaitable[TrackedLink]]) -> None:
        """One that was admitted becomes a link."""
        who = stranger(accepted)
        try:
            link = await make(accepted)
        except OSError as error:
            self.failed += 1
            self.links -= 1
            self._hung_up_on(who, "no handshake in time" if isinstance(error, TimeoutError) else f"no handshake: {_why(error)}")
        except BaseException:
            self.links -= 1
            raise
        else:
            self._serve(link)

    async def _shake_hands(self, accepted: socket.socket, seconds: float) -> TrackedLink:
        """Once it is its turn, for which it waits so long."""
        if self.tls is None:
            raise ValueError("whoever listens with TLS shows a certificate")
        try:
            with anyio.fail_after(seconds):
                await self._shaking_hands.acquire_on_behalf_of(accepted)
        except BaseException:
            accepted.close()
            raise
        try:
            return await tls_link(accepted, self.tls)
        finally:
            self._shaking_hands.release_on_behalf_of(accepted)

    def _serve(self, link: TrackedLink) -> None:
        link.when_gone(self._is_gone)
        try:
            self._on_link(link)
        except Exception:  # noqa: BLE001  a mistake with one link must not shut out all others
            _log.exception("a link that came to %s could not be served, and was closed", self.url)
            link.close(flush=False)

    def _is_gone(self) -> None:
        self.links -= 1

    def _hung_up_on(self, who: str, why: str) -> None:
        self._unwelcome.note(self.url, who, why, now=anyio.current_time())


@asynccontextmanager
async def listening(
    url: str,
    on_link: Callable[[Link], None],
    *,
    tls: Tls | None = None,
    turn_away: TurnAway | None = None,
    most: int = MOST_LINKS,
    reserve: int = RESERVED_DESCRIPTORS,
    group: str | int | None = None,
) -> AsyncIterator[Door]:
    """Links come to `on_link` until the block ends; those that have come stay.

    At a Unix socket its owner may come, and `group` if there is one. With `turn_away` who comes there is a link once it has said
    something; it is asked what those hear, as a frame, who do not within HANDSHAKE_SECONDS or are too many.

    Raises ConnectError if the place is not fit for it, and StateInUseError if a live process listens there.
    """
    address = parse(url)
    door = Door(str(address), on_link, tls, turn_away, most=most, reserve=reserve)
    match address:
        case MemoryAddress():
            with in_memory.registered(address, door.take):
                yield door
        case UnixAddress():
            async with unix.listening(address.path, group=group) as listener, _running(partial(door.answer, listener.socket)):
                yield door
        case TlsAddress():
            if tls is None or tls.is_client:
                raise ValueError(f"{address} needs a certificate to show: give tls=, made for a server")
            with await tcp.listen(address) as open_to_all:
                door.url = str(TlsAddress(address.host, open_to_all.getsockname()[1]))
                async with _running(partial(door.answer_tls, open_to_all)):
                    yield door


@asynccontextmanager
async def _running(task: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Beside the block, whose exceptions go on as they are and not in a group."""
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task)
        try:
            yield
        except Exception as error:  # noqa: BLE001  raised again below
            failed = error
        finally:
            tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


def _why(error: OSError) -> str:
    """Its kind: what is in it may be the stranger's own words."""
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


def _raise_descriptor_limit() -> int:
    """As many as this process may have: the usual 1,024 are fewer than the agents of one large fleet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

"""Who means harm, in a process of its own: strangers who never shake hands, and an insider who does and then breaks the rules.

crowd      so many connections at once, which say nothing or too little
storm      one connection after the other, each with something that is no frame
insider    EVE, with good papers and a true handshake: she forges senders, and floods with all that a host may say
"""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from actor import Agents

from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.epochs import PRIORITIES
from bus.protocol.frames import Frame, column, encode

HELLO = encode(Frame.HELLO_A, b"x" * 300)
SAID = {
    "silent": b"",
    "begun": struct.pack(">I", len(HELLO)) + HELLO[:20],
    "huge": struct.pack(">I", 0xFFFFFFFF) + b"and so on",
    "garbage": b"",
    "wrong": struct.pack(">I", 7) + b"\x92\x04\x02\xa3abc",
}
"""What a connection begins with."""
LANE, FIRST_TURN = 77, 1_000_000
TURNS, ROWS = 128, 16
LONGEST_SECONDS = 20.0
"""Of one flood."""


def _be_nice_to_other_sessions() -> None:
    """Each process here is a session of its own, and where the kernel shares processors among sessions (`sched_autogroup_enabled`),
    how nice one is counts inside of its session and nowhere else."""
    with suppress(OSError):  # it does not
        Path("/proc/self/autogroup").write_text("19")


def connected(url: str) -> socket.socket:
    if url.startswith("unix://"):
        link = socket.socket(socket.AF_UNIX)
        link.connect(url.removeprefix("unix://"))
        return link
    host, _, port = url.removeprefix("tls://").rpartition(":")
    return socket.create_connection((host, int(port)))


class Stranger(Agents):
    """It blocks its loop while it is at it: nobody else is in this process."""

    async def begin(self) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # A peer has a processor of its own: what it takes away here is no cost of the broker.
        os.nice(19 if "TPMBUS_SOAK" in os.environ else 10)
        if "TPMBUS_SOAK" in os.environ:
            _be_nice_to_other_sessions()
        self.crowds: list[tuple[socket.socket, float]] = []
        await super().begin()

    # ---- without papers ----------------------------------------------------------------------------------------------------------

    async def crowd(self, url: str, count: int, what: str) -> int:
        """They stay. How many of them were let in, as far as they can tell."""
        came = 0
        for _ in range(count):
            try:
                link = connected(url)
                link.sendall(os.urandom(4_096) if what == "garbage" else SAID[what])
            except OSError:
                continue
            self.crowds.append((link, time.monotonic()))
            came += 1
        return came

    async def drip(self, rest: int) -> int:
        """Each of the crowd that still can sends one byte more, so many times. How many bytes that were."""
        sent = 0
        for place in range(rest):
            for link, _ in self.crowds:
                try:
                    sent += link.send(HELLO[20 + place : 21 + place])
                except OSError:
                    continue
        return sent

    async def until_hung_up(self, seconds: float = 30) -> dict[str, float]:
        """Return when nobody of the crowd has a connection any more; how long the last ones had theirs."""
        poll, open_ = select.epoll(), {link.fileno(): (link, began) for link, began in self.crowds}
        for number in open_:
            poll.register(number, select.EPOLLIN | select.EPOLLHUP)
        until, longest = time.monotonic() + seconds, 0.0
        while open_:
            ready = poll.poll(max(until - time.monotonic(), 0))
            if not ready:
                raise TimeoutError(f"{len(open_)} are still connected")
            for number, _ in ready:
                link, began = open_[number]
                try:
                    if link.recv(65_536):
                        continue
                except OSError:
                    pass
                longest = max(longest, time.monotonic() - began)
                poll.unregister(number)
                open_.pop(number)[0].close()
        poll.close()
        self.crowds = []
        return {"longest": longest}

    async def leave(self) -> None:
        for link, _ in self.crowds:
            link.close()
        self.crowds = []

    async def storm(self, url: str, count: int, what: str) -> int:
        """One after the other; each ends when it is hung up on. How many there were."""
        for _ in range(count):
            with connected(url) as link:
                link.settimeout(30)
                try:
                    link.sendall(os.urandom(4_096) if what == "garbage" else SAID[what])
                    while link.recv(65_536):
                        pass
                except ConnectionError:
                    pass
        return count

    # ---- with papers -------------------------------------------------------------------------------------------------------------

    async def _conversation(self, name: str) -> Any:
        """Of its host, which comes back by itself when it was hung up on."""
        connection = self._host(name).connection
        while not connection.is_open:
            await anyio.lowlevel.checkpoint()
        return connection._conversation

    def _host(self, name: str) -> Any:
        return self.agents[name]._host

    async def forge(self, name: str, topic: str, sender: str, count: int) -> int:
        """Envelopes that say they are another's. How many were sent before the broker had enough of it."""
        return await self._flood(name, topic, sender, count)

    async def flood_keys(self, name: str, topic: str, count: int) -> int:
        """Envelopes of its own, where it may speak, each in another epoch, of which nobody has the key."""
        return await self._flood(name, topic, name, count)

    async def _flood(self, name: str, topic: str, sender: str, count: int) -> int:
        host = self._host(name)
        conversation, session = await self._conversation(name), next(iter(host.sessions.held.values())).id
        out: set[int] = set()
        credited = conversation._table[Frame.CREDIT]

        def note(first: int, turns: int) -> None:
            out.difference_update(range(first, first + turns))
            credited(first, turns)

        conversation._table[Frame.CREDIT] = note
        conversation.link.send(encode(Frame.OPEN, LANE, topic))
        sent, until = 0, time.monotonic() + LONGEST_SECONDS
        while sent < count and time.monotonic() < until and not conversation.over.is_set():
            if len(out) < TURNS and conversation.link.writable:
                forged = [_envelope(topic, sender, session, host.keyring.now_ms()) for _ in range(ROWS)]
                out.add(FIRST_TURN + sent)
                conversation.link.send(encode(Frame.PUBLISH, FIRST_TURN + sent, column([LANE] * ROWS), forged))
                sent += ROWS
                await anyio.lowlevel.checkpoint()
            else:
                await anyio.sleep(0.001)  # a loop that spins would be an attack on the processor, which is not meant
        conversation._table[Frame.CREDIT] = credited
        return sent

    async def flood_subscriptions(self, name: str, pattern: str, count: int) -> int:
        return await self._say_much(
            name,
            (encode(Frame.SUBSCRIBE, FIRST_TURN + number, name, pattern, "", "", "new", 1, "block") for number in range(count)),
        )

    async def flood_questions(self, name: str, count: int) -> int:
        """For keys that nobody has."""
        papers = next(iter(self._host(name).sessions.held.values())).papers
        return await self._say_much(name, (encode(Frame.ASK, os.urandom(32), papers) for _ in range(count)))

    async def _say_much(self, name: str, frames: Iterable[bytes]) -> int:
        """As quickly as it is read, for a while. How many were sent before the broker had enough of it."""
        until = time.monotonic() + LONGEST_SECONDS
        conversation, sent = await self._conversation(name), 0
        for frame in frames:
            # The link tells its host when it has room, and nobody else.
            while not conversation.link.writable and time.monotonic() < until and not conversation.over.is_set():  # noqa: ASYNC110  a link says by callback alone
                await anyio.sleep(0.001)
            if time.monotonic() > until or conversation.over.is_set():
                break
            conversation.link.send(frame)
            sent += 1
            if sent % ROWS == 0:
                await anyio.lowlevel.checkpoint()
        return sent


def _envelope(topic: str, sender: str, session: bytes, now_ms: int) -> bytes:
    header = headers.Header(
        version=1, kind=headers.DATA, flags=0, topic=topic, sender=sender, session=session, epoch=os.urandom(32), seq=0,
        sent_ms=now_ms, expires_ms=now_ms + 30_000, priority=PRIORITIES["normal"], records=1, id=os.urandom(16), ref=b"", before=0,
    )  # fmt: skip
    return envelopes.join(header.encode(), os.urandom(200))

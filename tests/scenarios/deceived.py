"""Agents in a process of their own to which a broker lies: they tell what they refused, and what it must never have seen."""

from __future__ import annotations

import os
import time
from typing import Any

import anyio
from actor import FILLED_WITH, Agents
from lying_broker import inside, refused, secrets_of
from seams import header_of, sealed_with

from bus.errors import BusError
from bus.protocol import envelope as envelopes


class Deceived(Agents):
    async def begin(self) -> None:
        self.asked: dict[str, Any] = {}
        """What became of requests that wait, by the name of who asked."""
        await super().begin()

    async def refused(self, name: str) -> dict[str, int]:
        """Of what came, by reason."""
        return refused(self.agents[name])

    async def until_refused(self, name: str, reason: str, count: int, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while (found := refused(self.agents[name])).get(reason, 0) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{name} refused {found}, and not {reason} {count} times")
            await anyio.sleep(0.001)

    async def statement(self, name: str) -> int:
        """The number of the trust statement that is in force here."""
        return inside(self.agents[name]).keyring.snapshot.trust.statement.number

    async def until_newer(self, name: str, statement: int, seconds: float = 20) -> None:
        with anyio.fail_after(seconds):
            while await self.statement(name) <= statement:  # noqa: ASYNC110  a snapshot tells nobody
                await anyio.sleep(0.001)

    async def trust(self, name: str) -> dict[str, int]:
        """What became of the news that came."""
        return dict(inside(self.agents[name]).trusting.counts)

    async def until_trust(self, name: str, what: str, count: int = 1, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while (found := await self.trust(name)).get(what, 0) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{name} found news {found}, and not {what} {count} times")
            await anyio.sleep(0.001)

    async def secrets(self, name: str) -> list[str]:
        """Every key that must never leave this process, and what was said."""
        return [secret.hex() for secret in secrets_of(self.agents[name])] + [FILLED_WITH.hex()]

    async def answer(self, name: str, pattern: str) -> None:
        await self.reply(name, pattern)

    async def request_soon(self, name: str, topic: str, seconds: float) -> None:
        """Begin to ask."""

        async def ask() -> None:
            try:
                self.asked[name] = (await self.agents[name].request(topic, FILLED_WITH, timeout=seconds)).data.hex()
            except BusError as error:
                self.asked[name] = type(error).__name__
            self.events.tell()

        self.asked.pop(name, None)
        self.tasks.start_soon(ask)

    async def became(self, name: str, seconds: float = 60) -> str:
        """Of that request: the reply, or the error."""
        await self.events.until(lambda: name in self.asked, seconds)
        return str(self.asked[name])

    # ---- an insider's ----------------------------------------------------------------------------------------------------------

    async def sealed_again(self, name: str, envelope: str, seq: int | None = None) -> str:
        """With the key of its epoch, which a reader has: as its sender would seal it the next time, all but the signature."""
        data, sealed = envelopes.split(bytes.fromhex(envelope))
        header = header_of(bytes.fromhex(envelope))
        opened = inside(self.agents[name]).keyring.held.epochs[header.epoch]
        plaintext = opened.open(sealed, seq=header.seq, header=data)
        forged = header._replace(seq=header.seq + 1 if seq is None else seq, id=os.urandom(16))
        return envelopes.join(forged.encode(), sealed_with(opened, forged.seq, forged.encode(), plaintext)).hex()

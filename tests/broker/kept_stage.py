"""A broker on a stage with a backbone whose disk takes its time, or takes nothing, as the test says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from played import Played, Stage, settle
from small_world import MINUTE, Identity, World

from bus.backbone.interface import Backbone
from bus.backbone.local import LocalBackbone
from bus.backbone.memory_storage import MemoryStorage
from bus.backbone.storage import Commit, Loaded
from bus.errors import BackboneError
from bus.identity import kem_keys
from bus.identity.envelopes.granting import Reader
from bus.protocol import papers as paper
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import SealingEpoch
from bus.protocol.frames import FIRST_ALIAS, KEPT_GRANT, Frame, numbers
from bus.protocol.kem import HYBRID, PrivateKey, PublicKey
from bus.protocol.papers import InboxBody, InboxCertificate
from bus.testing import ManualClock

DAY = 86_400_000


class Disk(MemoryStorage):
    """`commits` are those that were made; while it is `held` they wait, and with an `error` they fail."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[Commit] = []
        self.error: BackboneError | None = None
        self.waiting: list[Commit] = []
        self.is_held = False

    def submit(self, commit: Commit) -> None:
        if self.is_held:
            self.waiting.append(commit)
        elif self.error is not None:
            commit.failed = [*commit.blocks]
            commit.done(self.error)
        else:
            self.commits.append(commit)
            super().submit(commit)

    def go_on(self) -> None:
        self.is_held = False
        waiting, self.waiting = self.waiting, []
        for commit in waiting:
            self.submit(commit)

    @property
    def blocks(self) -> list[int]:
        """How many envelopes each commit brought that brought any."""
        return [count for commit in self.commits if (count := sum(len(block.entries) for block in commit.blocks))]


def full() -> BackboneError:
    return BackboneError("disk_full", "no room")


class KeptStage(Stage):
    """Use it within `running`."""

    def __init__(
        self, world: World, backbone: Backbone | None = None, disk: Disk | None = None, clock: ManualClock | None = None,
        **changes: Any,
    ) -> None:  # fmt: skip
        clock = clock or ManualClock(world.now)
        self.disk = disk or Disk()
        self.backbone = backbone or LocalBackbone(self.disk, clock, Loaded({}, [], [], [], [], {}))
        super().__init__(world, clock=clock, backbone=self.backbone, **changes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with super().running(), anyio.create_task_group() as tasks:
            tasks.start_soon(self.backbone.run)
            yield
            tasks.cancel_scope.cancel()

    async def publisher(self, *topics: str, name: str = "DIRECTOR") -> Keeper:
        host = await self.keeper(name)
        for topic in topics:
            await host.open(topic)
        await host.hears()
        return host

    async def keeper(self, *names: str, **changes: Any) -> Keeper:
        near = self.connect(*names, **changes)
        keeper = Keeper(self, near)
        await keeper.shake_hands()
        return keeper


class Keeper:
    """A played host that knows of what is kept."""

    def __init__(self, stage: KeptStage, played: Played) -> None:
        self.stage, self._played = stage, played

    def __getattr__(self, name: str) -> Any:
        return getattr(self._played, name)

    async def subscribe_durably(
        self,
        number: int,
        pattern: str,
        *,
        by: str = "",
        group: str = "",
        name: str = "mine",
        start: str = "new",
        limit: int = 1_024,
    ) -> list[list[Any]]:
        agent = by or next(iter(self.agents))
        return await self.say(Frame.SUBSCRIBE, number, agent, pattern, group, name, start, limit, "block")

    async def kept(self) -> list[tuple[int, int, int, bytes]]:
        """(subscription, deliveries, position, envelope) of the kept messages that came; they are said to be taken in."""
        found = await self.hears(Frame.DELIVER)
        if found:
            self.send(Frame.CREDIT, 0, len(found))
            await settle()
        return [(numbers(one[2])[0], one[3], one[4], one[5]) for one in found if one[4]]

    async def settles(self, number: int, verb: int, *spans: tuple[int, int], delay: int = (1 << 64) - 1, reason: str = "") -> None:
        self.send(Frame.SETTLE, number, verb, [*spans], delay, reason)
        await settle()

    async def stored(self) -> dict[int, list[tuple[bytes, int]]]:
        """Turn -> ids and positions."""
        found: dict[int, list[tuple[bytes, int]]] = {}
        for _, turn, rows in await self.hears(Frame.STORED):
            found.setdefault(turn, []).extend((row[0], row[1]) for row in rows)
        return found

    def grant(self, topic: str, reader: str, key: PrivateKey, *, epoch: SealingEpoch | None = None, by: str = "") -> bytes:
        """Of this agent's epoch for the topic, to a key of this reader."""
        world, agent = self.stage.world, self.agents[by or next(iter(self.agents))]
        if epoch is None:
            epoch = self.epochs.get((agent.name, topic)) or self.epochs.setdefault((agent.name, topic), world.epoch(agent, topic))
        return world.grant(
            agent, epoch, Reader(reader, PublicKey(key.kem, key.public), b""), expires_ms=epoch.params.ends_ms + DAY
        )[0]

    def publish_kept(self, grants: list[bytes], *envelopes: bytes, topic: str) -> int:
        """A turn with grants before its envelopes."""
        self._played.turn += 1
        aliases = [KEPT_GRANT] * len(grants) + [self.aliases[topic]] * len(envelopes)
        self.send(Frame.PUBLISH, self._played.turn, b"".join(alias.to_bytes(4, "big") for alias in aliases), [*grants, *envelopes])
        self.turns_out.add(self._played.turn)
        return self._played.turn


def inbox_key() -> PrivateKey:
    return kem_keys.generate(HYBRID)


def inbox_papers(world: World, who: Identity, key: PrivateKey, *, counter: int = 1) -> bytes:
    """As an agent shows them."""
    begins, ends = world.now - MINUTE, world.now + 29 * DAY
    body = InboxBody(world.authority.domain, who.name, who.certificate.signer, counter, key.kem, key.public, begins, ends).encode()
    blind = os.urandom(16)
    content = paper.content(Purpose.INBOX, body, blind=blind, suite=who.suite)
    (proof,) = who.prove(Purpose.INBOX, [content], [blind])
    return pack([InboxCertificate(body, proof).encode(), who.certificate.der])


__all__ = ["DAY", "FIRST_ALIAS", "Disk", "Keeper", "KeptStage", "full", "inbox_key", "inbox_papers", "settle"]

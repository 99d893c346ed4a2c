"""News of trust that come in parts, for a host that remembers on a disk: what is judged there, and what comes meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from bus.agent.trusting import Trusting
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.frames import BUNDLE, CRL, STATEMENT
from bus.testing import ManualClock
from bus.testing.policy_texts import texts_given
from bus.testing.world import World

pytestmark = pytest.mark.anyio
POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: ecc256/sha256, publish: [tasks.>]}
  worker: {key: ecc256/sha256, subscribe: [tasks.>]}
"""
NARROWER = POLICY.replace("subscribe: [tasks.>]", "subscribe: [results.>]")


class Scene:
    """A host's side of it, and the documents that its authority signs one after the other."""

    def __init__(self, trusting: Trusting, world: World, followed: list[Snapshot]) -> None:
        self.trusting, self.world, self.followed = trusting, world, followed

    def bring(self, documents: TrustDocuments) -> None:
        for what, data in documents.in_order():
            self.trusting.part(what, len(data), 0, data)

    @asynccontextmanager
    async def judging(self) -> AsyncIterator[None]:
        """What was brought before is being judged meanwhile: the thread that does has no processor yet."""
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = 1
        threads.acquire_on_behalf_of_nowait(self)
        await anyio.wait_all_tasks_blocked()
        assert self.trusting._busy
        yield
        threads.release_on_behalf_of(self)
        await self.settle()

    async def settle(self) -> None:
        with anyio.fail_after(20):
            while self.trusting._busy:
                await anyio.lowlevel.checkpoint()

    def changed(self, policy: str = POLICY) -> TrustDocuments:
        self.world.change(texts_given(policy))
        return self.world.documents


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    world = World(texts_given(POLICY), ManualClock())
    host, followed = world.materials("LEAD"), []
    async with anyio.create_task_group() as tasks:

        def start(call: Callable[[], Any]) -> None:
            tasks.start_soon(call)

        memory = await anyio.to_thread.run_sync(TrustMemory, folder / "trust", world.clock)
        trusting = Trusting(world.documents, memory, host.verifier, clock=world.clock, start=start, follow=followed.append)
        yield Scene(trusting, world, followed)


async def test_news_that_come_while_older_ones_are_judged_are_not_lost_with_them(tmp_path: Path):
    """A broker that is behind says what it has, and a moment later what is new: the first is no longer believed."""
    async with scene(tmp_path) as one:
        older = one.world.documents
        one.bring(one.changed())
        await one.settle()
        one.bring(older)
        async with one.judging():
            newest = one.changed(NARROWER)
            one.bring(newest)
        assert one.trusting.counts == {"accepted": 2, "policy_rollback": 1}
        assert one.trusting.documents == newest
        assert [snapshot.policy.may_hear("PAINTER", "tasks.a") for snapshot in one.followed] == [True, False]


async def test_what_is_refused_does_not_stay_for_the_next_ones(tmp_path: Path):
    """Of what was told with a statement nothing is kept once that is refused, however late the next part of it comes."""
    async with scene(tmp_path) as one:
        for what in (CRL, BUNDLE, STATEMENT):
            one.trusting.part(what, 500, 0, bytes(500))
        async with one.judging():
            newest = one.changed(NARROWER)
            for what, data in newest.in_order():
                if what != CRL:  # which is the one that it has
                    one.trusting.part(what, len(data), 0, data)
        assert (one.trusting.counts["accepted"], one.trusting.documents) == (1, newest)


async def test_the_same_again_is_no_news(tmp_path: Path):
    async with scene(tmp_path) as one:
        newest = one.changed()
        for _ in range(3):
            one.bring(newest)
            await one.settle()
        assert one.trusting.counts == {"accepted": 1}
        assert len(one.followed) == 1

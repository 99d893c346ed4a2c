"""Storage in this process's memory: for tests, and for buses that need not outlive it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from operator import attrgetter

from bus.backbone.interface import Grant, Papers
from bus.backbone.storage import Block, Commit, Outline, places
from bus.flow.retention import Retention

_BLOCKS_AT_ONCE = 64
_FIRST = attrgetter("first")
_STORED = attrgetter("stored_ms")


class MemoryStorage:
    """Commits are done when `submit` returns."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Block]] = {}
        self._grants: dict[tuple[bytes, str], dict[tuple[str, bytes], Grant]] = {}
        self._papers: dict[bytes, Papers] = {}

    def submit(self, commit: Commit) -> None:
        for block in commit.blocks:
            self._blocks.setdefault(block.class_, []).append(block)
        for grant in commit.grants:
            self._grants.setdefault((grant.epoch, grant.reader), {})[grant.sender, grant.ref] = grant
        for papers in commit.papers:
            self._papers[papers.session] = papers
        commit.done(None)

    async def read(self, class_: str, position: int) -> list[Block]:
        blocks = self._blocks.get(class_, [])
        place = max(0, bisect_right(blocks, position, key=_FIRST) - 1)
        if blocks and blocks[place].last < position:
            place += 1
        return blocks[place : place + _BLOCKS_AT_ONCE]

    async def outlines(self, class_: str, position: int) -> list[Outline]:
        return [
            Outline(block.first, [entry.topic for entry in block.entries], [entry.expires_ms for entry in block.entries])
            for block in await self.read(class_, position)
        ]

    async def first_at(self, class_: str, time_ms: int) -> int | None:
        blocks = self._blocks.get(class_, [])
        place = bisect_left(blocks, time_ms, key=_STORED)
        return blocks[place].first if place < len(blocks) else None

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        return [grant.envelope for grant in self._grants.get((epoch, reader), {}).values()]

    async def papers_for(self, session: bytes) -> bytes | None:
        found = self._papers.get(session)
        return None if found is None else found.papers

    async def kept(self) -> dict[str, int]:
        found = Counter[str]()
        for grant in (grant for grants in self._grants.values() for grant in grants.values()):
            found[grant.sender] += places(grant.envelope)
        for papers in self._papers.values():
            found[papers.sender] += places(papers.papers)
        return found

    async def drop(self, retention: Retention) -> None:
        passed_ms = retention.passed_ms
        for class_, blocks in self._blocks.items():
            while blocks and _ended(blocks[0], class_, retention):
                del blocks[0]
        for key, grants in list(self._grants.items()):
            kept = {name: grant for name, grant in grants.items() if grant.until_ms > passed_ms}
            self._grants[key] = kept
            if not kept:
                del self._grants[key]
        self._papers = {session: kept for session, kept in self._papers.items() if kept.until_ms > passed_ms}

    async def tidy(self) -> None:
        return

    def statistics(self) -> dict[str, int]:
        return {"blocks": sum(map(len, self._blocks.values()))}

    async def aclose(self) -> None:
        return


def _ended(block: Block, class_: str, retention: Retention) -> bool:
    return retention.ended(class_, last=block.last, stored_ms=block.stored_ms, until_ms=block.until_ms)

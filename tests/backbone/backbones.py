"""Backbones for tests: opened, run, and closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from bus.backbone.interface import Backbone, Entry
from bus.backbone.journal import open_journal
from bus.backbone.memory import memory_backbone
from bus.clock import Clock
from bus.testing.backbone_bench import taken

__all__ = ["entries", "in_memory", "on_disk", "running", "taken"]


@asynccontextmanager
async def running(backbone: Backbone) -> AsyncIterator[Backbone]:
    failed: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(backbone.run)
            try:
                yield backbone
            except Exception as error:  # noqa: BLE001  it passes on, without a group around it
                failed = error
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await backbone.aclose()
    if failed is not None:
        raise failed


@asynccontextmanager
async def in_memory(clock: Clock) -> AsyncIterator[Backbone]:
    async with running(memory_backbone(clock)) as backbone:
        yield backbone


@asynccontextmanager
async def on_disk(folder: Path, clock: Clock, **options: Any) -> AsyncIterator[Backbone]:
    async with running(await open_journal(folder, clock, **options)) as backbone:
        yield backbone


def entries(clock: Clock, *topics: str, seed: int = 0, body: bytes = b"", expires_in_ms: int = 3_600_000) -> list[Entry]:
    """One for each topic, in the class that its first token names. `seed`: where their ids begin."""
    until_ms = clock.now_ms() + expires_in_ms
    return [
        Entry(f"{topic.split('.')[0]}.>", topic, "DIRECTOR", number.to_bytes(16), until_ms, body or b"e%d" % number)
        for number, topic in enumerate(topics, seed)
    ]

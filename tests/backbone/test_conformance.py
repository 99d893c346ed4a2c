"""One check for all backbones, and the check itself: it sees what is wrong."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backbones import in_memory, on_disk

from bus.testing.backbone_check import check_backbone


@pytest.mark.anyio
async def test_the_backbone_in_memory_conforms():
    await check_backbone(in_memory)


@pytest.mark.anyio
async def test_the_journal_conforms(tmp_path):
    numbers = count()
    await check_backbone(lambda clock: on_disk(tmp_path / str(next(numbers)), clock))


@pytest.mark.anyio
async def test_a_journal_that_reads_everything_back_from_disk_conforms(tmp_path):
    numbers = count()
    await check_backbone(lambda clock: on_disk(tmp_path / str(next(numbers)), clock, ring_bytes=0, segment_bytes=1))

"""The check for all backbones, on a real NATS server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import nats_server, new_space, on_nats

from bus.clock import SystemClock
from bus.testing.backbone_check import check_backbone


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_backbone_on_nats_conforms():
    with nats_server() as server:
        await check_backbone(lambda clock: on_nats([server.url], new_space(), clock), clock=SystemClock())

"""The check for all backbones, on real NATS servers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import NEWER, nats_server, new_space, on_nats

from bus.bench.programs import NATS_SERVER
from bus.clock import SystemClock
from bus.testing.backbone_check import check_backbone

NO_NEWER = pytest.mark.skipif(not NEWER, reason="no newer nats-server is here: `make test` installs one")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("program", [NATS_SERVER, pytest.param(NEWER, marks=NO_NEWER)], ids=["the server of this machine", "newer"])
async def test_the_backbone_on_nats_conforms(program):
    with nats_server(program) as server:
        await check_backbone(lambda clock: on_nats([server.url], new_space(), clock), clock=SystemClock())

"""nats-py runs on asyncio alone, and may not be installed: who opens the backbone elsewhere is told what to do."""

from __future__ import annotations

import sys

import pytest

from bus.backbone.nats.backbone import open_nats
from bus.clock import SystemClock
from bus.errors import BackboneError


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_it_says_that_it_needs_asyncio():
    with pytest.raises(BackboneError) as refused:
        await open_nats(["nats://127.0.0.1:1"], SystemClock())
    assert refused.value.code == "unsuitable"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_nats_py_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(BackboneError) as refused:
        await open_nats(["nats://127.0.0.1:1"], SystemClock())
    assert refused.value.code == "unsuitable"
    assert "tpmbus[nats]" in str(refused.value)

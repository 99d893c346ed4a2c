"""Links of every kind do the same on every event loop."""

from __future__ import annotations

import pytest
from pairs import KINDS, pairs

from bus.testing.link_check import check_link

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request):
    return ("asyncio", {"use_uvloop": request.param == "uvloop"}) if request.param != "trio" else ("trio", {})


@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_is_a_link(kind, runtime, papers):
    await check_link(pairs(kind, runtime, papers))

"""What another user of this machine finds of a hub that runs: nothing to open, whatever the state folder itself allows."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from anyio import to_thread

import bus
from bus.hub.open import supervise

pytestmark = pytest.mark.anyio


def open_to_others(*folders: Path) -> dict[str, str]:
    """All that somebody else could read, write or enter."""
    places = [place for folder in folders for place in folder.rglob("*") if not place.is_symlink()]
    return {str(place): oct(mode) for place in places if (mode := stat.S_IMODE(place.lstat().st_mode)) & 0o077}


@pytest.fixture
def _generous():
    """Whoever starts us lets everybody write what they make."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_generous")
@pytest.mark.parametrize("where", ["here", "apart"])
async def test_nothing_in_a_state_folder_that_others_may_enter_is_open_to_them(home, where):
    home.folder.chmod(0o755)
    if where == "apart":
        (home.folder / "broker.log").touch(0o644)  # of an older version
    options = {"policy": home.policy, "state": home.folder, "tpm": "software", "listen": ["tls://127.0.0.1:0"]}
    async with (
        (bus.open if where == "here" else supervise)(**options) as hub,
        hub.agent("LEAD") as lead,
        home.connect(hub.url, agent="PAINTER") as painter,
        painter.subscribe("work.>", durable="mine") as work,
    ):
        await lead.publish("work.a", b"a secret")
        await (await anext(work)).ack(confirmed=True)
        assert await to_thread.run_sync(open_to_others, home.folder, home.state.runtime) == {}
        for place in (home.state.runtime, home.state.runtime.parent):
            assert stat.S_IMODE(place.stat().st_mode) == 0o700

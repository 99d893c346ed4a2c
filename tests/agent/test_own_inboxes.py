"""The inboxes of a host's own agents, where a key does not open."""

from __future__ import annotations

import pytest
from agent_scenes import inside, scene

from bus.agent.own_inboxes import OwnInboxes
from bus.errors import TpmUnavailableError

pytestmark = pytest.mark.anyio


class Closed:
    """An inbox whose TPM is away."""

    certificate = b""

    async def private(self, key_id: bytes) -> None:
        raise TpmUnavailableError(0, "it is away")


async def test_a_key_that_does_not_open_is_said_once_a_minute_however_many_seal_to_it(caplog: pytest.LogCaptureFixture):
    async with scene("LEAD") as (hub, lead):
        host, went_on = inside(lead), []
        inboxes = OwnInboxes(host.keyring, host.start, hub.clock)
        inboxes.add("LEAD", Closed(), b"")
        for number in range(40):
            assert inboxes.unseal(("LEAD", bytes(16)), "PAINTER", lambda: went_on.append(1))
            await hub.settle()
            if number in (0, 30):
                await hub.advance(31)
        assert len(went_on) == 40, "whoever waits hears that there is none"
    assert len(caplog.records) == 2

"""The papers of a gateway, where what answers lies, where they were taken back, and for whom there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from homes import Straight

from bus.clock import SystemClock
from bus.errors import NotPermittedError, RemoteProtocolError
from bus.hub import admin
from bus.hub.gateway_papers import Brought, GatewayPapers
from bus.hub.state import State, open_state

pytestmark = pytest.mark.anyio


class Lying(Straight):
    """Answers with the certificate of another key than it was asked to certify."""

    def __init__(self, socket: Path, certificate: bytes) -> None:
        super().__init__(socket)
        self._certificate = certificate

    async def ask(self, verb: str, **arguments: Any) -> Any:
        return self._certificate.hex() if verb == "certify_gateway" else await super().ask(verb, **arguments)


async def brought(state: State, way: Straight, name: str) -> Brought:
    return await GatewayPapers(state, way, SystemClock()).bring(name, ())


@pytest.fixture
def two(tmp_path, runtime) -> tuple[State, State]:
    """State folders of two other machines."""
    return open_state(tmp_path / "west"), open_state(tmp_path / "east")


@pytest.mark.parametrize("name", ["WEST", "EAST"])
async def test_a_certificate_for_another_key_or_name_is_not_taken(name, home, two):
    west, east = two
    async with home.open():
        given = (await brought(west, Straight(home.state.admin_socket), "WEST")).certificate
        with pytest.raises(RemoteProtocolError) as refused:
            await brought(east, Lying(home.state.admin_socket, given.der), name)
    assert refused.value.reason == "malformed"
    assert not await to_thread.run_sync(list, (east.trust / "public" / "certificates").glob("broker.*"))


async def test_one_that_was_taken_back_is_brought_anew(home, two):
    west, _ = two
    async with home.open():
        way = Straight(home.state.admin_socket)
        first = await brought(west, way, "WEST")
        assert not (await brought(west, way, "WEST")).is_new
        await admin.ask(home.state.admin_socket, "revoke", name="WEST", reason="rotated", profile="broker")
        again = await brought(west, way, "WEST")
        assert again.is_new
        assert again.certificate.serial != first.certificate.serial
        assert again.certificate.spki == first.certificate.spki


async def test_nobody_but_a_gateway_has_a_certificate_for_its_addresses(home, two):
    """Least of all who would be taken for the hub itself."""
    async with home.open():
        await brought(two[0], way := Straight(home.state.admin_socket), "WEST")
        for name in ("EAST", "PAINTER", "BROKER"):
            with pytest.raises(NotPermittedError):
                await way.ask("issue_gateway_tls", name=name, spki="30", dns=["hub.example"], ips=[])

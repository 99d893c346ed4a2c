"""Two hubs on one bus: East has the authority, West is a gateway with a state folder and a socket of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
from nats_servers import NatsServer
from troupe import Actor, Company

from bus.clock import SystemClock
from bus.hub import admin
from bus.hub.gateway_papers import GatewayPapers


class Straight:
    """To the desk of a hub on this very machine, in place of ssh."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, verb: str, **arguments: Any) -> Any:
        return await admin.ask(self._socket, verb, **arguments)


def begun(east: Company, west: Company, *servers: NatsServer, apart: bool = False) -> tuple[Actor, Actor]:
    """Both hubs, linked to each other: each by another server, where there are several; NATS tells them of the rest."""
    hub = east.hub(backbone=servers[0].url, apart=apart)
    anyio.run(GatewayPapers(west.state, Straight(east.state.admin_socket), SystemClock()).bring, "WEST", ())
    gateway = west.hub(backbone=servers[-1].url, apart=apart)
    until_linked(hub, gateway)
    return hub, gateway


def until_linked(*hubs: Actor, others: int | None = None) -> None:
    """To each other; or each to so many."""
    wanted = len(hubs) - 1 if others is None else others
    for hub in hubs:
        until = time.monotonic() + 30
        while hub.ask("statistics")["broker"]["gateways"]["neighbours"] != wanted:
            assert time.monotonic() < until, hub.ask("statistics")["broker"]["gateways"]
            time.sleep(0.05)


__all__ = ["begun", "until_linked"]

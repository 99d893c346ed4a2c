"""tpmbus twice at one hub: every batch signed by its sender's session, and every batch by the sender's own key in the TPM.

The harness's own policy, in which nothing differs between the two topics but who signs. No peer of anybody: what is compared is
this bus with itself, so all stand in the catalogue's `VARIANTS` and in no table of others. Both are `accepted`, as live topics
have it; where the identity key signs the default is to wait until it has, which is the third of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio

import bus
from bus.bench.peers.contender import Address, Contender, Send, Sender, Take
from bus.bench.peers.ours import TPMBUS

SENDER: Final = "SENDER"
READER: Final = "READER"
SESSION_TOPIC: Final = "bench.live.a"
IDENTITY_TOPIC: Final = "bench.identity.a"


@asynccontextmanager
async def serve(address: Address) -> AsyncIterator[Address]:
    from bus.bench.crowd import POLICY  # late: workers of other buses need none of it
    from bus.hub.state import open_state
    from bus.hub.tpm_process import stop_service

    state = str(Path(address["folder"]) / "state")
    try:
        async with bus.open(state=state, policy=POLICY, agents=dict.fromkeys((SENDER, READER), "bench")) as hub:
            yield {"state": state, "url": hub.url}
    finally:
        with anyio.CancelScope(shield=True):
            await stop_service(open_state(Path(state)))


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    async with (
        bus.connect(address["url"], agent=READER, state=address["state"]) as agent,
        agent.subscribe("bench.live.>") as live,
        agent.subscribe("bench.identity.>") as signed_in_the_tpm,
        anyio.create_task_group() as group,
    ):
        for subscription in (live, signed_in_the_tpm):
            group.start_soon(_take_all, subscription, takes[0])
        yield
        group.cancel_scope.cancel()


async def _take_all(subscription: bus.Subscription, take: Take) -> None:
    async for message in subscription:
        take(message.data)


def _sending(topic: str, wait: str | None = None) -> Sender:
    @asynccontextmanager
    async def send(address: Address) -> AsyncIterator[Send]:
        async with bus.connect(address["url"], agent=SENDER, state=address["state"]) as agent:

            async def together(bodies: Iterable[bytes]) -> None:
                await agent.publish_many(topic, bodies, wait=wait)

            yield together

    return send


SESSION: Final = Contender(
    name="tpmbus-session",
    title="tpmbus, signed by the session",
    secured=TPMBUS.secured,
    uses="publish_many; async for; Unix sockets, a broker",
    install=TPMBUS.install,
    serve=serve,
    read=read,
    send=_sending(SESSION_TOPIC),
)
TPM: Final = replace(
    SESSION, name="tpmbus-tpm", title="tpmbus, every batch signed by the TPM", send=_sending(IDENTITY_TOPIC, wait="accepted")
)
WAITED: Final = replace(
    SESSION, name="tpmbus-tpm-sent", title="tpmbus, every batch signed by the TPM and waited for", send=_sending(IDENTITY_TOPIC)
)

"""How a host comes back that was away for longer than its trust lasts: it hears the newest statement from the broker, before it can
prove itself.

Past the end of its statement a host has no session that counts, and cannot make one; without a session there is no link, and news
of trust comes by links. But a broker proves itself first, and its papers carry a statement. So the host begins a handshake with
papers of its own that have ended, hears the broker out, and hangs up. What it heard serves to certify new sessions, and for nothing
else: it still seals and delivers nothing until the broker has pushed all of trust, and that was verified and remembered as ever.

Whom it believes is what it believed before: a broker that is pinned, with papers that hold, which signed this very handshake; a
statement of the same authority, newer than its own, issued by now and not ended.
"""

from __future__ import annotations

import anyio

from bus.agent.greeting import Greeting
from bus.clock import Clock
from bus.errors import BusError, ConnectError, ConnectionLostError
from bus.protocol.frames import parse
from bus.protocol.handshake import MAX_SECONDS
from bus.protocol.skew import SKEW_MS
from bus.transport.link import Link
from bus.trust.statement import Statement


async def newest_statement(link: Link, greeting: Greeting, clock: Clock) -> Statement:
    """What the broker at the other end goes by, by a greeting that listens only. The link is closed.

    Raises ConnectError, TransportError, RemoteProtocolError, VerificationError, NotPermittedError.
    """
    over = anyio.Event()
    ended: list[BusError] = []

    def take(frames: list[bytes]) -> None:
        for data in frames:
            if greeting.heard is None:
                greeting.take(parse(data))
        if greeting.heard is not None:
            over.set()

    def lost(error: BusError) -> None:
        ended.append(error)
        over.set()

    link.start(take, lost, lambda: None)
    link.send(greeting.begin())
    try:
        with clock.fail_after(MAX_SECONDS):
            await over.wait()
    except TimeoutError:
        raise ConnectError(f"the broker at {link.peer.address} does not answer") from None
    finally:
        link.close(flush=False)
    if greeting.heard is None:
        raise next(iter(ended), ConnectionLostError("the link ended within the handshake"))
    return greeting.heard


def helps(heard: Statement, own: Statement, *, now_ms: int) -> bool:
    """Whether sessions may be made under what was heard."""
    return own.number < heard.number and heard.issued_ms - SKEW_MS <= now_ms <= heard.next_update_ms

"""What a host does now and then, whatever comes: what waited too long goes, what is due is asked for, a silent link is looked at.

Four times a second. Every five seconds what nobody needs any more is forgotten: by what is known on disk to have passed, never
by the date alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from anyio import to_thread

from bus.agent.jumps import Jumps

if TYPE_CHECKING:
    from bus.agent.host import Host
    from bus.identity.trust_memory import TrustMemory

TICK_SECONDS: Final = 0.25
FORGET_SECONDS: Final = 5.0


async def keep_time(host: Host, memory: TrustMemory) -> None:
    """Until cancelled."""
    forgotten, jumps = host.clock.monotonic(), Jumps(host.clock)
    while True:
        await host.clock.sleep(TICK_SECONDS)
        if jumps.happened():
            host.sessions.wanted.set()
            host.outbox.follow()
        host.inbox.take(host.keyring.expire())
        host.inbox.touch_parked()
        host.acquaintance.ask()
        host.connection.watch()
        host.outbox.tick()
        if host.clock.monotonic() - forgotten >= FORGET_SECONDS:
            forgotten = host.clock.monotonic()
            await _forget(host, memory)


async def _forget(host: Host, memory: TrustMemory) -> None:
    host.keyring.forget()
    host.outbox.follow()  # a session or statement may count again by the clock alone
    if host.settling is not None:
        host.settling.try_again()
    if memory.clock_is_due():
        await to_thread.run_sync(memory.keep_clock)
        if host.settling is not None:  # only what is known on disk to have passed
            host.settling.forget(memory.passed_ms())

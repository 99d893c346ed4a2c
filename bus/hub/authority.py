"""The authority of a state folder, opened with the state's own TPM or with a passphrase; made if there is none.

Its domain is the policy's. One process at a time has it: where a bus runs, that is its service, and the rest hears StateInUseError.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bus.clock import Clock, SystemClock
from bus.errors import StateInUseError
from bus.hub.core_dumps import forbid_core_dumps
from bus.hub.state import State, holder_of
from bus.hub.tpm_process import open_engine
from bus.identity.authority import (
    Authority,
    Passphrase,
    Protection,
    TpmSeal,
    generate_root_key,
    is_there,
    open_authority,
)

PATIENCE_SECONDS: Final = 20.0
"""For another process that has the authority open: as long as provisioning a fleet takes."""


@asynccontextmanager
async def open_state_authority(
    state: State,
    *,
    domain: str,
    policy: str | None = None,
    passphrase: str | None = None,
    clock: Clock | None = None,
    clock_is_right: bool = False,
) -> AsyncIterator[Authority]:
    """`policy` is what a TPM service that has to be started obeys. With a passphrase no TPM is needed.

    This process has no core dumps from then on. `clock_is_right`: somebody says so, to an authority that has reason to doubt it.
    Raises what `open_authority` and `open_engine` do.
    """
    forbid_core_dumps()
    async with AsyncExitStack() as stack:
        protection: Protection
        if passphrase is not None:
            protection = Passphrase(passphrase)
        else:
            protection = TpmSeal(await stack.enter_async_context(open_engine(state, policy=policy)))
        opened = open_authority(
            state.trust, domain=domain, protection=protection, clock=clock or SystemClock(), clock_is_right=clock_is_right
        )
        yield await stack.enter_async_context(opened)


async def root_key_if_needed(state: State) -> RSAPrivateKey | None:
    """For an authority that is to be made: beside whatever else takes its time. None where there is one."""
    if await to_thread.run_sync(is_there, state.trust):
        return None
    return await to_thread.run_sync(generate_root_key)


async def patiently_opened(
    stack: AsyncExitStack,
    state: State,
    *,
    domain: str,
    protection: Protection,
    clock: Clock,
    clock_is_right: bool = False,
    prepared: RSAPrivateKey | None = None,
) -> Authority:
    """The same, entered on this stack. Who has it open for a moment is waited for; who keeps it open is StateInUseError."""
    until = clock.monotonic() + PATIENCE_SECONDS
    while True:
        opened = open_authority(
            state.trust, domain=domain, protection=protection, clock=clock, clock_is_right=clock_is_right, prepared=prepared
        )
        try:
            return await stack.enter_async_context(opened)
        except StateInUseError:
            if clock.monotonic() > until:
                raise
            await to_thread.run_sync(_check_no_hub_keeps_it, state)
            await clock.sleep(0.1)


def _check_no_hub_keeps_it(state: State) -> None:
    holder = holder_of(state.hub_lock) or {}
    if holder.get("pid", 0) not in (0, os.getpid()):
        raise StateInUseError(holder["pid"], str(holder.get("url", "")))

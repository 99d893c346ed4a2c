"""`tpmbus tpm serve`, from the socket to the last answer.

The socket is there before the TPM is open: who comes in between waits for an answer, and a second service for the same state
folder sees at once that it is not needed. SIGTERM and SIGINT let what was asked be answered; a second one does not wait.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio

from bus.errors import BusError, TpmError
from bus.policy import Policy
from bus.tpm.caller import Limits
from bus.tpm.interface import TpmEngine
from bus.tpm.permissions import Permissions
from bus.tpm.service import TpmService, raise_descriptor_limit
from bus.transport.unix import listening

READY: Final = b"ready\n"


@dataclass(frozen=True, slots=True)
class Serving:
    """Where to serve, whom, and how long."""

    socket: Path
    policy: Policy
    group: str | None = None
    idle_seconds: float | None = None
    ready_fd: int | None = None
    """Gets one line when the service is ready; then it is closed."""


async def serve(serving: Serving, open_engine: Callable[[], AbstractAsyncContextManager[TpmEngine]]) -> None:
    """Serve until a signal, or until nobody came for so long. Raises what kept it from starting."""
    limits = Limits()
    limits = replace(limits, callers=min(limits.callers, raise_descriptor_limit()))
    running: list[TpmService] = []
    failure: BusError | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(_end_on_signal, signals, running, group.cancel_scope)
            try:
                async with listening(serving.socket, group=serving.group) as listener, open_engine() as engine:
                    with suppress(TpmError):  # the software keystore has none; and nobody but us makes one
                        await engine.attestation_key()
                    service = TpmService(engine, listener, Permissions(os.geteuid(), serving.policy), limits)
                    running.append(service)
                    announce(serving.ready_fd)
                    await service.run(idle_seconds=serving.idle_seconds)
                    notify("STOPPING=1")
            except BusError as error:  # raised below, alone: a task group would wrap it
                failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


def announce(ready_fd: int | None) -> None:
    """Tell who started us: by the descriptor that they gave, and by systemd's protocol."""
    if ready_fd is not None:
        with suppress(OSError):
            os.write(ready_fd, READY)
            os.close(ready_fd)
    notify("READY=1")


def notify(state: str) -> None:
    """sd_notify(3), without a library. Silent where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


async def _end_on_signal(signals: AsyncIterator[signal.Signals], running: list[TpmService], everything: anyio.CancelScope) -> None:
    async for _ in signals:
        if not running:
            everything.cancel()
        for service in running:
            service.stop()
        running.clear()

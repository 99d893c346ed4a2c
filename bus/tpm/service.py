"""The TPM service: one engine for all processes that may use it, over a Unix socket.

The service accepts, counts and ends; `caller` talks to one process, `wire` holds the commands, `permissions` judges, and the
engine signs. It never asks anybody who they are: the kernel says so. Whoever policy does not know hears one line and is out.
"""

from __future__ import annotations

import logging
import resource
from collections import Counter
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from bus.errors import ConnectionLostError
from bus.tpm.answers import Answers
from bus.tpm.caller import Caller, Limits
from bus.tpm.interface import TpmEngine
from bus.tpm.permissions import Permissions
from bus.transport.unix import UnixListener, UnixStream

_log = logging.getLogger(__name__)
RESERVED_DESCRIPTORS: Final = 64
"""For the TPM, the vault, logs and the event loop; the rest may be callers."""


class TpmService:
    """`permissions` may be replaced while it runs: the next request is judged by the new ones."""

    def __init__(self, engine: TpmEngine, listener: UnixListener, permissions: Permissions, limits: Limits | None = None) -> None:
        self.permissions = permissions
        self._listener, self._limits = listener, limits or Limits()
        self._answers = Answers(engine)
        self._callers: set[Caller] = set()
        self._by_uid: Counter[int] = Counter()
        self._accepting = anyio.CancelScope()
        self._changed = anyio.Event()
        self.refused: Counter[str] = Counter()
        """How many were turned away at the door, by reason."""

    @property
    def connected(self) -> int:
        return len(self._callers)

    async def run(self, *, idle_seconds: float | None = None, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`, or until nobody was connected for so long; then let what was asked be answered, and end."""
        async with anyio.create_task_group() as group:
            with self._accepting:
                task_status.started()
                if idle_seconds is not None:
                    group.start_soon(self._stop_when_idle, idle_seconds)
                await self._accept(group)
            with anyio.CancelScope(shield=True):
                await self._listener.aclose()
            self._changed.set()
            for caller in self._callers:
                caller.drain()
            group.cancel_scope.deadline = anyio.current_time() + self._limits.drain_seconds

    def stop(self) -> None:
        self._accepting.cancel()

    async def _accept(self, group: TaskGroup) -> None:
        while True:
            try:
                stream = await self._listener.accept()
            except ConnectionLostError:
                return
            limits = self._limits if self.permissions.owns(stream.peer.uid) else self._limits.of_a_stranger()
            caller = Caller(stream, self._answers, lambda: self.permissions, limits)
            if (reason := self._why_not(stream)) is not None:
                self.refused[reason[0]] += 1
                caller.refuse(*reason)
            else:
                self._callers.add(caller)
                self._by_uid[caller.uid] += 1
                self._changed.set()
                group.start_soon(self._serve, caller)
            await anyio.lowlevel.checkpoint()  # a crowd at the door must not stop those who are in

    def _why_not(self, stream: UnixStream) -> tuple[str, str] | None:
        uid, limits = stream.peer.uid, self._limits
        if not self.permissions.knows(uid):
            return "not_permitted", f"uid {uid} may not use the TPM service: no role of the policy lists it under `uids:`"
        if len(self._callers) >= limits.callers:
            return "busy", f"{limits.callers} callers are connected, and more are not served: try again later"
        if not self.permissions.owns(uid) and self._by_uid[uid] >= limits.callers_of_a_stranger:
            return "busy", f"uid {uid} has {limits.callers_of_a_stranger} connections already: use one for many requests"
        return None

    async def _serve(self, caller: Caller) -> None:
        try:
            await caller.serve()
        finally:
            self._callers.discard(caller)
            self._by_uid[caller.uid] -= 1
            self._changed.set()

    async def _stop_when_idle(self, seconds: float) -> None:
        while not self._accepting.cancel_called:
            self._changed = anyio.Event()
            with anyio.move_on_after(None if self._callers else seconds):
                await self._changed.wait()
                continue
            _log.info("nobody was connected for %s s: ending", seconds)
            self.stop()


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may; gives how many of them callers can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(1, soft - RESERVED_DESCRIPTORS)

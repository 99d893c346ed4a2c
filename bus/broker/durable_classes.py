"""Retention classes as policy has them now, and the backbone following it: before anything is stored by a new policy, and every
minute, so that what is past its time goes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from bus.backbone.classes import class_name, class_within, retention_classes
from bus.backbone.interface import Backbone
from bus.clock import Clock
from bus.errors import BusError
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.frames import MAX_ROWS

EVERY_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 1.0
MAX_TOPICS: Final = 16_384
_log = logging.getLogger("tpmbus.broker")


class Classes:
    """`passed_ms`: an instant that is known to have passed."""

    def __init__(self, backbone: Backbone, snapshot: Snapshot, clock: Clock, *, passed_ms: Callable[[], int]) -> None:
        self._backbone, self._clock, self._passed_ms = backbone, clock, passed_ms
        self._following = anyio.Lock()
        self._wanted = anyio.Event()
        self._of: dict[str, str | None] = {}
        self._done_at = 0.0
        self.follow(snapshot)

    def follow(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._is_followed = False
        self._of.clear()
        self.longest_ms = max((rule.retention_ms for rule in snapshot.policy.topics if rule.is_durable), default=0)
        self._wanted.set()

    def of(self, topic: str) -> str | None:
        """Where messages of this topic are kept; None if they are not."""
        if topic not in self._of:
            if len(self._of) >= MAX_TOPICS:
                self._of.clear()
            rule = self.snapshot.rule(topic)
            self._of[topic] = class_name(rule) if rule.is_durable else None
        return self._of[topic]

    def within(self, pattern: str) -> str:
        """Raises BackboneError: "not_durable", "several_classes"."""
        return class_within(self.snapshot.policy, pattern)

    def records(self, class_: str) -> int:
        """How many an envelope of this class may have."""
        rules = [rule for rule in self.snapshot.policy.topics if rule.is_durable and class_name(rule) == class_]
        return 1 if rules and rules[0].unit == "record" else MAX_ROWS

    async def settled(self) -> None:
        """Return when the backbone keeps what this policy says. Raises BackboneError."""
        if not self._is_followed:
            await self.retain()

    async def retain(self) -> None:
        async with self._following:
            snapshot = self.snapshot
            await self._backbone.retain(retention_classes(snapshot.policy), passed_ms=self._passed_ms())
            self._is_followed = self.snapshot is snapshot
            self._done_at = self._clock.monotonic()

    def tick(self, now: float) -> None:
        if now - self._done_at >= EVERY_SECONDS:
            self._wanted.set()

    async def run(self, afterwards: Callable[[], Awaitable[None]]) -> None:
        """Until it is cancelled. `afterwards` is awaited each time: consumers may have gone with what they read."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            try:
                await self.retain()
                await afterwards()
            except BusError as error:
                _log.warning("what is kept does not follow policy yet: %s", error)
                await self._clock.sleep(RETRY_SECONDS)
                self._wanted.set()

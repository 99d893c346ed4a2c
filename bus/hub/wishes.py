"""What a hub is opened with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bus.clock import Clock
from bus.hub.backbones import NatsServers


@dataclass(frozen=True, slots=True)
class Wishes:
    policy: str | Path
    agents: Mapping[str, str]
    listen: Sequence[str]
    tpm: str | None
    environ: Mapping[str, str]
    clock: Clock
    apart: bool = False
    """Whether the broker runs in a process of its own, which can get at nothing but its own key and the journal."""
    servers: NatsServers | None = None
    """Of NATS, in place of the journal."""

    @property
    def policy_word(self) -> str:
        """As another process takes it: a shipped policy's name, or a path that means the same there."""
        place = Path(self.policy)
        return str(place.absolute()) if isinstance(self.policy, Path) or place.exists() else str(self.policy)

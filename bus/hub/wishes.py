"""What a hub is opened with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

    policy_word: str = ""
    """As another process takes it, once it was `located`: a shipped policy's name, or a path that means the same there."""

    def located(self) -> Wishes:
        """Blocks: it looks whether there is such a file."""
        place = Path(self.policy)
        is_place = isinstance(self.policy, Path) or place.exists()
        return replace(self, policy_word=str(place.absolute() if is_place else self.policy))

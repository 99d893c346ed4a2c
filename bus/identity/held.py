"""What a host has in hand to judge envelopes with: keys of epochs, papers of sessions, what was seen, and what was verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.identity.believe import Believed
from bus.identity.verifier import Verifier
from bus.protocol.epochs import OpenedEpoch
from bus.protocol.replay import Windows


@dataclass(slots=True, eq=False)
class Held:
    verifier: Verifier
    epochs: dict[bytes, OpenedEpoch] = field(default_factory=dict, repr=False)
    """By id."""
    sessions: dict[bytes, Believed] = field(default_factory=dict, repr=False)
    """By id."""
    windows: Windows = field(default_factory=Windows, repr=False)
    opened: int = 0
    """Envelopes that passed."""
    handed_over: int = 0
    """Messages that they brought, each counted for each subscription that got it."""

    def statistics(self) -> Mapping[str, int | float]:
        found: dict[str, int | float] = dict(self.verifier.statistics())
        verified = self.verifier.verifications
        found["opened"] = self.opened
        found["handed_over"] = self.handed_over
        found["hit_rate"] = 1 - verified / self.handed_over if self.handed_over else 0.0
        found["verifications_an_envelope"] = verified / self.opened if self.opened else 0.0
        return found

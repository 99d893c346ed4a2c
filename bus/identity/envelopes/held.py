"""What a host has in hand to judge envelopes with: keys of epochs, papers of sessions, what was seen, and what was verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.verifier import Verifier
from bus.protocol.epochs import OpenedEpoch
from bus.protocol.replay import Room, Windows
from bus.protocol.skew import SKEW_MS


@dataclass(slots=True, eq=False)
class Held:
    verifier: Verifier
    epochs: dict[bytes, OpenedEpoch] = field(default_factory=dict, repr=False)
    """By id."""
    sessions: dict[bytes, Believed] = field(default_factory=dict, repr=False)
    """By id."""
    windows: Windows = field(default_factory=Windows, repr=False)
    room: Room = field(default_factory=Room, repr=False)
    opened: int = 0
    """Envelopes that passed."""
    proved: int = 0
    """Verifications of signatures that they needed; those of certificates, papers and grants do not count here."""
    handed_over: int = 0
    """Messages that they brought, each counted for each subscription that got it; an answer for who had asked."""

    def hears(self, agents: int) -> None:
        """How many agents its own may hear: there is room for so many more epochs."""
        self.room.audible = self.windows.room.audible = agents

    def keep(self, epoch: OpenedEpoch) -> OpenedEpoch:
        """Have this epoch from now on; one that is known stays as it is. Raises VerificationError("too_many_epochs").

        None is ever pushed out by a new one: whoever may make epochs could then silence the others.
        """
        known = self.epochs.get(epoch.id)
        if known is not None:
            return known
        self.room.take(epoch.params.sender, durable=epoch.params.is_durable)
        self.epochs[epoch.id] = epoch
        return epoch

    def forget(self, *, passed_ms: int, longest_ms: int, live_ms: int | None = None) -> None:
        """Let go of what can be accepted no more. `longest_ms`: the longest that an envelope may live after its epoch's end.

        `passed_ms`: nothing is judged by an earlier instant from now on (see `Windows.forget`).
        `live_ms`: the same of live ones. If they stayed as long as durable ones, there would be too many of each sender within
        hours, and what was said weeks ago could still be read by whoever gets hold of this memory.
        """
        self.windows.forget(passed_ms)
        live_ms = longest_ms if live_ms is None else live_ms
        since_ms = passed_ms - SKEW_MS
        ended = [
            one
            for one in self.epochs.values()
            if one.params.ends_ms + (longest_ms if one.params.is_durable else live_ms) < since_ms
        ]
        for epoch in ended:
            del self.epochs[epoch.id]
            self.room.give_back(epoch.params.sender, durable=epoch.params.is_durable)

    def statistics(self) -> Mapping[str, int | float]:
        found: dict[str, int | float] = dict(self.verifier.statistics())
        found["opened"] = self.opened
        found["proved"] = self.proved
        found["handed_over"] = self.handed_over
        found["hit_rate"] = max(1 - self.proved / self.handed_over, 0.0) if self.handed_over else 0.0
        found["verifications_an_envelope"] = self.proved / self.opened if self.opened else 0.0
        return found

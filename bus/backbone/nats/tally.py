"""What a broker counts of its backbone on NATS."""

from __future__ import annotations

from dataclasses import dataclass

from bus.backbone.tally import Tally


@dataclass(slots=True)
class NatsTally(Tally):
    refused: int = 0
    """Messages of NATS that were none of ours: no record, of another topic than was asked for, without what belongs to it."""

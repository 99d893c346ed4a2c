"""What a broker counts, so that every envelope can be accounted for.

received  = admitted + refused
admitted  = routed + unheard + kept            routed: at least one link was to get it; kept: of a durable topic
kept      = stored + not_stored + storing      storing: it waits for the disk at this moment
copies    = delivered + dropped + held         one for each link that was to get one; held: it waits at this moment
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Counts:
    links: int = 0
    """Attached since the start."""
    handshakes: Counter[str] = field(default_factory=Counter)
    """By how they ended: `open`, or why not."""
    turns: int = 0
    turns_of_neighbours: int = 0
    """Of these: what other brokers brought, where their hosts' turn was counted before."""
    received: int = 0
    records: int = 0
    """Of admitted envelopes."""
    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By reason; the peer hears a coarser code."""
    routed: int = 0
    unheard: int = 0
    kept: int = 0
    stored: int = 0
    not_stored: Counter[str] = field(default_factory=Counter)
    """By reason; the publisher was told."""
    passed_over: int = 0
    """Records of durable subscriptions that policy does not let them hear, or that expired before they were read."""
    settled_late: int = 0
    """Acks and the like of subscriptions that had ended."""
    copies: int = 0
    delivered: int = 0
    delivered_records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Copies, by reason."""
    ended: Counter[str] = field(default_factory=Counter)
    """Subscriptions that the broker ended, by reason."""
    cut: Counter[str] = field(default_factory=Counter)
    """Links, by reason."""

    @property
    def held(self) -> int:
        """Copies that wait for credit or for room."""
        return self.copies - self.delivered - self.dropped.total()

    def statistics(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            found[name] = dict(value) if isinstance(value, Counter) else value
        return found

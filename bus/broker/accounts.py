"""How much an agent may have done for it: a stock of steps, some 10 us of a processor each, that serves any honest beginning and
grows slowly. Who has used it up is read again when it has grown.

It is the agent's and not its link's, so that who comes back on another link finds what it left. A link answers for all that comes
on it to the account of the first agent that proved itself there; whoever has the papers of so many agents has so many accounts,
and no more by any number of links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bus.broker.host_link import HostLink

STOCK: Final = 300_000
RATE: Final = 5_000
"""Steps a second: a twentieth of a processor."""
MOST_OWED_SECONDS: Final = 5
"""One frame may cost more than there is. Nobody waits longer than this for it, so that who is slowed down is not taken for gone."""


class Account:
    __slots__ = ("_now", "_weight", "links", "stock")

    def __init__(self, *, now: float, weight: int = 1) -> None:
        """`weight`: so many times what one agent has."""
        self.stock, self._now, self._weight = STOCK * weight, now, weight
        self.links = 0
        """That answer to it."""

    @property
    def is_empty(self) -> bool:
        return self.stock < 0

    @property
    def is_full(self) -> bool:
        return self.stock >= STOCK * self._weight

    def pay(self, steps: int) -> None:
        self.stock = max(self.stock - steps, -MOST_OWED_SECONDS * RATE * self._weight)

    def grow(self, now: float) -> None:
        grown = int((now - self._now) * RATE * self._weight)
        if grown > 0:
            self._now = now
            self.stock = min(STOCK * self._weight, self.stock + grown)


class Accounts:
    """By the names of agents that policy knows. One that is full, and to which no link answers, is as good as none."""

    def __init__(self) -> None:
        self._of: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, agent: str, *, now: float, weight: int = 1) -> Account:
        """For one link more; `lost` says when it is gone."""
        account = self._of.get(agent)
        if account is None:
            account = self._of[agent] = Account(now=now, weight=weight)
        account.links += 1
        return account

    def lost(self, host: HostLink) -> None:
        """What it owes stays."""
        host.intake.account.links -= 1

    def forget(self, now: float) -> None:
        for agent, account in [*self._of.items()]:
            account.grow(now)
            if account.is_full and not account.links:
                del self._of[agent]

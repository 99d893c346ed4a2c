"""When what waits in lanes gathers, and when it leaves.

    not behind    it leaves at once: nobody is waited for, and there is no timer
    behind        more has come to this host than it could work off in a slice. It gathers until that is worked off, or 20 ms are
                  over: an envelope costs its readers nearly the same however many records it has, and those who are here are behind
                  as well. Sealed sooner, it would only wait somewhere else, and then in an envelope of its own
    pressing      a grant, what is urgent, or enough of one lane for an envelope: all leaves, whether the host is behind or not

Looked at by the outbox before each turn, and after each slice of what came: while a host is behind, there is always another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from bus.agent.way import Way
from bus.clock import Clock

GATHER_SECONDS: Final = 0.02
"""Half of it is what a message waits on average: well below what queues cost where nothing gathers."""


class Gathering:
    def __init__(self, ways: Collection[Way], clock: Clock) -> None:
        self._ways, self._clock = ways, clock
        self._since: float | None = None
        self.is_behind: Callable[[], bool] = lambda: False
        """Whether more has come to this host than it could work off at once."""

    @property
    def goes_on(self) -> bool:
        return self._since is not None

    def must_wait(self) -> bool:
        """Whether no turn begins now."""
        if self.is_behind():
            now = self._clock.monotonic()
            if self._since is None:
                self._since = now
            if now - self._since < GATHER_SECONDS and not any(way.is_pressing for way in self._ways):
                return True
        self._since = None
        return False

    def is_over(self) -> None:
        """The link is gone, and nothing is worked off any more."""
        self._since = None

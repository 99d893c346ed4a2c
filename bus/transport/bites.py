"""A crowd at a door is let in a bite at a time, with a rest after each: who is in the kernel's line waits there, and others go on.

One by one is not enough. A process that has somebody to let in at every turn of its loop never sleeps: its links have their turn
in between, but on a machine with few processors those at their other ends wait until the scheduler takes it off. With rests it is
asleep most of the time, however many stand outside.
"""

from __future__ import annotations

from typing import Final

import anyio

BITE: Final = 8
REST_SECONDS: Final = 0.005
"""1,600 callers a second: the whole line of 4,096 is in before the first of them would give up on its handshake (5 s)."""
HANDSHAKES: Final = 2
"""Of TLS, in one bite: one that fails takes half a millisecond, ten times what it costs to let somebody in."""


class Bites:
    """Of one door, of so many each."""

    def __init__(self, size: int = BITE) -> None:
        self._size, self._until, self._left = size, 0.0, 0

    async def one_more(self) -> None:
        """Return when it is the next one's turn; at once, if no crowd is here."""
        if not self._left:
            await anyio.sleep(max(self._until - anyio.current_time(), 0))
            self._until, self._left = anyio.current_time() + REST_SECONDS, self._size
        self._left -= 1

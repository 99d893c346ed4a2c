"""The live table of `tpmbus run`, on a terminal: while the fleet runs, while it ends, and what it was in all.

The last frame stays. Its counts are those of the report, read when all had come to rest, and its rates are of the whole run.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anyio

    from bus.fleet.figures import Figures
    from bus.fleet.running import Fleet

DRAW_SECONDS = 0.5


class Screen:
    """What it shows can be said at any time; where there is no terminal, nobody sees it."""

    def __init__(self, changed: anyio.Event) -> None:
        self._changed = changed
        self._ending = ""
        self._last: Figures | None = None

    def end(self, text: str) -> None:
        """Say beside the figures that it ends, at once."""
        self._ending = text
        self._changed.set()

    def stay(self, figures: Figures) -> None:
        """These are the last figures."""
        self._last = figures
        self._changed.set()

    async def draw(self, fleet: Fleet) -> None:
        """Until it is told to stay."""
        import anyio
        from rich.live import Live

        from bus.fleet.live_table import drawn

        with _on_what_may_be_closed(), Live(auto_refresh=False) as live:
            while self._last is None:
                live.update(drawn(await fleet.figures(), ending=self._ending), refresh=True)
                with anyio.move_on_after(DRAW_SECONDS):
                    await self._changed.wait()
                    self._changed = anyio.Event()
            live.update(drawn(self._last), refresh=True)


@contextmanager
def _on_what_may_be_closed() -> Iterator[None]:
    """A terminal that is gone is no longer drawn on; that it is gone, a signal tells."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


@asynccontextmanager
async def screen(fleet: Fleet, *, is_drawn: bool) -> AsyncIterator[Screen]:
    """Drawn within the block."""
    import anyio

    from bus.hub.household import alone

    shown = Screen(anyio.Event())
    async with alone(), anyio.create_task_group() as tasks:
        if is_drawn:
            tasks.start_soon(shown.draw, fleet)
        try:
            yield shown
        except BaseException:
            tasks.cancel_scope.cancel()
            raise

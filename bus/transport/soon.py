"""Run a function in the next turn of this event loop: so work is gathered, and what one turn leaves, the next does at once.

The function must not raise: there is nobody whom it could tell. Only for the loop's own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token

Soon = Callable[[Callable[[], None]], Any]


def soon(callback: Callable[[], None]) -> None:
    """Once; functions run in the order in which they were given. Raises RuntimeError where no event loop runs."""
    scheduler()(callback)


def scheduler() -> Soon:
    """What `soon` asks in this event loop, for who asks it often."""
    try:
        return asyncio.get_running_loop().call_soon  # asked first: within a callback there is no task that anyio could know by
    except RuntimeError:
        found: Soon = current_token().native_token.run_sync_soon  # type: ignore[attr-defined]  # trio's token, typed as an object
        return found

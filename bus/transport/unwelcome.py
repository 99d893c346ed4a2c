"""Who came and did not become a link, in the log: one line an address and reason a minute, with how often, never a line each."""

from __future__ import annotations

import logging
import socket
from typing import Final

from bus.transport.unix import credentials

LINE_SECONDS: Final = 60.0
MOST: Final = 1_024
"""Addresses and reasons that are remembered; a full table starts anew."""
_log = logging.getLogger(__name__)


class Unwelcome:
    """Of one door. The same address from another port is the same stranger."""

    def __init__(self) -> None:
        self._quiet: dict[tuple[str, str], tuple[float, int]] = {}
        """Until when nothing is said of them, and how often they came since it was."""

    def note(self, url: str, who: str, why: str, *, now: float) -> None:
        until, unsaid = self._quiet.get((who, why), (now, 0))
        if until > now:
            self._quiet[who, why] = until, unsaid + 1
            return
        if len(self._quiet) >= MOST:
            self._quiet.clear()
        self._quiet[who, why] = now + LINE_SECONDS, 0
        _log.warning("%s: hung up on %s: %s%s", url, who, why, f", and {unsaid} times since this was said last" if unsaid else "")


def stranger(accepted: socket.socket) -> str:
    """In words that are the same for all connections of one peer."""
    try:
        if accepted.family == socket.AF_UNIX:
            return f"uid {credentials(accepted).uid}"
        return str(accepted.getpeername()[0])
    except OSError:
        return "somebody who is gone"

"""Who broke a rule is named in the log: one line an offender, offence and minute, with how often, and never a million lines.

An offender is who the transport says is there, not the link: who comes back on another link is the same one. Where it is somebody
else whose doing shows here (who spoiled what is kept), it is named in words that nobody can choose.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from bus.transport.link import Peer

LINE_SECONDS: Final = 60.0
MOST: Final = 1_024
"""Offenders and offences that are remembered; the oldest go."""

_log = logging.getLogger("tpmbus.broker")


@dataclass(slots=True)
class _Offence:
    said_at: float
    count: int = 1
    unsaid: int = 0
    last: str = ""


class Offences:
    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Offence] = {}

    def note(self, who: Peer | str, what: str, detail: str, *, now: float, error: Exception | None = None) -> None:
        """The first is said at once, the next ones of a minute together. `error` is ours, and shown with its traceback."""
        key = (who if isinstance(who, str) else offender(who), what)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = _Offence(now)
            _log.warning("%s: %s (%s)", key[0], what, detail, exc_info=error)
            return
        known.count += 1
        known.unsaid += 1
        known.last = detail

    def statistics(self) -> dict[str, int]:
        """Of those who have not been quiet for a minute."""
        return {f"{who}: {what}": one.count for (who, what), one in self._known.items()}

    def tick(self, now: float) -> None:
        for key, known in [*self._known.items()]:
            if now - known.said_at < LINE_SECONDS:
                continue
            if not known.unsaid:
                del self._known[key]
                continue
            _log.warning("%s: %s, %d times more in the last minute (%s)", *key, known.unsaid, known.last)
            known.said_at, known.unsaid = now, 0


def offender(peer: Peer) -> str:
    """In words that are the same for all links of one peer."""
    if peer.uid is not None:
        return f"{peer.kind} uid {peer.uid}"
    return f"{peer.kind} {peer.address.rpartition(':')[0] or peer.address}"

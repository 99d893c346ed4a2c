"""What was refused, for whoever wants to know: an agent's `refusals()`, and one line in the log an offender and minute.

Nothing here ever stops a reader: whoever forges an envelope must not be able to end somebody's loop.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Final, Literal, NamedTuple, Self

import anyio

from bus.errors import ClosedError, NotPermittedError, RevokedError

_log = logging.getLogger("bus.agent")
KEPT: Final = 1_024
MAX_OFFENDERS: Final = 1_024
QUIET_SECONDS: Final = 60.0
_WORDS: Final[dict[type[BaseException], str]] = {NotPermittedError: "not_permitted", ClosedError: "closed", RevokedError: "revoked"}


class Refusal(NamedTuple):
    direction: Literal["in", "out"]
    """Of what came, or of what was sent."""
    agent: str
    """Who sent it, or says so."""
    topic: str
    reason: str
    id: str


def reason_of(error: BaseException) -> str:
    """The word for it: an error's own reason or code, else what kind it is."""
    own = getattr(error, "reason", None) or getattr(error, "code", None)
    return str(own) if own else _WORDS.get(type(error), type(error).__name__)


class Refusals:
    """The last KEPT of them; how many there were is counted by direction and reason. One reader gets each."""

    def __init__(self, *, is_logged: bool = True) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._kept: deque[Refusal] = deque(maxlen=KEPT)
        self._event: anyio.Event | None = None
        self._is_logged, self._is_open = is_logged, True
        self._quiet: dict[tuple[str, str, str], float] = {}

    def add(self, one: Refusal, *, now: float, error: Exception | None = None) -> None:
        """`now` is of a clock that never runs backwards; `error` is ours or the application's, and shown with its traceback."""
        self.counts[one.direction, one.reason] += 1
        self._kept.append(one)
        self._wake()
        offender = (one.direction, one.agent, one.reason)
        if self._is_logged and self._quiet.get(offender, now) <= now:
            if len(self._quiet) >= MAX_OFFENDERS:
                self._quiet.clear()
            self._quiet[offender] = now + QUIET_SECONDS
            verb = "refused what came from" if one.direction == "in" else "could not send for"
            who, where = one.agent or "somebody", one.topic or "a topic"
            _log.warning("%s %s on %s: %s", verb, who, where, one.reason, exc_info=error)

    def close(self) -> None:
        """Nothing comes any more: who reads hears the rest."""
        self._is_open = False
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Refusal:
        """Each once, as they come; those that came before, too."""
        while not self._kept:
            if not self._is_open:
                raise StopAsyncIteration
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        return self._kept.popleft()

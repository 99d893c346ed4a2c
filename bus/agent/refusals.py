"""What was refused, for whoever wants to know: an agent's `refusals()`, and one line in the log an offender and minute.

Nothing here ever stops a reader: whoever forges an envelope must not be able to end somebody's loop.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final, Literal, NamedTuple

from bus.agent.last_ones import LastOnes
from bus.errors import ClosedError, NotPermittedError, RevokedError
from bus.flow.quiet import Quiet

_log = logging.getLogger("bus.agent")
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


class Refusals(LastOnes[Refusal]):
    """How many there were is counted by direction and reason."""

    def __init__(self, *, is_logged: bool = True) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._is_logged = is_logged
        self._quiet = Quiet()

    def add(self, one: Refusal, *, now: float, error: Exception | None = None) -> None:
        """`now` is of a clock that never runs backwards; `error` is ours or the application's, and shown with its traceback."""
        self.counts[one.direction, one.reason] += 1
        self.keep(one)
        if self._is_logged and self._quiet.may_say(one.direction, one.agent, one.reason, now=now):
            verb = "refused what came from" if one.direction == "in" else "could not send for"
            who, where = one.agent or "somebody", one.topic or "a topic"
            _log.warning("%s %s on %s: %s", verb, who, where, one.reason, exc_info=error)

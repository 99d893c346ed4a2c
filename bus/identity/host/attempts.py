"""Asking the TPM for something in the name of each of many agents: a few at a time, and no longer than it makes sense.

The TPM's queue serves such work last, but nobody for ever. So only a few wait there at a time: those few are all that identity
traffic can ever find before it. One attempt asks for each agent once. What fails is of two kinds. *Passing* troubles are the TPM's
or the statement's, and concern everybody: the attempt stops, and is made again later. All else is the agent's own, and the others
do not wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

import anyio

from bus.clock import Clock
from bus.errors import (
    BusError,
    ClosedError,
    NotPermittedError,
    OverloadedError,
    TpmError,
    TpmUnavailableError,
    TransportError,
    VerificationError,
)

AT_A_TIME: Final = 4
LONGEST_SECONDS: Final = 30.0
"""For one answer. A busy TPM takes a few seconds; one that takes longer hangs."""
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 15.0
LONGEST_REST_SECONDS: Final = 60.0
_PASSING_REASONS: Final = frozenset({"trust_stale", "clock_behind"})

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Outcome(Generic[_Result]):
    """What one attempt gave. Who is in neither was not asked any more, because of the trouble."""

    made: dict[str, _Result] = field(default_factory=dict)
    refused: dict[str, BusError] = field(default_factory=dict)
    trouble: BusError | None = None
    troubled: set[str] = field(default_factory=set)
    """Whom it met."""

    def meets(self, name: str, trouble: BusError) -> None:
        self.trouble = trouble
        self.troubled.add(name)

    @property
    def error(self) -> BusError | None:
        """One of them, if not everybody got what was asked for."""
        return next(iter(self.refused.values()), self.trouble)


async def attempt(
    ask: Callable[[str], Awaitable[_Result]], names: Iterable[str], clock: Clock, *, longest_seconds: float = LONGEST_SECONDS
) -> Outcome[_Result]:
    """Ask for each of them once, until the first passing trouble."""
    outcome, ahead = Outcome[_Result](), iter(names)

    async def work() -> None:
        while outcome.trouble is None and (name := next(ahead, None)) is not None:
            await _ask(ask, name, clock, outcome, longest_seconds)

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_A_TIME):
            tasks.start_soon(work)
    return outcome


async def _ask(
    ask: Callable[[str], Awaitable[_Result]], name: str, clock: Clock, outcome: Outcome[_Result], longest_seconds: float
) -> None:
    try:
        outcome.made[name] = await within(longest_seconds, clock, partial(ask, name))
    except TimeoutError:
        outcome.meets(name, TpmUnavailableError("no_answer", f"the TPM did not answer for {name} in {longest_seconds:.0f} s"))
    except BusError as error:
        if is_passing(error):
            outcome.meets(name, error)
        else:
            outcome.refused[name] = error


def is_passing(error: BusError) -> bool:
    """Whether trying the same again later may help."""
    if isinstance(error, VerificationError):
        return error.reason in _PASSING_REASONS
    return isinstance(error, TpmUnavailableError | OverloadedError | TransportError | ClosedError)


def reason_of(error: BusError) -> str:
    """A stable word for states, logs and metrics."""
    if isinstance(error, TpmError):
        return error.code
    if isinstance(error, VerificationError):
        return error.reason
    words = {NotPermittedError: "not_permitted", OverloadedError: "overloaded", ClosedError: "closed"}
    return words.get(type(error), "unreachable")


def part(random: Callable[[int], bytes]) -> float:
    """A random number from 0 to 1."""
    return int.from_bytes(random(7), "big") / (1 << 56)


@dataclass(slots=True)
class Pauses:
    """Doubling, up to a limit; each a little random, so that those who failed together do not come back together."""

    random: Callable[[int], bytes]
    longest: float = LONGEST_PAUSE_SECONDS
    _next: float = FIRST_PAUSE_SECONDS

    def take(self) -> float:
        pause, self._next = self._next, min(2 * self._next, self.longest)
        return pause * (0.75 + 0.25 * part(self.random))

    def reset(self) -> None:
        self._next = FIRST_PAUSE_SECONDS


async def within(seconds: float, clock: Clock, call: Callable[[], Awaitable[_Result]]) -> _Result:
    """What the call gives. Raises TimeoutError when the clock says that it took longer; it is cancelled then."""
    results: list[_Result] = []
    failures: list[Exception] = []

    async def watch(scope: anyio.CancelScope) -> None:
        await clock.sleep(seconds)
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, tasks.cancel_scope)
        try:
            results.append(await call())
        except Exception as error:  # noqa: BLE001  it goes on below, outside of the group, which would wrap it
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError
    return results[0]

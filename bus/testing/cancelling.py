"""Cancel something at each of its checkpoints, and look what it leaves behind.

    await cancel_everywhere(scenario, hub)

A *checkpoint* is here each time that the scenario, or a task that it started, is about to wait. The scenario runs once to its end.
Then it runs again and is cancelled at its first checkpoint, then again and at its second, until it gets to its end before that.
And all of it once more, but each time one turn of the event loop later, when what it waited for may just have come.

The first run may open what stays open: lanes, keys, connections. After every later one there must be as much as after that one, as
soon as the loop has had a few turns:

    tasks            of the whole event loop
    descriptors      of the whole process
    what is watched  every number of its `statistics()` that tells how much of something there is (`AT_REST`); or all that a
                     function gives. What the scenario itself makes and hands to `watch` must have come to nothing

So the scenario must be one that can run again and again, and leave nothing behind when nobody cancels it.
"""

from __future__ import annotations

import inspect
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import anyio

from bus.testing.steps import counted
from bus.transport.soon import soon

AT_REST: Final = frozenset(
    {
        "agents", "buffered", "credit", "held", "in_flight", "lanes", "links_half_open", "links_open", "missing", "open", "out",
        "outstanding", "parked", "pending", "queued", "subscriptions", "waiting",
    }
)  # fmt: skip
"""What numbers are called, in the statistics of this library, that must come down again: all others only ever grow, or forget."""
MOST_CHECKPOINTS: Final = 5_000
PATIENCE_SECONDS: Final = 30.0
_TURNS: Final = 200
"""Of the event loop, for what ends by itself; the second half of them takes a moment each."""
_QUIET_TURNS: Final = 50
_MOMENT_SECONDS: Final = 0.005
_DESCRIPTORS: Final = 1_024
_NUMBERED: Final = re.compile(r"Task-\d+")


class Watched(Protocol):
    def statistics(self) -> Mapping[str, Any] | Awaitable[Mapping[str, Any]]: ...


Scenario = Callable[..., Awaitable[object]]
Readable = Watched | Callable[[], Mapping[str, Any]]
State = dict[str, object]


class LeftBehindError(AssertionError):
    """Something is left of a scenario, or it did not end as it was told to.

    `checkpoint` is where it was cancelled, 0 if it was not; `left` says what there is, each with what there was before.
    """

    def __init__(self, checkpoint: int, left: Mapping[str, tuple[object, object]]) -> None:
        self.checkpoint, self.left = checkpoint, dict(left)
        when = f"cancelled at checkpoint {checkpoint}" if checkpoint else "not cancelled at all"
        lines = "".join(f"\n  {name}: {now}, and before {before}" for name, (before, now) in self.left.items())
        super().__init__(f"{when}, the scenario leaves something behind:{lines}")


@dataclass(slots=True)
class _Run:
    """The scenario, once."""

    checkpoint: int
    """Where it is to be cancelled; 0: nowhere."""
    later: bool = False
    """One turn of the loop later."""
    steps: int = 0
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None
    watched: list[Readable] = field(default_factory=list)

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.checkpoint:
            # On asyncio who runs cannot be cancelled, so that `cancel` itself takes a turn.
            if self.later:
                soon(partial(soon, self.scope.cancel))
            else:
                self.scope.cancel()

    async def main(self, scenario: Scenario) -> None:
        try:
            with self.scope:
                await (scenario(self.watched.append) if _takes_one(scenario) else scenario())
        except Exception as error:  # noqa: BLE001  it is told with the checkpoint, below
            self.error = error
        finally:
            self.ended.set()


async def cancel_everywhere(
    scenario: Scenario,
    *watched: Readable,
    at_rest: Collection[str] = AT_REST,
    settle: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """How many checkpoints there were. On asyncio, uvloop and trio.

    `scenario()` or `scenario(watch)` is run in a task of its own; `watch(thing)` registers what the scenario made. `watched` are
    things with `statistics()`, awaitable or not, or functions that give numbers; they live on. `settle` is awaited after each
    run, before anybody looks: to turn a clock, for instance. Raises LeftBehindError.
    """
    await _run(_Run(0), scenario, settle)
    rest = await _rest(watched, at_rest)
    counts = []
    for later in (False, True):
        for checkpoint in range(MOST_CHECKPOINTS + 1):
            run = _Run(checkpoint, later)
            await _run(run, scenario, settle)
            if left := await _left(rest, watched, run.watched, at_rest):
                raise LeftBehindError(checkpoint, left)
            if run.steps < checkpoint:
                counts.append(checkpoint - 1)
                break
        else:
            raise ValueError(f"a scenario of more than {MOST_CHECKPOINTS:,} checkpoints: take a shorter one")
    return max(counts)


async def _run(run: _Run, scenario: Scenario, settle: Callable[[], Awaitable[object]] | None) -> None:
    async with anyio.create_task_group() as tasks:
        with counted(run.step) as context:
            context.run(lambda: tasks.start_soon(run.main, scenario, name="a scenario"))
            with anyio.move_on_after(PATIENCE_SECONDS):
                await run.ended.wait()
        is_late = not run.ended.is_set()
        tasks.cancel_scope.cancel()
    if is_late:
        raise LeftBehindError(run.checkpoint, {"the scenario": ("nothing", f"runs on, after {PATIENCE_SECONDS:g} s")})
    if run.error is not None:
        raise LeftBehindError(run.checkpoint, {"an error in place of its end": ("none", repr(run.error))}) from run.error
    if settle is not None:
        await settle()


async def _rest(watched: Collection[Readable], at_rest: Collection[str]) -> State:
    """What there is when nothing has changed for a while."""
    state, since = await _state(watched, at_rest), 0
    for turn in range(_TURNS):
        await _pass(turn)
        now = await _state(watched, at_rest)
        state, since = (state, since + 1) if now == state else (now, 0)
        if since == _QUIET_TURNS:
            break
    return state


async def _left(
    before: State, watched: Collection[Readable], made: Collection[Readable], at_rest: Collection[str]
) -> dict[str, tuple[object, object]]:
    """What is not as it was, after the loop had its turns; what ends over a socket also gets a moment of time."""
    left: dict[str, tuple[object, object]] = {}
    for turn in range(_TURNS):
        after = await _state(watched, at_rest)
        left = {name: (before.get(name, 0), value) for name, value in after.items() if before.get(name, 0) != value}
        left |= {f"made by it: {name}": (0, value) for name, value in (await _numbers(made, at_rest)).items() if value}
        if not left:
            break
        await _pass(turn)
    return left


async def _pass(turn: int) -> None:
    await anyio.sleep(0 if turn < _TURNS // 2 else _MOMENT_SECONDS)


async def _state(watched: Collection[Readable], at_rest: Collection[str]) -> State:
    """Tasks by what they run: one that ends and is begun again, as some are every few seconds, is no other one."""
    tasks = Counter(f"tasks in {_work_of(task)}" for task in anyio.get_running_tasks())
    return {**tasks, **{f"descriptor {number}": 1 for number in _descriptors()}, **await _numbers(watched, at_rest)}


def _work_of(task: anyio.TaskInfo) -> str:
    """asyncio numbers those that nobody gave a name."""
    name = task.name or "Task-0"
    return str(getattr(task.coro, "__qualname__", "?")) if _NUMBERED.fullmatch(name) else name


async def _numbers(watched: Collection[Readable], at_rest: Collection[str]) -> State:
    found: State = {}
    for place, thing in enumerate(watched):
        whole = callable(thing)
        answer = thing() if callable(thing) else thing.statistics()
        reading = await answer if isinstance(answer, Awaitable) else answer
        name = f"{type(thing).__name__} {place}" if len(watched) > 1 else type(thing).__name__
        found |= {path: value for path, leaf, value in _flat(reading, name) if whole or leaf in at_rest}
    return found


def _flat(reading: Mapping[str, Any], above: str) -> Iterator[tuple[str, str, Any]]:
    """Every number, with its path, and the last name of that."""
    for name, value in reading.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}.{name}")
        elif isinstance(value, int | float):
            yield f"{above}.{name}", name, value


def _descriptors() -> Iterator[int]:
    """Asked one by one: to list a folder would block the loop."""
    for number in range(_DESCRIPTORS):
        try:
            os.fstat(number)
        except OSError:
            continue
        yield number


def _takes_one(scenario: Scenario) -> bool:
    return bool(inspect.signature(scenario).parameters)

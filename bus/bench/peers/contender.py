"""What a bus must be able to do to take part, and what is said of it beside its figures.

A contender is a value: a few functions that open something, and words. A function that it has not (None) is a workload that it
cannot do. All of them run in worker processes on asyncio, which three of the buses insist on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

from bus.bench.programs import program

Address = dict[str, Any]
"""Where the others are, as `serve` says it: `folder` (of this contender), `run` (a name no other run has), `readers` (how many),
and what else a server gives. `pids` are processes that serve beside its worker."""
Take = Callable[[bytes], None]
Send = Callable[[Iterable[bytes]], Awaitable[None]]
"""Bodies are made while they are taken."""
Ask = Callable[[bytes], Awaitable[bytes]]

Serve = Callable[[Address], AbstractAsyncContextManager[Address]]
Read = Callable[[Address, Sequence[Take]], AbstractAsyncContextManager[None]]
"""One reader for each `Take`. Whoever has entered it gets everything that is sent from then on."""
Sender = Callable[[Address], AbstractAsyncContextManager[Send]]
Answer = Callable[[Address], AbstractAsyncContextManager[None]]
"""Gives each request back."""
Asker = Callable[[Address], AbstractAsyncContextManager[Ask]]

WORKLOADS: Final[Mapping[str, str]] = {
    "1to1": "one sender, one reader, as fast as the reader takes it in",
    "reqrep": "request and reply, one at a time",
    "1to75": "one sender and 75 readers in one process",
    "durable": "stored before it is acknowledged, 500 in flight, read and acknowledged by the reader",
}
FAN_OUT: Final = 75


@dataclass(frozen=True, slots=True)
class Secured:
    """What is true of a message that a reader has got, as this contender was configured, in a few words; "no" where nothing is."""

    signed: str
    """By its sender, so that the reader knows who said it."""
    encrypted: str
    """End to end: who is in between cannot read it."""
    tpm: str
    """Whether keys are in a TPM."""
    policy: str
    """Who may publish and read what."""
    loss: str
    """Whether readers see loss, or are spared it."""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    title: str
    secured: Secured
    uses: str
    """Which calls are measured, and over what."""
    install: str
    """What somebody does who lacks it."""
    modules: tuple[str, ...] = ()
    """That must be importable; the first is the client."""
    programs: tuple[str, ...] = ()
    distribution: str = "tpmbus"
    window: int = 32_768
    """Messages that may be under way when it is asked for its most; a thirty-second part is sent between two looks at that."""
    alone: bool = False
    """It has no processes: sender and reader share one."""
    serve: Serve | None = None
    read: Read | None = None
    send: Sender | None = None
    answer: Answer | None = None
    ask: Asker | None = None
    read_kept: Read | None = None
    send_kept: Sender | None = None
    cannot: Mapping[str, str] = field(default_factory=dict)
    """Workloads that it is not asked for, and why."""

    def can(self, workload: str) -> bool:
        able = {
            "1to1": self.read and self.send,
            "reqrep": self.answer and self.ask,
            "1to75": self.read and self.send,
            "durable": self.read_kept and self.send_kept,
        }
        return workload not in self.cannot and able[workload] is not None

    def lacking(self) -> list[str]:
        """What is not installed here."""
        modules = [name for name in self.modules if find_spec(name) is None]
        return modules + [name for name in self.programs if program(name) is None]

    def version(self) -> str:
        return metadata.version(self.distribution)

"""What the agents of a role do: one file for each role, loaded by its path.

A file of handlers is a program of its own that knows `bus` and nothing else of us: it has `handlers(agent)`, which gives what this
agent listens to, and perhaps `beat(agent, number)`, which is called every `every_seconds`. None is imported as part of a package:
`agents` is the import name of others. Nothing is written beside the file. A role without a file has agents that only are there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import anyio

from bus.clock import Clock
from bus.errors import BusError

_log = logging.getLogger(__name__)
_PREFIX: Final = "tpmbus_handlers_"


class HandlerFileError(ValueError):
    """A file of handlers cannot be used; `__cause__` is what it raised, if it did."""


@dataclass(frozen=True, slots=True)
class RoleHandlers:
    """One file, loaded: its state is shared by the agents of the role in this process."""

    handlers: Callable[[Any], Any]
    beat: Callable[[Any, int], Awaitable[None]] | None
    every_seconds: float

    async def keep_beating(
        self, agent: Any, clock: Clock, pausing: Callable[[], AbstractContextManager[anyio.CancelScope]]
    ) -> None:
        """Until one of its pauses is cancelled; a beat is not. One that fails is logged, and the next one comes."""
        if self.beat is None:
            return
        number = 0
        while True:
            with pausing() as pause:
                await clock.sleep(self.every_seconds)
            if pause.cancel_called:
                return
            number += 1
            try:
                await self.beat(agent, number)
            except BusError as error:
                _log.warning("%s missed its beat %d: %s", agent.name, number, error)


def load_handlers(folder: Path) -> dict[str, RoleHandlers]:
    """All files of a folder by role, which is the name of the file. Raises HandlerFileError."""
    return {file.stem: _load(file) for file in sorted(folder.glob("*.py"))}


def _load(file: Path) -> RoleHandlers:
    name = _PREFIX + file.stem
    loader = _Loader(name, str(file))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(file)))
    try:
        loader.exec_module(module)
    except Exception as error:
        raise HandlerFileError(f"{file} cannot be loaded: {error!r}") from error
    return _checked(module, file)


def _checked(module: ModuleType, file: Path) -> RoleHandlers:
    handlers, beat, every = (getattr(module, name, None) for name in ("handlers", "beat", "every_seconds"))
    if not callable(handlers):
        raise HandlerFileError(f"{file} has no function `handlers(agent)`, which gives what an agent listens to")
    if (beat is None) != (every is None) or (every is not None and not (isinstance(every, int | float) and every > 0)):
        raise HandlerFileError(f"{file} needs both or neither: `async def beat(agent, number)`, and `every_seconds` above 0")
    return RoleHandlers(handlers, beat, float(every or 0))


class _Loader(SourceFileLoader):
    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Writes no bytecode: the folder is the user's, or the package's."""

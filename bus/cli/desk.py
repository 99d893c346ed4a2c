"""How commands ask the running hub of a state folder: over its admin socket, which only its own user can open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from bus.cli.loop import Stopped, run, until_stopped

_asked: list[str] = []
"""By the command that runs."""


@contextmanager
def one_command() -> Iterator[list[str]]:
    """Gives what its hub was asked by then."""
    _asked.clear()
    yield _asked


def runs(state: Path | None) -> bool:
    """Whether a hub has this state folder: then its authority is asked there, and opened nowhere else."""
    from bus.hub.state import holder_of, open_state

    return holder_of(open_state(state).hub_lock) is not None


def ask(state: Path | None, verb: str, **arguments: Any) -> Any:
    """What the hub answers. Raises its error, and ConnectError where none runs."""
    from bus.hub import admin
    from bus.hub.state import open_state

    socket = open_state(state).admin_socket

    async def answer() -> Any:
        return await admin.ask(socket, verb, **arguments)

    found = run(answer)
    _asked.append(verb)
    return found


def watch(state: Path | None, verb: str, show: Callable[[Any], bool], **arguments: Any) -> Stopped:
    """Show what the hub tells, item by item, until `show` has seen enough or a signal comes."""
    from bus.hub import admin
    from bus.hub.state import open_state

    socket = open_state(state).admin_socket

    async def follow() -> Stopped:
        async with until_stopped() as stopped, aclosing(admin.watch(socket, verb, **arguments)) as items:
            _asked.append(verb)
            async for item in items:
                if not show(item):
                    break
        return stopped

    return run(follow)

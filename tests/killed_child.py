"""For programs that play being killed: work in a child, which dies at a given moment at which it touches the disk.

Such a program never has threads itself, so it may fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio._backends._asyncio

TOUCHES = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "fcntl.flock"})


def in_a_child(
    work: Callable[[], Awaitable[Any]], *, killed_at: int = 0, folder: Path = Path(), touches: frozenset[str] = TOUCHES
) -> Any:
    """Run it in a process of its own, which may be killed at this moment. Gives what it gave, or None if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        left = killed_at

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if left and event in touches and (event == "fcntl.flock" or str(folder) in str(arguments[0])):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            os.write(write, json.dumps(anyio.run(work)).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001  it must not go on as if it were its parent
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    assert os.WEXITSTATUS(status) == 0, "it failed instead of being killed"
    return json.loads(answer)

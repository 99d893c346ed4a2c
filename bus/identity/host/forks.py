"""What must not live on in a forked child: this process's host keys, and its epochs that can seal.

A child begins with a copy of its parent's memory. If both went on, both would seal different bytes under one number of one key,
which tells whoever watches the difference of the two plaintexts, and both would sign as one host. So in the child everything that
is registered here is retired before any other line of Python runs there: using it then is a LocalProtocolError, and the child
opens its own agents if it wants any. `subprocess` is not concerned: it runs another program.

References are weak; to be registered keeps nothing alive. A fork that some C library does behind Python's back is not seen.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Final, Protocol, TypeVar
from weakref import WeakSet


class Retirable(Protocol):
    def retire(self) -> None:
        """Give up every secret. Must not wait, and can be done twice."""


_Kept = TypeVar("_Kept", bound=Retirable)
_registered: Final[WeakSet[Retirable]] = WeakSet()


def retired_in_a_child(thing: _Kept) -> _Kept:
    """Register it, and give it back."""
    _registered.add(thing)
    return thing


def _retire_all() -> None:
    with ExitStack() as stack:  # one that fails must not save the others
        for thing in list(_registered):
            stack.callback(thing.retire)


os.register_at_fork(after_in_child=_retire_all)

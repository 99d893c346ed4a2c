"""The few places that a TPM has for loaded keys, and who sits in them.

First level: keys that are loaded, the least recently used one leaves first. Second level: contexts that the TPM saved for us,
restored some four times faster than a key is loaded. A wrapped key is the truth; a context is a cache that dies when the TPM
starts anew.

Loading through a persistent parent needs a place for the parent as well (libtpms copies it in for the length of the command),
restoring a context does not. So before a load one more must be free than before a restore: with libtpms' three places, two
loaded keys can stay beside a load, and three after a restore.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Handle = TypeVar("Handle")
Context = TypeVar("Context")


@dataclass(frozen=True, slots=True)
class Moves(Generic[Handle, Context]):
    """What the TPM does for us."""

    save: Callable[[Handle], Context]
    restore: Callable[[Context], Handle]
    flush: Callable[[Handle], None]


@dataclass(slots=True)
class Slots(Generic[Key, Handle, Context]):
    moves: Moves[Handle, Context]
    places: int
    max_contexts: int = 256
    hits: int = 0
    restores: int = 0
    loads: int = 0
    evictions: int = 0
    loaded: OrderedDict[Key, Handle] = field(default_factory=OrderedDict)
    contexts: OrderedDict[Key, Context] = field(default_factory=OrderedDict)

    def get(self, key: Key, load: Callable[[], Handle], *, beside: int = 0) -> Handle:
        """The handle of this key, now the most recently used, with `beside` places left free for what the next command needs."""
        handle = self.loaded.get(key)
        if handle is not None:
            self.loaded.move_to_end(key)
            self.hits += 1
            self._make_room(beside, keep=key)
            return handle
        context = self.contexts.get(key)
        if context is not None:
            self.contexts.move_to_end(key)
            self._make_room(1 + beside)
            handle = self.moves.restore(context)
            self.restores += 1
        else:
            self._make_room(2 + max(beside - 1, 0))
            handle = load()
            self.loads += 1
        self.loaded[key] = handle
        return handle

    def make_room(self, places: int) -> None:
        """Free this many places, for a command that needs them itself."""
        self._make_room(places)

    def drop(self, key: Key) -> None:
        """Forget a key: it was rotated away, or its context turned out stale."""
        self.contexts.pop(key, None)
        handle = self.loaded.pop(key, None)
        if handle is not None:
            self.moves.flush(handle)

    def forget_all(self) -> None:
        """The TPM started anew: handles and contexts are void, and nothing is left to flush."""
        self.loaded.clear()
        self.contexts.clear()

    def flush_all(self) -> None:
        """Leave the TPM as it was found."""
        while self.loaded:
            _, handle = self.loaded.popitem()
            self.moves.flush(handle)

    def _make_room(self, places: int, *, keep: Key | None = None) -> None:
        while len(self.loaded) > max(self.places - places, 0):
            oldest = next(iter(self.loaded))
            if oldest == keep:
                return
            handle = self.loaded.pop(oldest)
            self._remember(oldest, handle)
            self.moves.flush(handle)
            self.evictions += 1

    def _remember(self, key: Key, handle: Handle) -> None:
        if key in self.contexts:
            return
        self.contexts[key] = self.moves.save(handle)
        while len(self.contexts) > self.max_contexts:
            self.contexts.popitem(last=False)

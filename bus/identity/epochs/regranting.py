"""Durable epochs of the agents of this host that seal no more, to be granted to those who ask.

A sealing epoch dies with its process, and messages under it wait for weeks. So its agent seals one grant to its own inbox key,
with the names of the audience. A later session of the same agent opens it, and can then do one thing with it: grant it again. What
it may not do is seal, or grant what another agent sealed. Epochs of this process come here as they are when they end.

Nothing here stops replays, so the oldest may go: a self-grant can be brought again by whoever stores it.
"""

from __future__ import annotations

from typing import Final

from bus.identity.envelopes.granting import Granted
from bus.identity.epochs.entitled import Grantable
from bus.identity.host.forks import retired_in_a_child
from bus.protocol.audience import digest
from bus.protocol.expiry import Expiry

MAX_KEPT: Final = 1_024


class Regranting:
    def __init__(self) -> None:
        self._kept: dict[bytes, Grantable] = {}
        self._expiry = Expiry()
        retired_in_a_child(self)

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, granted: Granted, *, until_ms: int) -> bool:
        """Keep a self-grant until then; False if it is none, or its names are not those of the epoch's audience."""
        params = granted.epoch.params
        if granted.reader != params.sender or not params.is_durable or digest(granted.names) != params.audience:
            return False
        if granted.epoch.id not in self._kept:
            self.keep(Grantable(granted.epoch, granted.secret, granted.names), until_ms=until_ms)
        return True

    def keep(self, grantable: Grantable, *, until_ms: int) -> None:
        """One that was sealed with in this process. It knows what it was used for, so it takes the place of its self-grant."""
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[grantable.epoch.id] = grantable
        self._expiry.keep(grantable.epoch.id, until_ms=until_ms)

    def find(self, epoch_id: bytes) -> Grantable | None:
        return self._kept.get(epoch_id)

    def close(self, sender: str) -> None:
        """This agent has closed."""
        for epoch_id in [epoch_id for epoch_id, one in self._kept.items() if one.epoch.params.sender == sender]:
            del self._kept[epoch_id]

    def forget(self, now_ms: int) -> None:
        for epoch_id in self._expiry.take_expired(now_ms):
            self._kept.pop(epoch_id, None)

    def retire(self) -> None:
        for one in self._kept.values():
            one.secret = b""
        self._kept.clear()

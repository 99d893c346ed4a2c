"""The authority that the hub's tests share: made once, and opened as its protection wants it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from bus.hub.state import State
from bus.identity.authority import Authority, Passphrase, open_authority
from bus.testing import ManualClock

PASSPHRASE = Passphrase("correct horse", log_n=10)
DOMAIN = "tpmbus.test"


def opened(state: State, clock: ManualClock) -> AbstractAsyncContextManager[Authority]:
    return open_authority(state.trust, domain=DOMAIN, protection=PASSPHRASE, clock=clock, clock_is_right=True)

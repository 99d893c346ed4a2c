"""tpmbus: the message bus for fleets of software agents whose keys live in a TPM.

The public names are here and imported on first use, so that `import bus` is quick and needs no TPM library.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bus.errors import BusError as BusError

_PLACES = {
    "BusError": "bus.errors",
    "PolicyError": "bus.errors",
    "NotPermittedError": "bus.errors",
    "ProtocolError": "bus.errors",
    "LocalProtocolError": "bus.errors",
    "RemoteProtocolError": "bus.errors",
    "VerificationError": "bus.errors",
    "AttestationError": "bus.errors",
    "TpmError": "bus.errors",
    "TpmUnavailableError": "bus.errors",
    "TpmRefusedError": "bus.errors",
    "VaultError": "bus.errors",
    "OverloadedError": "bus.errors",
    "MessageTooLargeError": "bus.errors",
    "StateInUseError": "bus.errors",
    "ClosedError": "bus.errors",
}

__all__ = list(_PLACES)

try:
    __version__ = version("tpmbus")
except PackageNotFoundError:  # a bare checkout, not installed
    __version__ = "0"


def __getattr__(name: str) -> Any:
    try:
        place = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module 'bus' has no attribute {name!r}") from None
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

"""tpmbus: the message bus for fleets of software agents whose keys live in a TPM.

The public names are here and imported on first use, so that `import bus` is quick and needs no TPM library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which do not run `__getattr__`
    from bus.agent.agent import Agent
    from bus.agent.events import Connected, Disconnected, Missed, PolicyChanged, Renewed
    from bus.agent.handlers import Handlers
    from bus.agent.hooks import HookContext, Hooks
    from bus.agent.message import Message
    from bus.agent.receipts import Receipt
    from bus.agent.record import Record
    from bus.agent.refusals import Refusal
    from bus.agent.subscription import Subscription
    from bus.agent.tracing import trace_context
    from bus.errors import (
        AttestationError,
        BackboneError,
        BusError,
        ClosedError,
        ConnectError,
        ConnectionLostError,
        Drop,
        LocalProtocolError,
        MessageTooLargeError,
        NoRespondersError,
        NotPermittedError,
        OverloadedError,
        PolicyError,
        ProtocolError,
        RemoteProtocolError,
        RequestError,
        RequestFailedError,
        RequestTimeoutError,
        RevokedError,
        SessionEndedError,
        SessionReplacedError,
        SlowReaderError,
        StateInUseError,
        TpmError,
        TpmRefusedError,
        TpmUnavailableError,
        TransportError,
        TrustStaleError,
        VaultError,
        VerificationError,
    )
    from bus.hub.hub import Hub
    from bus.hub.open import connect, open  # noqa: A004  as people call it: bus.open

    __version__: str

__all__ = [
    "Agent",
    "AttestationError",
    "BackboneError",
    "BusError",
    "ClosedError",
    "ConnectError",
    "Connected",
    "ConnectionLostError",
    "Disconnected",
    "Drop",
    "Handlers",
    "HookContext",
    "Hooks",
    "Hub",
    "LocalProtocolError",
    "Message",
    "MessageTooLargeError",
    "Missed",
    "NoRespondersError",
    "NotPermittedError",
    "OverloadedError",
    "PolicyChanged",
    "PolicyError",
    "ProtocolError",
    "Receipt",
    "Record",
    "Refusal",
    "RemoteProtocolError",
    "Renewed",
    "RequestError",
    "RequestFailedError",
    "RequestTimeoutError",
    "RevokedError",
    "SessionEndedError",
    "SessionReplacedError",
    "SlowReaderError",
    "StateInUseError",
    "Subscription",
    "TpmError",
    "TpmRefusedError",
    "TpmUnavailableError",
    "TransportError",
    "TrustStaleError",
    "VaultError",
    "VerificationError",
    "connect",
    "open",
    "trace_context",
]
_ELSEWHERE = {
    "Agent": "bus.agent.agent",
    "Connected": "bus.agent.events",
    "Disconnected": "bus.agent.events",
    "Handlers": "bus.agent.handlers",
    "HookContext": "bus.agent.hooks",
    "Hooks": "bus.agent.hooks",
    "Hub": "bus.hub.hub",
    "Message": "bus.agent.message",
    "Missed": "bus.agent.events",
    "PolicyChanged": "bus.agent.events",
    "Receipt": "bus.agent.receipts",
    "Record": "bus.agent.record",
    "Refusal": "bus.agent.refusals",
    "Renewed": "bus.agent.events",
    "Subscription": "bus.agent.subscription",
    "connect": "bus.hub.open",
    "open": "bus.hub.open",
    "trace_context": "bus.agent.tracing",
}
_PLACES = dict.fromkeys(__all__, "bus.errors") | _ELSEWHERE


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    try:
        place = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module 'bus' has no attribute {name!r}") from None
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def _version() -> str:
    """Looked up when it is asked for: what finds it costs more than all that is here."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  as said above

    try:
        return version("tpmbus")
    except PackageNotFoundError:  # a bare checkout, not installed
        return "0"


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES, "__version__"])

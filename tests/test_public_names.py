"""What is public is exactly what these lists say. A change here is a change for users: it needs its line in the changelog."""

from __future__ import annotations

import bus
import bus.testing
from bus import errors

ERRORS = [
    "AttestationError",
    "BackboneError",
    "BusError",
    "ClosedError",
    "ConnectError",
    "ConnectionLostError",
    "Drop",
    "LocalProtocolError",
    "MessageTooLargeError",
    "NoRespondersError",
    "NotPermittedError",
    "OverloadedError",
    "PolicyError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "RequestFailedError",
    "RequestTimeoutError",
    "RevokedError",
    "SessionEndedError",
    "SessionReplacedError",
    "SlowReaderError",
    "StateInUseError",
    "TpmError",
    "TpmRefusedError",
    "TpmUnavailableError",
    "TransportError",
    "TrustStaleError",
    "VaultError",
    "VerificationError",
]

AGENTS = ["Agent", "Handlers", "HookContext", "Hooks", "Message", "Receipt", "Record", "Refusal", "Subscription", "trace_context"]
EVENTS = ["Connected", "Disconnected", "Missed", "PolicyChanged", "Renewed"]

BUS = [*ERRORS, *AGENTS, *EVENTS, "Hub", "connect", "open"]

TESTING = [
    "FakeTpm",
    "InlineEngine",
    "LeftBehindError",
    "ManualClock",
    "SlowTpm",
    "cancel_everywhere",
    "check_backbone",
    "check_link",
    "check_tpm",
    "open",
]


def test_the_names_of_bus():
    assert sorted(bus.__all__) == sorted(BUS)


def test_the_names_of_bus_errors():
    public = {name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == "bus.errors"}
    assert sorted(public) == sorted([*ERRORS, "Problem"])


def test_the_names_of_bus_testing():
    assert sorted(bus.testing.__all__) == sorted(TESTING)
    for name in bus.testing.__all__:
        assert getattr(bus.testing, name) is not None


def test_a_star_import_gives_the_public_names():
    names: dict[str, object] = {}
    exec("from bus import *", names)
    assert set(BUS) <= set(names)

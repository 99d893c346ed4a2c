"""Errors of the TPM service: what a caller is told, and what the library makes of it at the other end.

    {"error": {"code": "unknown_key", "kind": "refused", "message": "..", "details": {..}}}

`code` is stable and what programs look at. `kind` names the class, so that a program that uses the service through the library
sees the very errors that it would see without it. Callers of another uid are told the code and no more: messages name paths
and what else is on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bus.errors import (
    ClosedError,
    LocalProtocolError,
    NotPermittedError,
    OverloadedError,
    RemoteProtocolError,
    TpmError,
    TpmRefusedError,
    TpmUnavailableError,
    VaultError,
)
from bus.tpm.fields import WrongFieldError

FATAL: Final = frozenset({"malformed", "line_too_long", "line_timeout", "busy"})
"""After these the service closes the connection: it cannot tell where the next request begins, or will not hear it."""


_ABOUT_THE_REQUEST: Final = frozenset({"protocol", "value", "not_permitted"})


@dataclass(frozen=True, slots=True)
class Fault:
    """An error on its way."""

    code: str
    kind: str
    message: str
    details: Mapping[str, Any]

    def document(self, *, brief: bool) -> dict[str, Any]:
        """As JSON has it; brief for callers of another uid, unless it speaks of nothing but their own request."""
        if brief and self.kind not in _ABOUT_THE_REQUEST:
            return {"code": self.code, "kind": self.kind, "message": self.code.replace("_", " ")}
        document: dict[str, Any] = {"code": self.code, "kind": self.kind, "message": self.message}
        if self.details:
            document["details"] = dict(self.details)
        return document


def fault_of(error: Exception) -> Fault | None:
    """What to tell a caller; None for what should not have happened."""
    return next((tell(error) for kind, tell in _TELLERS if isinstance(error, kind)), None)


def _tpm_fault(error: TpmError) -> Fault:
    kind = "unavailable" if isinstance(error, TpmUnavailableError) else "refused"
    message = str(error.args[0] if error.args else error.code)
    details = _which(error)
    if error.rc is None:
        return Fault(error.code, kind, message, details)
    return Fault(error.code, kind, message.removesuffix(f" (TPM response 0x{error.rc:x})"), {"rc": error.rc, **details})


def _which(error: TpmError) -> dict[str, str]:
    return {"tpm": error.tpm} if error.tpm else {}


def _not_permitted_fault(error: NotPermittedError) -> Fault:
    details = {"agent": error.agent, "action": error.action, "rule": error.rule}
    return Fault("not_permitted", "not_permitted", str(error), details)


def _overloaded_fault(error: OverloadedError) -> Fault:
    details = {"queue": error.queue, "pending": error.pending, "limit": error.limit}
    return Fault("overloaded", "overloaded", str(error), details)


_TELLERS: Final[tuple[tuple[type[Exception], Callable[[Any], Fault]], ...]] = (
    (VaultError, lambda error: Fault(error.code, "vault", str(error), {"path": error.path, **_which(error)})),
    (TpmError, _tpm_fault),
    (NotPermittedError, _not_permitted_fault),
    (OverloadedError, _overloaded_fault),
    (ClosedError, lambda error: Fault("closed", "closed", str(error), {})),
    (RemoteProtocolError, lambda error: Fault(error.reason, "protocol", str(error).removeprefix(f"{error.reason}: "), {})),
    (WrongFieldError, lambda error: Fault(error.code, "value", str(error), {})),
    (ValueError, lambda error: Fault("invalid_value", "value", str(error), {})),
)
"""From the special to the general: the first that fits."""

INTERNAL: Final = Fault("internal", "refused", "the service made a mistake; its log says which", {})


def error_from(document: Any) -> Exception:
    """The error that a service answered with. Raises RemoteProtocolError("malformed") if it is none."""
    try:
        code, kind, message = (_text(document[name]) for name in ("code", "kind", "message"))
        details = document.get("details", {})
        return _MAKERS[kind](code, message, details)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteProtocolError("malformed", "the TPM service answered with an error that is none of its own") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("no whole number")
    return value


def _rc(details: Mapping[str, Any]) -> int | None:
    return _whole(details["rc"]) if "rc" in details else None


def _tpm(details: Mapping[str, Any]) -> str:
    return _text(details.get("tpm", ""))


_MAKERS: Final[Mapping[str, Callable[[str, str, Mapping[str, Any]], Exception]]] = {
    "unavailable": lambda code, message, details: TpmUnavailableError(code, message, rc=_rc(details), tpm=_tpm(details)),
    "refused": lambda code, message, details: TpmRefusedError(code, message, rc=_rc(details), tpm=_tpm(details)),
    "vault": lambda code, message, details: VaultError(code, message, path=_text(details.get("path", "")), tpm=_tpm(details)),
    "not_permitted": lambda _, message, details: NotPermittedError(
        _text(details.get("agent", "this user")), _text(details.get("action", "do this")), _text(details.get("rule", message))
    ),
    "overloaded": lambda _, __, details: OverloadedError(
        _text(details.get("queue", "the TPM's queue")),
        pending=_whole(details.get("pending", 0)),
        limit=_whole(details.get("limit", 0)),
    ),
    "closed": lambda _, message, __: ClosedError(message),
    "protocol": lambda code, message, __: LocalProtocolError(f"the TPM service says {code}: {message}"),
    "value": lambda _, message, __: ValueError(message),
}

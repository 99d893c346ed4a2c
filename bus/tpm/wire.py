"""The TPM service's commands: what each takes and what it gives, for both ends of the socket.

    -> {"command": "signMany", "id": 7, "key": "MONITOR", "purpose": "session", "contents": ["q83v.."]}
    <- {"id": 7, "batches": [{"suite": "ecc256/sha256", "signer": "..", "count": 1, "signature": "..", "proofs": [[0, ""]]}]}
    <- {"id": 7, "error": {"code": "unknown_key", "kind": "refused", "message": ".."}}

One JSON object a line, in UTF-8, and nothing that two readers could read differently: no duplicate names, no fractions in
requests, no NaN, no field that the command does not have. An `id` (a whole number or a short text) comes back with the
answer, and answers come in any order. The bytes of a TPM structure are base64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bus.errors import RemoteProtocolError
from bus.tpm import values
from bus.tpm.fields import FLAG, MAX_INTEGER, Shape, WrongFieldError, decode_fields, encode_fields, integer, optional

VERSION: Final = 1
MAX_REQUEST_BYTES: Final = 1_000_000
MAX_ANSWER_BYTES: Final = 4_000_000
MAX_ID_LENGTH: Final = 64
KEYS_IN_A_PAGE: Final = 100
_MAX_DIGITS: Final = 17

RequestId = int | str | None


@dataclass(frozen=True, slots=True)
class Command:
    """`twice` says whether it may be done again when nobody knows if it was done."""

    request: Shape = field(default_factory=dict)
    answer: Shape = field(default_factory=dict)
    twice: bool = True


_BESIDE: Final[Shape] = {"beside": optional(values.KEY)}
"""A key: the TPM in which it lives is asked. Without it, the first."""
_ATTESTED: Final[Shape] = {"attest": values.BYTES, "signature": values.BYTES}

COMMANDS: Final[Mapping[str, Command]] = {
    "ping": Command(answer={"version": integer(VERSION, VERSION)}),
    "getEK": Command(_BESIDE, {"ek_public": values.BYTES, "ek_cert": values.BYTES}),
    "getAttestationData": Command(_BESIDE, {"ek_pub": values.BYTES, "ek_cert": values.BYTES, "aik_name": values.BYTES}),
    "activateCredential": Command(
        {
            **_BESIDE,
            "credential_blob": optional(values.CREDENTIAL),
            "hmac": optional(values.QUALIFYING),
            "enc": optional(values.BYTES),
            "encrypted_secret": values.SECRET,
        },
        {"decrypted_secret": values.BYTES},
    ),
    "endorsement": Command(_BESIDE, {"spki": values.BYTES, "public": values.BYTES, "certificate": values.BYTES}),
    "attestationKey": Command(_BESIDE, {"spki": values.BYTES, "public": values.BYTES, "name": values.BYTES}),
    "signMany": Command(
        {
            "key": values.KEY,
            "purpose": values.PURPOSE,
            "contents": values.CONTENTS,
            "signer": optional(values.SIGNER),
            "priority": optional(values.PRIORITY),
        },
        {"batches": values.PROOFS},
    ),
    "create": Command({"name": values.NAME, "suite": values.SUITE, "origin": optional(values.ORIGIN)}, {"key": values.KEY_INFO}),
    "rotate": Command(
        {"name": values.NAME, "keep_until_ms": values.TIME_MS, "suite": optional(values.SUITE)},
        {"key": values.KEY_INFO},
        twice=False,
    ),
    "keys": Command({"after": optional(values.KEY)}, {"keys": values.KEY_INFOS, "more": FLAG}),
    "seal": Command(
        {"secret": values.BYTES, "pcrs": optional(values.PCRS), "origin": optional(values.ORIGIN), **_BESIDE},
        {"blob": values.BYTES},
    ),
    "unseal": Command({"blob": values.BYTES, "origin": optional(values.ORIGIN)}, {"secret": values.BYTES}),
    "certify": Command({"key": values.KEY, "qualifying": values.QUALIFYING}, _ATTESTED),
    "quote": Command({"pcrs": values.PCRS, "qualifying": values.QUALIFYING, **_BESIDE}, _ATTESTED),
    "measure": Command({"suite": values.SUITE}, {"timing": values.TIMING}),
    "facts": Command(_BESIDE, {"facts": values.FACTS}),
    "statistics": Command(answer={"statistics": values.STATISTICS}),
}


def parse_object(line: bytes) -> dict[str, Any]:
    """The one JSON object of a line. Raises RemoteProtocolError("malformed")."""
    try:
        document = json.loads(
            line.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant, parse_int=_short_number
        )
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("malformed", f"a line is one JSON object ({_what(error)})") from error
    if not isinstance(document, dict):
        raise RemoteProtocolError("malformed", "a line is one JSON object")
    return document


def take_id(document: dict[str, Any]) -> RequestId:
    """Remove the id from an object. Raises WrongFieldError."""
    if "id" not in document:
        return None
    found = document.pop("id")
    if isinstance(found, str) and len(found) <= MAX_ID_LENGTH:
        return found
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MAX_INTEGER:
        return found
    raise WrongFieldError("invalid_field", f"id is a whole number from 0 to 2^53 or a text of at most {MAX_ID_LENGTH} characters")


def take_command(document: dict[str, Any]) -> str:
    """Remove the command's name from a request. Raises WrongFieldError, RemoteProtocolError("unknown_command")."""
    if "command" not in document:
        raise WrongFieldError("missing_field", "command is missing")
    name = document.pop("command")
    if not isinstance(name, str) or name not in COMMANDS:
        raise RemoteProtocolError("unknown_command", f"the commands are {', '.join(COMMANDS)}")
    return name


def request_fields(command: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """A request's values. Raises WrongFieldError."""
    found = decode_fields(COMMANDS[command].request, document)
    if command == "activateCredential":
        pair = [found["hmac"] is not None, found["enc"] is not None]
        if found["credential_blob"] is not None and any(pair):
            raise WrongFieldError("invalid_field", "give either credential_blob, or hmac and enc")
        if found["credential_blob"] is None and not all(pair):
            raise WrongFieldError("missing_field", "credential_blob is missing; or give hmac and enc")
    return found


def request_line(command: str, number: int, fields: Mapping[str, Any]) -> bytes:
    document = {"command": command, "id": number, **encode_fields(COMMANDS[command].request, fields)}
    return _line(document)


def answer_line(command: str, number: RequestId, fields: Mapping[str, Any]) -> bytes:
    return _line(_with_id(number, encode_fields(COMMANDS[command].answer, fields)))


def error_line(number: RequestId, error: Mapping[str, Any]) -> bytes:
    return _line(_with_id(number, {"error": error}))


def answer_fields(command: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """An answer's values. Raises RemoteProtocolError("malformed")."""
    try:
        return decode_fields(COMMANDS[command].answer, document)
    except WrongFieldError as error:
        raise RemoteProtocolError("malformed", f"the TPM service's answer to {command}: {error}") from error


def _with_id(number: RequestId, document: dict[str, Any]) -> dict[str, Any]:
    return document if number is None else {"id": number, **document}


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name stands twice")
    return document


def _no_constant(_: str) -> float:
    raise ValueError("NaN and Infinity are no JSON")


def _short_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _what(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "msg", None) or str(error)

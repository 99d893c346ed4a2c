"""Coverage-guided input for what the TPM service reads from strangers: lines of requests and answers, and TPM structures.

python tests/fuzz/tpm_service_target.py -max_total_time=60 A_NEW_FOLDER tests/fuzz/corpus/tpm_service
"""

from __future__ import annotations

import sys
from typing import Any

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["bus.tpm.wire", "bus.tpm.fields", "bus.tpm.values", "bus.tpm.faults", "bus.protocol"]):
        from bus.protocol import tpm_structures
        from bus.tpm import faults, fields, wire

from bus.errors import RemoteProtocolError
from bus.protocol import tpm_structures
from bus.tpm import faults, fields, wire

STRUCTURES = (
    tpm_structures.IdObject,
    tpm_structures.EncryptedSecret,
    tpm_structures.PublicArea,
    tpm_structures.Attest,
    tpm_structures.Signature,
)


def judge_request(line: bytes) -> str:
    """A request parses or is refused with a code; what parses re-encodes to the same fields. Gives the command or the code."""
    try:
        document = wire.parse_object(line)
        wire.take_id(document)
        command = wire.take_command(document)
        found = wire.request_fields(command, document)
    except RemoteProtocolError as error:
        return error.reason
    except fields.WrongFieldError as error:
        return error.code
    again = fields.encode_fields(wire.COMMANDS[command].request, found)
    if again != document:
        raise AssertionError((document, again))
    return command


def judge_answer(line: bytes) -> None:
    """An answer to any command parses or is malformed; what parses re-encodes to the same fields."""
    try:
        document = wire.parse_object(line)
    except RemoteProtocolError:
        return
    if "error" in document:
        judge_error(document["error"])
    for command, shapes in wire.COMMANDS.items():
        try:
            found = wire.answer_fields(command, document)
        except RemoteProtocolError:
            continue
        again = fields.encode_fields(shapes.answer, found)
        if wire.answer_fields(command, again) != found:
            raise AssertionError((command, document, again))


def judge_error(document: Any) -> None:
    try:
        error = faults.error_from(document)
    except RemoteProtocolError:
        return
    fault = faults.fault_of(error)
    if fault is None and type(error).__name__ != "LocalProtocolError":
        raise AssertionError(document)


def judge_structures(data: bytes) -> None:
    for kind in STRUCTURES:
        try:
            value = kind.parse(data)
        except RemoteProtocolError:
            continue
        if value.encode() != data:
            raise AssertionError((kind, data))
    try:
        credential, secret = tpm_structures.split_credential_file(data)
    except RemoteProtocolError:
        return
    if data[8:] != credential + secret:
        raise AssertionError(data)


def judge(data: bytes) -> None:
    """Anything but a parsed value or a refusal is a crash."""
    judge_request(data)
    judge_answer(data)
    judge_structures(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, judge)
    atheris.Fuzz()

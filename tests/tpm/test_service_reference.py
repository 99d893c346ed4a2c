"""Every example of docs/reference/tpm-service.md is sent to a service with a real software TPM, and its answer has that form."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from bus.policy import Policy
from bus.protocol.tpm_structures import IdObject
from bus.tpm.engine import Engine
from bus.tpm.permissions import FOR_SIGNERS, Permissions
from bus.tpm.service import TpmService
from bus.tpm.vault import MemoryVault
from bus.tpm.wire import COMMANDS
from bus.transport import unix

sys.path.insert(0, str(Path(__file__).parent))

from served import raw

PAGE = (Path(__file__).parents[2] / "docs/reference/tpm-service.md").read_text()
BLOCKS = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [[json.loads(line) for line in block.splitlines()] for block in BLOCKS]
ELIDED = "…"
OPEN = {"operations", "batch_sizes", "algorithms", "slots", "failures", "hashes"}
"""Counts by name, of which an example shows none."""


def has_the_form(found: Any, shown: Any, name: str = "") -> bool:
    if isinstance(shown, dict):
        return isinstance(found, dict) and (
            name in OPEN or (set(found) == set(shown) and all(has_the_form(found[key], shown[key], key) for key in shown))
        )
    if isinstance(shown, list):
        return isinstance(found, list) and (name in OPEN or (len(found) == len(shown) and all(map(has_the_form, found, shown))))
    if isinstance(shown, bool) or shown is None:
        return found is shown
    if isinstance(shown, int | float):
        return isinstance(found, int | float) and not isinstance(found, bool)
    return isinstance(found, str) and shown in {ELIDED, found}


@pytest.mark.anyio
async def test_every_example_works(swtpm, runtime):
    from tpm2_pytss.types import TPM2B_NAME, TPM2B_PUBLIC
    from tpm2_pytss.utils import make_credential

    from bus.tpm.esapi import EsapiTpm

    async with (
        Engine(lambda: EsapiTpm(swtpm.tcti, origin="software-tpm"), MemoryVault(), name="swtpm") as engine,
        unix.listening(runtime / "s" / "tpm.sock") as listener,
        anyio.create_task_group() as tasks,
    ):
        service = TpmService(engine, listener, Permissions(os.getuid(), Policy()))
        await tasks.start(service.run)
        endorsement, attester = await engine.endorsement(), await engine.attestation_key()
        credential, secret = make_credential(TPM2B_PUBLIC.unmarshal(endorsement.public)[0], b"secret", TPM2B_NAME(attester.name))
        parts = IdObject.parse(credential.marshal())
        known = {
            "credential_blob": credential.marshal(),
            "encrypted_secret": secret.marshal(),
            "hmac": parts.hmac,
            "enc": parts.enc,
        }
        values: dict[str, Any] = {name: base64.b64encode(data).decode() for name, data in known.items()}
        async with raw(listener.path) as caller:
            for request, shown in EXAMPLES:
                filled = {name: values[name] if value == ELIDED else value for name, value in request.items()}
                answer = await caller.ask(**filled)
                assert has_the_form(answer, shown), (request, answer)
                values |= answer
        service.stop()


def test_every_command_and_every_field_is_told():
    shown = {request["command"] for request, _ in EXAMPLES}
    assert shown == set(COMMANDS)
    rows = {name: cells.split("|") for name, cells in re.findall(r"^\| `(\w+)` \|(.*\|.*\|.*)\|$", PAGE, re.MULTILINE)}
    assert set(rows) == set(COMMANDS)
    for name, command in COMMANDS.items():
        takes, gives, who = rows[name]
        assert set(re.findall(r"`(\w+)`", takes)) == set(command.request), name
        assert set(re.findall(r"`(\w+)`", gives)) == set(command.answer), name
        optional = {field for field, shape in command.request.items() if shape.optional} - {"credential_blob", "hmac", "enc"}
        assert set(re.findall(r"`(\w+)`\?", takes)) == optional, name
        assert (who.strip() == "S") == (name in FOR_SIGNERS), name


def test_the_page_names_the_limits_that_hold():
    from bus.tpm.caller import Limits
    from bus.tpm.values import MAX_CONTENTS
    from bus.tpm.wire import KEYS_IN_A_PAGE, MAX_REQUEST_BYTES

    limits = Limits()
    for number in (limits.callers, limits.contents_in_flight, MAX_CONTENTS, MAX_REQUEST_BYTES):
        assert f"{number:,}" in PAGE
    assert f"{limits.requests_in_flight} requests in flight" in PAGE
    assert f"{limits.callers_of_a_stranger} connections of one other user" in PAGE
    assert f"{limits.unread_bytes // 1024} KiB" in PAGE
    assert f"at most {KEYS_IN_A_PAGE}" in PAGE
    assert limits.line_seconds == limits.write_seconds == 10
    assert limits.drain_seconds == 5

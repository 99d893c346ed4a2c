"""Every value of the TPM service's commands, as it stands in their JSON.

What a caller gives is checked here as far as its shape goes: an agent's name, a purpose of the protocol, a content as long as
a digest. Nothing here, and so no command, can carry a digest to sign, a finished leaf or a padded block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from bus.protocol.contexts import Purpose
from bus.protocol.names import is_agent_name
from bus.protocol.proof import MAX_BATCH, SIGNER_BYTES, BatchProof
from bus.protocol.suites import BY_NUMBER, IDENTITY_SUITES
from bus.tpm.fields import (
    COUNT,
    COUNTS,
    FLAG,
    MAX_INTEGER,
    SECONDS,
    Field,
    binary,
    integer,
    many,
    named,
    nullable,
    record,
    text,
    word,
)
from bus.tpm.interface import ORIGINS, EngineStatistics, Facts, KeyInfo, Lockout, Priority, Timing, TpmReading
from bus.tpm.spelling import MAX_NAME, MAX_TPMS

MAX_CONTENTS: Final = 1_024
"""In one request. More are sent in several, which share a signature all the same: whatever waits for a key is one batch."""


def _proofs(batches: Sequence[Mapping[str, Any]]) -> list[BatchProof]:
    return [
        BatchProof(batch["suite"], batch["signer"], batch["count"], index, path, batch["signature"])
        for batch in batches
        for index, path in batch["proofs"]
    ]


def _batches(proofs: Sequence[BatchProof]) -> list[dict[str, Any]]:
    """Neighbours under one signature, which is then said once."""
    batches: list[dict[str, Any]] = []
    last: tuple[object, ...] | None = None
    for proof in proofs:
        mine = (proof.signature, proof.suite, proof.signer, proof.count)
        if mine != last:
            batches.append(
                {"suite": proof.suite, "signer": proof.signer, "count": proof.count, "signature": proof.signature, "proofs": []}
            )
            last = mine
        batches[-1]["proofs"].append((proof.index, proof.path))
    return batches


def _place(value: Any) -> tuple[int, bytes]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("is no pair of index and path")
    return _INDEX.decode(value[0]), _PATH.decode(value[1])


NAME: Final = text(32, pattern=is_agent_name, what="agent's name")
KEY: Final = text(64, what="key: NAME or NAME.GENERATION")
VAULT_KEY: Final = text(64, what="key: NAME or NAME.GENERATION")
SUITE: Final = word(IDENTITY_SUITES)
ORIGIN: Final = word({origin: origin for origin in ORIGINS})
PURPOSE: Final = word({purpose.name.lower(): purpose for purpose in Purpose})
PRIORITY: Final = word({priority.name.lower(): priority for priority in Priority})
CONTENTS: Final = many(binary(48, sizes=(32, 48)), least=1, most=MAX_CONTENTS)
SIGNER: Final = binary(SIGNER_BYTES, sizes=(SIGNER_BYTES,))
QUALIFYING: Final = binary(64)
PCRS: Final = many(integer(0, 23), least=0, most=24)
BYTES: Final = binary(4_096)
CREDENTIAL: Final = binary(256)
SECRET: Final = binary(1_024)
TIME_MS: Final = integer(0, MAX_INTEGER)
STRING: Final = text(65_536)

_INDEX: Final = integer(0, MAX_BATCH - 1)
_PATH: Final = binary(16 * 48)
BATCHES: Final = many(
    record(
        {
            "suite": Field(lambda number: BY_NUMBER[number].name, lambda value: SUITE.decode(value).number),
            "signer": SIGNER,
            "count": integer(1, MAX_BATCH),
            "signature": binary(512),
            "proofs": many(Field(lambda pair: [pair[0], _PATH.encode(pair[1])], _place), least=1, most=MAX_CONTENTS),
        },
        dict,
        dict,
    ),
    least=1,
    most=MAX_CONTENTS,
)
PROOFS: Final = Field(lambda proofs: BATCHES.encode(_batches(proofs)), lambda value: _proofs(BATCHES.decode(value)))

KEY_INFO: Final = record(
    {
        "name": text(32, what="name"),
        "generation": COUNT,
        "suite": text(32, what="suite"),
        "origin": ORIGIN,
        "spki": BYTES,
        "public": BYTES,
        "created_ms": TIME_MS,
        "ends_ms": nullable(TIME_MS),
    },
    KeyInfo,
    asdict,
)
KEY_INFOS: Final = many(KEY_INFO, least=0, most=1_000)

_WORDS: Final = Field(sorted, lambda value: frozenset(many(text(64), least=0, most=64).decode(value)))
_LOCKOUT: Final = record(
    {"failed_tries": COUNT, "max_tries": COUNT, "locked": FLAG},
    Lockout,
    asdict,
)
FACTS: Final = record(
    {
        "description": STRING,
        "origin": ORIGIN,
        "firmware": STRING,
        "kinds": _WORDS,
        "hashes": _WORDS,
        "transient_slots": COUNT,
        "primary_handle": COUNT,
        "primary_name": BYTES,
        "lockout": nullable(_LOCKOUT),
    },
    Facts,
    lambda facts: {name: getattr(facts, name) for name in Facts.__slots__},
)
_SIZES: Final = Field(
    lambda sizes: {str(size): count for size, count in sizes.items()},
    lambda value: {int(size): count for size, count in COUNTS.decode(value).items()},
)
_TPM_READING: Final = record(
    {
        "origin": text(32),
        "primary_name": BYTES,
        "is_there": FLAG,
        "signed_contents": COUNT,
        "signatures": COUNT,
        "waiting": COUNT,
        "longest_wait": SECONDS,
        "busy": SECONDS,
        "failures": COUNT,
        "restarts": COUNT,
    },
    TpmReading,
    asdict,
)
_TPMS: Final = named(_TPM_READING, longest_name=MAX_NAME, most=MAX_TPMS)
STATISTICS: Final = record(
    {
        "operations": COUNTS,
        "signed_contents": COUNT,
        "signatures": COUNT,
        "largest_batch": COUNT,
        "batch_sizes": _SIZES,
        "algorithms": COUNTS,
        "waiting": COUNT,
        "longest_wait": SECONDS,
        "total_wait": SECONDS,
        "busy": SECONDS,
        "slots": COUNTS,
        "failures": COUNTS,
        "restarts": COUNT,
        "tpms": _TPMS,
    },
    EngineStatistics,
    lambda statistics: {name: getattr(statistics, name) for name in EngineStatistics.__slots__},
)

TIMING: Final = record(
    {"suite": STRING, "path": STRING, "create": SECONDS, "sign": SECONDS},
    Timing,
    asdict,
)

"""Part 11, kind `encoding`: which function reads which structure, and how its fields are written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import body, bundle, header, hello, pack, papers, statement
from .shape import items

READ: dict[str, Callable[[bytes], Any]] = {
    "array": lambda data: items(pack.parse(data, MAX_ARRAY, bare=True), 0, MAX_FIELDS),
    "header": header.read_header,
    "envelope": header.read_envelope,
    "plaintext": body.read_plaintext,
    "body": body.read_body,
    "params": body.read_params,
    "grant": body.read_grant_body,
    "session": papers.read_session_body,
    "inbox": papers.read_inbox_body,
    "session_certificate": papers.read_signed,
    "inbox_certificate": papers.read_signed,
    "papers": papers.read_papers,
    "statement_body": statement.read_statement_body,
    "bundle_body": bundle.read_bundle_body,
    "hello_a": hello.read_hello_a,
    "hello_b": lambda data: hello.read_hello_b(data, [1]),
    "audit": hello.read_audit,
}
MAX_ARRAY, MAX_FIELDS = 8_388_608, 1_024


def meaning(structure: str, data: bytes) -> Any:
    READ[structure](data)
    return written(pack.parse(data, MAX_ARRAY, bare=structure == "array"))


def written(value: Any) -> Any:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list):
        return [written(one) for one in value]
    return value.hex() if isinstance(value, bytes) else value

"""Part 11, kind `derivation`: each `what`, from its inputs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from . import digests as d
from .pack import pack

Inputs = dict[str, Any]
Bytes = Callable[[str], bytes]


def _other(purpose: int, last: str) -> Callable[[Inputs, Bytes], bytes]:
    return lambda i, b: d.other_content(i["suite"], purpose, b(i["blind"]), b(i[last]))


def _qualifying(i: Inputs, b: Bytes) -> bytes:
    hashes = [b(i[name]) for name in ("ek_hash", "ak_name", "identity_name")]
    return d.enroll_qualifying(pack([b(i["nonce"]), i["name"], *hashes, i["kem"], b(i["inbox_key"])]))


DERIVE: dict[str, Callable[[Inputs, Bytes], bytes | bool]] = {
    "key id": lambda i, b: d.key_id(i["kem"], b(i["key"])),
    "session id": lambda i, b: d.session_id(b(i["body"])),
    "host signer": lambda i, b: d.host_signer(b(i["key"])),
    "key signer": lambda i, b: d.key_signer(b(i["spki"])),
    "epoch id": lambda i, b: d.epoch_id(b(i["secret"]), b(i["params"])),
    "content key": lambda i, b: d.content_key(b(i["secret"]), b(i["params"])),
    "audience": lambda i, _: d.audience(i["members"]),
    "given id": lambda i, _: d.given_id(i["sender"], i["id"]),
    "envelope content": lambda i, b: d.envelope_content(i["suite"], b(i["blind"]), b(i["header"]), b(i["body"])),
    "session content": _other(2, "body"),
    "inbox content": _other(3, "body"),
    "enroll content": _other(4, "body"),
    "audit content": _other(5, "content"),
    "http content": _other(6, "body"),
    "leaf": lambda i, b: d.leaf(i["suite"], i["purpose"], b(i["content"])),
    "tbs": lambda i, b: d.tbs(i["suite"], b(i["signer"]), i["n"], b(i["root"])),
    "grant info": lambda i, b: d.grant_info(b(i["header"])),
    "sampled": lambda i, b: d.is_sampled(b(i["epoch"]), i["seq"], float(i["rate"])),
    "transcript": lambda i, b: d.transcript(*(b(i[name]) for name in ("hello_a", "hello_b", "server_leaf", "client_leaf"))),
    "broker tbs": lambda i, b: d.broker_tbs(b(i["t"])),
    "agent tbs": lambda i, b: d.agent_tbs(b(i["t"])),
    "enroll qualifying": _qualifying,
    "rollout": lambda i, _: d.rolls_out(i["name"], Fraction(i["percent"])),
}


def derived(what: str, inputs: Inputs, to_bytes: Bytes) -> str | bool:
    result = DERIVE[what](inputs, to_bytes)
    return result if isinstance(result, bool) else result.hex()

"""What is pinned when a machine is provisioned, and never taken from the wire: root, domain, broker names, ML-DSA root key.

    root.pem  ml-dsa-root.bin  brokers.json        in STATE/trust/public; without brokers.json, the one name that a hub takes

Whoever may write in that folder decides whom we believe: it is a copy of the authority's, made by the machine's owner.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bus.errors import RemoteProtocolError, VaultError
from bus.identity import durable
from bus.identity.public_trust import ML_DSA_ROOT, domain_of, read_root
from bus.protocol.cosign import PUBLIC_BYTES
from bus.protocol.names import is_agent_name
from bus.trust.root import Root

BROKER: Final = "BROKER"
"""What a broker is called unless somebody says otherwise."""
BROKERS: Final = "brokers.json"
MAX_BROKERS: Final = 1_024
_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Anchor:
    root: Root
    domain: str
    ml_dsa_root: bytes | None
    brokers: frozenset[str]


def read_anchor(folder: Path) -> Anchor:
    """What STATE/trust/public pins. Blocks.

    Raises VaultError: "missing" where no authority was made yet, "damaged", "disk"; VerificationError("untrusted").
    """
    root = read_root(folder)
    return Anchor(root, domain_of(root), durable.read(folder / ML_DSA_ROOT, longest=PUBLIC_BYTES), read_brokers(folder))


def read_brokers(folder: Path) -> frozenset[str]:
    """Raises VaultError("damaged"): nobody at all would be a broker then, or anybody."""
    path = folder / BROKERS
    data = durable.read(path, longest=_MAX_BYTES)
    if data is None:
        return frozenset({BROKER})
    try:
        return _names(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        text = f'{path} is no list of broker names ({error}): restore it, or write it anew, as ["{BROKER}"]'
        raise VaultError("damaged", text, path=str(path)) from error


def parse_brokers(data: bytes) -> frozenset[str]:
    """What `encode_brokers` gave. Raises RemoteProtocolError("malformed")."""
    try:
        return _names(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise RemoteProtocolError("malformed", "no list of broker names") from error


def encode_brokers(names: Iterable[str]) -> bytes:
    return json.dumps(sorted(names)).encode() + b"\n"


def _names(found: object) -> frozenset[str]:
    if not isinstance(found, list) or not 0 < len(found) <= MAX_BROKERS:
        raise ValueError(f"1 to {MAX_BROKERS} names")
    if not all(isinstance(name, str) and is_agent_name(name) for name in found):
        raise ValueError("a name is 1 to 32 of A-Z 0-9, a letter first")
    return frozenset(found)

"""Every context string of the protocol, in one registry.

A signature or derived key that does not name its context can be moved to another one. So no code spells such a string itself
(a test looks): it takes it from here, where two uses that collide would stand side by side.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

PREFIX: Final = b"tpmbus/1 "

ENVELOPE: Final = PREFIX + b"envelope"
LEAF: Final = PREFIX + b"leaf"
ROOT: Final = PREFIX + b"root"
KEY: Final = PREFIX + b"key"
SESSION: Final = PREFIX + b"session"
INBOX: Final = PREFIX + b"inbox"
ENROLL_REQUEST: Final = PREFIX + b"enroll request"
AUTHORITY_REQUEST: Final = PREFIX + b"authority request"
AUDIT: Final = PREFIX + b"audit"
HTTP: Final = PREFIX + b"http"
ROLLOUT: Final = PREFIX + b"rollout"
HOST: Final = PREFIX + b"host"
"""Who signs a session-signed envelope: the digest of the host key."""
AUDIENCE: Final = PREFIX + b"audience"
EPOCH_ID: Final = PREFIX + b"epoch id"
CONTENT_KEY: Final = PREFIX + b"content key"
ID: Final = PREFIX + b"id"
"""The id of an envelope whose record's id the caller gave."""
GRANT: Final = PREFIX + b"grant"
KEM_KEY: Final = PREFIX + b"kem key"
SESSION_ID: Final = PREFIX + b"session id"
ENROLL: Final = PREFIX + b"enroll"
"""What an attestation key says with the key that it certifies."""
TRUST: Final = PREFIX + b"trust"
POLICY: Final = PREFIX + b"policy"
HELLO: Final = PREFIX + b"hello"
HELLO_BROKER: Final = PREFIX + b"hello broker"
HELLO_AGENT: Final = PREFIX + b"hello agent"
HELLO_NEIGHBOUR: Final = PREFIX + b"hello neighbour"
"""What a broker signs for another broker."""
NEIGHBOUR: Final = PREFIX + b"neighbour"
"""The keys of a link between two gateways over NATS."""
SAMPLE: Final = PREFIX + b"sample"
KEY_AUTH: Final = PREFIX + b"key auth"
"""The auth value of one vault key, derived from the vault's secret; local, never on the wire."""
AUTHORITY_KEY: Final = PREFIX + b"authority key"
"""What an authority's private keys are encrypted with; local, never on the wire."""
SOFTWARE_SEAL: Final = PREFIX + b"software seal"
"""What the software keystore seals with; local, never on the wire."""


class Purpose(IntEnum):
    """What a leaf under a root stands for. It is hashed into the leaf, so a signature for one purpose is none for another."""

    ENVELOPE = 1
    SESSION = 2
    INBOX = 3
    ENROLL = 4
    AUDIT = 5
    HTTP = 6

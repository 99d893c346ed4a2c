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
AUDIT: Final = PREFIX + b"audit"
HTTP: Final = PREFIX + b"http"
ROLLOUT: Final = PREFIX + b"rollout"
KEY_AUTH: Final = PREFIX + b"key auth"
"""The auth value of one vault key, derived from the vault's secret; local, never on the wire."""
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

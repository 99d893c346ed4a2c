"""Where a program of this machine is: also where a plain user's PATH does not lead.

Debian puts servers (nats-server) into /usr/sbin, which is on root's PATH alone, though anybody may run them.
"""

from __future__ import annotations

import os
from shutil import which
from typing import Final

SYSTEM: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
NATS_SERVER: Final = "nats-server"


def program(name: str) -> str | None:
    """Its path: the first on PATH, else in one of the system's own folders. Blocks."""
    return which(name) or which(name, path=os.pathsep.join(SYSTEM))

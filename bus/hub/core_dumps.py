"""No memory of this process on a disk: for those that hold the authority's root key, or the keys that a TPM service opens."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def forbid_core_dumps() -> None:
    """For the rest of this process's life; what it starts has no core dumps either.

    The limit alone does not stop a program to which the kernel pipes core dumps. A process that is not dumpable gives none to
    that either, and other processes of its user cannot read its memory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

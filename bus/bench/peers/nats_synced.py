"""JetStream that has synced what it acknowledges, as tpmbus has: like beside like.

2.10 and later   `sync_interval: always`, its own word for that
before (Debian)  no word: a folder whose files are written synchronously (the attribute S of ext4, XFS and others, `chattr +S`), so
                 that each of its writes is on the disk when it returns. It writes once for each message before it acknowledges
                 that, and one after the other, which is what the word makes of it too: one sync for each message
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from anyio import to_thread

from bus.bench.peers.contender import Address
from bus.bench.peers.nats import NATS, STORE, serving
from bus.bench.programs import NATS_SERVER, program
from bus.errors import ConnectError

HAS_A_WORD: Final = (2, 10)
"""The version that came with it."""
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_SYNCHRONOUS: Final = 0x8
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_SYNC_FL of linux/fs.h; what is made in such a folder has the attribute too."""


@asynccontextmanager
async def serve_synced(address: Address) -> AsyncIterator[Address]:
    """Raises ConnectError where neither way is open."""
    options = await to_thread.run_sync(_prepared, Path(address["folder"]))
    async with serving(address, *options) as served:
        yield served


def _prepared(folder: Path) -> list[str]:
    """What its command line has to say besides. Blocks."""
    if version_of(program(NATS_SERVER) or NATS_SERVER) >= HAS_A_WORD:
        configuration = folder / "synced.conf"
        configuration.write_text('jetstream { sync_interval: "always" }\n')
        return ["-c", str(configuration)]
    store = folder / STORE
    store.mkdir()
    write_synchronously(store)
    return []


def version_of(server: str) -> tuple[int, ...]:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603  found by `program`
    found = re.search(r"v(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def write_synchronously(folder: Path) -> None:
    """Files that are made in it are on the disk whenever a write to them returns. Raises ConnectError."""
    try:
        _flags(folder, added=_SYNCHRONOUS)
    except OSError as error:
        raise ConnectError(
            f"this nats-server cannot be told to sync, and {folder} does not take the attribute S ({error}): "
            "a nats-server of 2.10 or later, or TMPDIR on ext4 or XFS"
        ) from error


def is_written_synchronously(place: Path) -> bool:
    return bool(_flags(place) & _SYNCHRONOUS)


def _flags(place: Path, *, added: int = 0) -> int:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        if added:
            flags[0] |= added
            fcntl.ioctl(descriptor, _SET_FLAGS, flags)
        return flags[0]
    finally:
        os.close(descriptor)


NATS_SYNCED: Final = replace(
    NATS,
    name="nats-synced",
    title="nats-py, JetStream synced",
    uses="JetStream on files, each message synced before it is acknowledged: publish_async, push consumer; TCP, nats-server",
    window=4_096,  # one sync for each message: a window for a quick server would take it half a minute to empty
    serve=serve_synced,
    cannot=dict.fromkeys(("1to1", "reqrep", "1to75"), "nothing is synced there"),
)

"""A program for test_inbox: makes inbox keys, and is killed at one instant after the other.

killed_inbox.py FOLDER      kills itself at the 1st, 2nd, 3rd .. moment at which it touches the disk, going on in the same folder
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from inboxes import NOW, identity, wanted

sys.path.insert(0, str(Path(__file__).parent.parent))

from killed_child import in_a_child

from bus.identity.inbox import Inbox, InboxFolder, keep_inbox
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.vault import FolderVault


async def renew(folder: Path) -> list[int]:
    """One more key. Gives all counters."""
    async with Engine(FakeTpm, FolderVault(folder / "vault")) as engine:
        signer = await identity(engine)
        kept = await keep_inbox(InboxFolder(folder / "inbox"), engine, signer, wanted(signer), clock=ManualClock(ms=NOW), anew=True)
    return [key.counter for key in kept.record.keys]


async def look(folder: Path) -> dict[str, str]:
    """Every key opens; its counter and its id."""
    async with Engine(FakeTpm, FolderVault(folder / "vault")) as engine:
        inbox = await Inbox.open(InboxFolder(folder / "inbox"), engine, "MONITOR", clock=ManualClock(ms=NOW))
        for key in inbox.record.keys:
            assert await inbox.private(key.id) is not None
    return {str(key.counter): key.id.hex() for key in inbox.record.keys}


def main() -> None:
    folder = Path(sys.argv[1])
    known: dict[str, str] = {}
    moment = 1
    while in_a_child(partial(renew, folder), killed_at=moment, folder=folder / "inbox") is None:
        found = in_a_child(partial(look, folder))
        assert known.items() <= found.items(), f"moment {moment}: a key was lost, or a counter given twice"
        known = found
        moment += 1
    assert len(in_a_child(partial(look, folder))) > len(known), "what ended well made no key"
    print(json.dumps({"moments": moment - 1}))


if __name__ == "__main__":
    main()

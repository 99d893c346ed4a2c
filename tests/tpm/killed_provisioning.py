"""A program for test_killed: provisions a vault, and is killed at one instant after the other.

killed_provisioning.py FOLDER COUNT        kills itself at the 1st, 2nd, 3rd .. moment at which the vault touches the disk
killed_provisioning.py FOLDER COUNT share  waits for a line, then provisions beside others, and prints what it was given
killed_provisioning.py FOLDER COUNT swtpm RUNTIME  provisions a state folder with its own software TPM, and prints each key it made
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent))

import killed_child

from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm
from bus.testing.tpm_check import check_proof
from bus.tpm.engine import Engine
from bus.tpm.vault import FolderVault

QUICK = IDENTITY_SUITES["ecc256/sha256"]
TOUCHES = killed_child.TOUCHES | {"os.chmod", "os.listdir"}
in_a_child = partial(killed_child.in_a_child, touches=TOUCHES)


async def provision(folder: Path, count: int, *, rotate: bool = False) -> dict[str, str]:
    given = {}
    async with Engine(FakeTpm, FolderVault(folder)) as engine:
        for number in range(count):
            info = await engine.create(f"AGENT{number}", QUICK)
            given[info.id] = info.spki.hex()
        if rotate and not any(info.generation == 2 for info in await engine.keys()):
            await engine.rotate("AGENT0", keep_until_ms=2**47)
    return given


async def check(folder: Path, count: int) -> dict[str, str]:
    """Everything that exists signs, and nothing is half there."""
    vault = FolderVault(folder)
    async with Engine(FakeTpm, vault) as engine:
        for info in await engine.keys():
            for found in await engine.sign_many(info.id, Purpose.ENVELOPE, [bytes(32)]):
                check_proof(found, info, Purpose.ENVELOPE, bytes(32))
        found = {info.id: info.spki.hex() for info in await engine.keys()}
        current = [info.name for info in await engine.keys() if info.ends_ms is None]
    assert len(current) == len(set(current)), f"two current keys of one name: {current}"
    files = set(os.listdir(folder)) - {"aside"}  # noqa: PTH208  nothing else runs in this loop
    wanted = {"lock", "secret", "index.json"} | {f"{key}.{kind}" for key in found for kind in ("pem", "pub")}
    assert files == wanted, f"left behind: {files - wanted}, missing: {wanted - files}"
    assert len(found) <= count + 1
    return found


async def provision_swtpm(folder: Path, runtime: Path, count: int) -> None:
    from bus.hub.state import State
    from bus.hub.which_tpm import open_engine_here
    from bus.policy import open_policy

    async with open_engine_here(State(folder, runtime), open_policy(), tpm="swtpm") as engine:
        print("open", flush=True)
        for number in range(count):
            info = await engine.create(f"AGENT{number}", QUICK)
            print(info.id, info.spki.hex(), flush=True)
            await engine.sign_many(info.id, Purpose.ENVELOPE, [bytes(32)])
    print("done", flush=True)


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3:4] == ["swtpm"]:
        anyio.run(provision_swtpm, folder, Path(sys.argv[4]), count)
        return
    if sys.argv[3:] == ["share"]:
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(anyio.run(provision, folder, count)))
        return
    moment = 1
    while True:
        vault = folder / str(moment)
        work = partial(provision, vault, count, rotate=True)
        if in_a_child(work, killed_at=moment, folder=vault) is not None:
            break
        before = in_a_child(partial(check, vault, count))
        in_a_child(work)
        after = in_a_child(partial(check, vault, count))
        assert before.items() <= after.items(), f"moment {moment}: a key was made twice or lost"
        assert sorted(after) == sorted([f"AGENT{number}.1" for number in range(count)] + ["AGENT0.2"]), after
        moment += 1
    print(json.dumps({"moments": moment - 1}))


if __name__ == "__main__":
    main()

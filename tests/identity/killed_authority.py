"""A program for test_authority_killed: an authority that is killed at one instant after the other.

killed_authority.py FOLDER       kills the making of a new one at the 1st, 2nd, 3rd .. moment at which it touches the disk
killed_authority.py FOLDER MADE  the same with work done by a copy of the one in MADE
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import anyio._backends._asyncio  # noqa: F401  once here, or each child imports the loop anew
import cryptography.hazmat.backends.openssl.backend  # noqa: F401  the same
from authorities import DAY, DOMAIN, EK, KEYS, enroll, opened
from cryptography.hazmat.primitives.asymmetric import rsa
from ready_rsa import rsa_key

from bus.identity.authority import Authority
from bus.trust import certificates, revocations
from bus.trust.certificates import Profile
from bus.trust.revocations import Reason

TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "os.scandir", "fcntl.flock"}
KEY, OTHER_KEY = KEYS[:2]  # made once, before any fork
ROOT, OTHER_ROOT = rsa_key(4_096), rsa_key(4_096, 1)  # too: one for those who are killed, and one for who comes after them
Tell = Callable[[str, Any], None]


def make(folder: Path, tell: Tell) -> None:
    with opened(folder) as authority:
        tell("root", authority.root.der.hex())


def work(folder: Path, tell: Tell) -> None:
    """Each thing is told after it was done: from then on somebody relies on it."""
    with opened(folder) as authority:
        if authority.holder("ALPHA") is None:
            tell("issued", enroll(authority, key=KEY).hex())
        tell("issued", enroll(authority, key=OTHER_KEY, overlap_ms=DAY).hex())
        tell("issued", enroll(authority, "BETA", key=KEY).hex())
        tell("issued", authority.issue_tls("BETA", KEY).hex())
        tell("list", authority.revoke("BETA", Reason.COMPROMISED).der.hex())
        tell("revoked", "BETA")
        tell("number", authority.next_statement_number())
        tell("number", authority.next_statement_number())
        authority.register_ml_dsa("ALPHA", EK)
        tell("ml_dsa", "ALPHA")
        authority.sign_statement(b"")
        authority.publish("statement.bin", b"whole")
        tell("published", "statement.bin")


def newer_list(authority: Authority, older: str) -> bool:
    before, now = revocations.read(bytes.fromhex(older), root=authority.root), authority.revocations()
    return now.number >= before.number and before.revoked.items() <= now.revoked.items()


STILL_SO: dict[str, Callable[[Authority, Any], bool]] = {
    "root": lambda authority, der: authority.root.der.hex() == der,
    "issued": lambda authority, der: der in {one.der.hex() for one, _ in authority.issued()},
    "list": newer_list,
    "revoked": lambda authority, name: authority.standings()[name][0] >= 1,
    "number": lambda authority, number: authority.next_statement_number() > number,
    "ml_dsa": lambda authority, name: name in authority.ml_dsa_hashes(),
    "published": lambda authority, path: authority.published(path) == b"whole",
}


def check(folder: Path, told: list[tuple[str, Any]]) -> None:
    """Whatever was told is so, and nothing is half there."""
    with opened(folder) as authority:
        for what, value in told:
            assert STILL_SO[what](authority, value), what
        crl = authority.revocations()
        for one, revocation in authority.issued():
            found = certificates.read(one.der, root=authority.root, domain=DOMAIN)
            assert (found.serial in crl.revoked) == (revocation is not None)
        newest = {one.name: one for one, revocation in authority.issued() if one.profile is Profile.AGENT and revocation is None}
        for name, one in newest.items():
            assert authority.holder(name).der == one.der
        authority.sign_statement(b"")
    left = [path for path in folder.rglob("*") if path.name.endswith(".new")]
    assert not left, f"left behind: {left}"


def write_line(pipe: int, what: str, value: Any) -> None:
    os.write(pipe, json.dumps([what, value]).encode() + b"\n")


def in_a_child(job: Callable[[Tell], None], *, killed_at: int = 0, folder: Path) -> tuple[bool, list[tuple[str, Any]]]:
    """Run it in a process of its own, which may be killed at this moment; this one never has threads, so it may fork.

    Gives whether it came to its end, and what it told.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        left = killed_at
        rsa.generate_private_key = lambda **_: ROOT if killed_at else OTHER_ROOT

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if left and event in TOUCHES and (event in ("fcntl.flock", "os.truncate") or str(folder) in str(arguments[0])):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            job(partial(write_line, write))
            os._exit(0)
        except BaseException:  # noqa: BLE001  it must not go on as if it were its parent
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = [tuple(json.loads(line)) for line in pipe]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False, told
    assert os.WEXITSTATUS(status) == 0, "it failed instead of being killed"
    return True, told


def main() -> None:
    folder, made = Path(sys.argv[1]), [Path(text) for text in sys.argv[2:]]
    job, moment, ended = (work if made else make), 0, False
    while not ended:
        moment += 1
        place = folder / str(moment)
        for source in made:
            shutil.copytree(source, place)
        ended, told = in_a_child(lambda tell, place=place: job(place, tell), killed_at=moment, folder=place)
        in_a_child(lambda _, place=place, told=told: check(place, told), folder=place)
        if made:
            again, more = in_a_child(lambda tell, place=place: job(place, tell), folder=place)
            assert again
            in_a_child(lambda _, place=place, told=[*told, *more]: check(place, told), folder=place)
        shutil.rmtree(place)
    print(json.dumps({"moments": moment - 1}))


if __name__ == "__main__":
    main()

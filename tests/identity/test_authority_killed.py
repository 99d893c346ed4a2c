"""An authority that is killed: at every moment at which it touches the disk, and with its journal cut at every byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from authorities import DAY, KEYS, copied, enroll, opened

from bus.errors import VaultError
from bus.trust.revocations import Reason

PROGRAM = Path(__file__).with_name("killed_authority.py")
JOURNAL = Path("private") / "issued.log"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority") / "trust"
    with opened(folder) as authority:
        authority.sign_statement(b"")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return copied(made, tmp_path / "trust")


def killed(*arguments):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["moments"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_new_one_may_be_killed_at_every_moment(tmp_path):
    assert killed(tmp_path) > 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_work_may_be_killed_at_every_moment(tmp_path, made):
    assert killed(tmp_path, made) > 30


# ---- the journal -----------------------------------------------------------------------------------------------------------------


def states(authority):
    issued = [(one.der, revocation) for one, revocation in authority.issued()]
    return issued, authority.standings(), authority.holder("ALPHA")


def test_a_last_line_that_is_cut_at_any_byte_was_never_written(folder, tmp_path):
    """And so nothing was published that says what it says."""
    with opened(folder) as authority:
        enroll(authority)
        before, size = states(authority), (folder / JOURNAL).stat().st_size
        public = copied(folder / "public", tmp_path / "public")
        enroll(authority, key=KEYS[1], overlap_ms=DAY)
        after = states(authority)
    whole = (folder / JOURNAL).read_bytes()
    line_end = whole.index(b"\n", size) + 1

    def left(journal):
        (folder / JOURNAL).write_bytes(journal)
        shutil.rmtree(folder / "public")
        copied(public, folder / "public")

    for length in [*range(size, size + 40), *range(size + 40, line_end - 20, 97), *range(line_end - 20, line_end + 1)]:
        left(whole[:length])
        with opened(folder) as authority:
            assert states(authority) == (after if length == line_end else before), length
    left(whole[:size] + bytes(500))  # a file that grew before its contents were there
    with opened(folder) as authority:
        mended = (folder / JOURNAL).read_bytes()
        assert mended.startswith(whole[:size])
        assert b"\0" not in mended
        assert states(authority) == before
        enroll(authority, "BETA")
    with opened(folder) as authority:
        assert authority.holder("BETA") is not None


def lines_of(folder):
    return (folder / JOURNAL).read_bytes().splitlines(keepends=True)


def without_a_line(lines):
    return [*lines[:2], *lines[3:]]


def without_the_first(lines):
    return lines[1:]


def swapped(lines):
    return [lines[0], lines[2], lines[1], *lines[3:]]


def twice(lines):
    return [*lines, lines[-1]]


def changed(lines):
    return [line.replace(b"ALPHA", b"OMEGA") for line in lines]


def one_bit(lines):
    return [*lines[:-1], lines[-1][:30] + bytes([lines[-1][30] ^ 1]) + lines[-1][31:]]


def a_line_of_nothing(lines):
    return [*lines, b"\n"]


def no_lines(_):
    return []


def half_of_the_first(lines):
    return [lines[0][:-10]]


@pytest.mark.parametrize(
    "damage",
    [without_a_line, without_the_first, swapped, twice, changed, one_bit, a_line_of_nothing, no_lines, half_of_the_first],
)
def test_any_other_change_of_the_journal_is_damage(folder, damage):
    with opened(folder) as authority:
        enroll(authority)
        enroll(authority, "BETA")
        authority.revoke("BETA", Reason.RETIRED)
    (folder / JOURNAL).write_bytes(b"".join(damage(lines_of(folder))))
    with pytest.raises(VaultError) as caught, opened(folder):
        pass
    assert (caught.value.code, caught.value.path) == ("damaged", str(folder / JOURNAL))


def rewritten(folder, *entries):
    """A journal whose digits are right, and which tells of these things."""
    from bus.identity.authority.journal import Journal
    from bus.identity.authority.store import Store

    journal = Journal(Store(folder))
    first = json.loads(lines_of(folder)[0].partition(b" ")[2])
    journal.rewrite([first | entries[0], *entries[1:]])
    journal.close()


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([{"version": 2}], "version"),
        ([{"root": "AAAA"}], "damaged"),
        ([{"root": "?"}], "damaged"),
        ([{}, {"issued": [{"serial": "5"}]}], "damaged"),
        ([{}, {"issued": 5}], "damaged"),
        ([{}, {"revoked": {"5": [1, "bored"]}}], "damaged"),
        ([{}, {"numbers": {"crl": "x"}}], "damaged"),
        ([{}, {"ml_dsa": {"ALPHA": "zz"}}], "damaged"),
    ],
)
def test_what_nobody_writes_is_damage(folder, entries, code):
    rewritten(folder, *entries)
    with pytest.raises(VaultError) as caught, opened(folder):
        pass
    assert caught.value.code == code


def test_a_lost_journal_is_not_begun_again(folder):
    (folder / JOURNAL).unlink()
    with pytest.raises(VaultError) as caught, opened(folder):
        pass
    assert (caught.value.code, caught.value.path) == ("missing", str(folder / JOURNAL))


# ---- a disk that fails -----------------------------------------------------------------------------------------------------------


def limited(folder, program):
    """In a process whose files cannot grow beyond a limit, which is what a full disk is to it."""
    text = (
        "import resource, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from authorities import *; from bus.errors import VaultError; folder = Path(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n" + program
    )
    arguments = [sys.executable, "-c", text, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", [0, 1, 20, 500])
def test_a_full_disk_loses_nothing_and_leaves_nothing_half_written(folder, room):
    limited(
        folder,
        f"""
with opened(folder) as authority:
    enroll(authority)
    size = (folder / "private" / "issued.log").stat().st_size
    limit(size + {room})
    before = len(authority.issued()), authority.holder("ALPHA")
    try:
        enroll(authority, key=KEYS[1])
    except VaultError as error:
        assert error.code == "disk_full", error.code
    else:
        raise SystemExit("it was written")
    assert (len(authority.issued()), authority.holder("ALPHA")) == before
    assert (folder / "private" / "issued.log").stat().st_size == size
    limit(resource.RLIM_INFINITY)
    enroll(authority, "BETA")
""",
    )
    with opened(folder) as authority:
        assert [one.name for one, _ in authority.issued()] == ["TRUST", "ALPHA", "BETA"]


def test_tidying_that_fails_loses_nothing_and_is_tried_again(folder):
    """No file can be opened any more; what is open goes on."""
    limited(
        folder,
        """
with opened(folder) as authority:
    enroll(authority)
    count = lambda: (folder / "private" / "issued.log").read_bytes().count(b"\\n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    seen = [authority.next_policy_version() for _ in range(1_500)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert count() > 1_500
    seen += [authority.next_policy_version() for _ in range(1_500)]
    assert seen == list(range(1, 3_001))
    assert count() < 1_500
""",
    )
    with opened(folder) as authority:
        assert authority.next_policy_version() == 3_001
        assert authority.holder("ALPHA") is not None


def test_a_revocation_that_could_not_be_published_is_published_later(folder):
    limited(
        folder,
        """
with opened(folder) as authority:
    enroll(authority)
    (folder / "public" / "crl.pem").unlink()
    (folder / "public" / "crl.pem").mkdir()
    from bus.trust.revocations import Reason
    try:
        authority.revoke("ALPHA", Reason.COMPROMISED)
    except VaultError as error:
        assert error.code == "disk", error.code
    else:
        raise SystemExit("it was written")
    assert authority.standings() == {"ALPHA": (1, 0)}
    (folder / "public" / "crl.pem").rmdir()
    assert len(authority.revocations().revoked) == 1
    assert (folder / "public" / "crl.pem").is_file()
""",
    )

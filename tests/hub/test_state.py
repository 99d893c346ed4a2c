"""The state folder: whose it is, where its sockets are, and that one process has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bus.errors import ConnectError, StateInUseError
from bus.hub.state import holder_of, open_state, owned


@pytest.fixture
def environ(runtime) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(runtime)}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_made_and_nobody_else_can_look_into_it(tmp_path, environ):
    state = open_state(tmp_path / "a" / "state", environ=environ)
    assert mode(state.folder) == mode(state.runtime) == mode(state.runtime.parent) == 0o700
    assert state.swtpm.parent == state.vault.parent == state.tpm_lock.parent == state.folder
    assert state.tpm_socket.parent == state.swtpm_socket.parent == state.runtime
    assert (state.folder / "run").readlink() == state.runtime


def test_opening_it_again_gives_the_same(tmp_path, environ):
    assert open_state(tmp_path / "state", environ=environ) == open_state(tmp_path / "state", environ=environ)


def test_two_folders_have_two_places_for_their_sockets(tmp_path, environ):
    first, second = (open_state(tmp_path / name, environ=environ) for name in ("one", "two"))
    assert first.runtime != second.runtime


def test_a_folder_by_another_path_is_the_same_folder(tmp_path, environ):
    first = open_state(tmp_path / "state", environ=environ)
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert open_state(tmp_path / "link", environ=environ).runtime == first.runtime


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"TPMBUS_STATE": "{tmp}/mine", "XDG_STATE_HOME": "{tmp}/xdg"}, "mine"),
        ({"XDG_STATE_HOME": "{tmp}/xdg"}, "xdg/tpmbus"),
        ({"TPMBUS_STATE": "", "XDG_STATE_HOME": "{tmp}/xdg"}, "xdg/tpmbus"),
    ],
)
def test_the_environment_says_where_it_is(tmp_path, environ, settings, wanted):
    settings = {name: value.format(tmp=tmp_path) for name, value in settings.items()}
    assert open_state(environ=environ | settings).folder == tmp_path / wanted


def test_sockets_have_short_paths_however_long_that_of_the_folder_is(tmp_path, environ):
    state = open_state(tmp_path / ("long" * 40) / ("longer" * 30), environ=environ)
    assert len(os.fsencode(state.swtpm_socket)) + len(".ctrl") < 108


@pytest.mark.parametrize("given", ["", "/nowhere/at/all", "/tmp/" + "x" * 80])
def test_a_runtime_folder_that_will_not_do_is_replaced_by_one_of_our_own(tmp_path, given):
    state = open_state(tmp_path / "state", environ={"XDG_RUNTIME_DIR": given})
    try:
        assert state.runtime.parent.name == f"tpmbus-{os.getuid()}"
        assert mode(state.runtime.parent) == 0o700
    finally:
        state.runtime.rmdir()


def test_a_runtime_folder_too_long_for_the_paths_of_sockets_is_not_used(tmp_path):
    given = tmp_path / ("x" * 60)
    given.mkdir()
    state = open_state(tmp_path / "state", environ={"XDG_RUNTIME_DIR": str(given)})
    try:
        assert list(given.iterdir()) == []
        assert len(os.fsencode(state.swtpm_socket)) + len(".ctrl") < 108
    finally:
        state.runtime.rmdir()


def test_a_runtime_folder_that_somebody_else_put_there_first_is_refused(tmp_path, runtime, environ):
    (tmp_path / "trap").mkdir()
    (runtime / "tpmbus").symlink_to(tmp_path / "trap")
    with pytest.raises(ConnectError):
        open_state(tmp_path / "state", environ=environ)
    assert list((tmp_path / "trap").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder somebody else's")
def test_a_runtime_folder_of_another_user_is_refused(tmp_path, runtime, environ):
    (runtime / "tpmbus").mkdir()
    os.chown(runtime / "tpmbus", 12_345, 12_345)
    with pytest.raises(ConnectError):
        open_state(tmp_path / "state", environ=environ)


def test_a_runtime_folder_that_others_could_open_is_closed(tmp_path, runtime, environ):
    (runtime / "tpmbus").mkdir(mode=0o755)
    open_state(tmp_path / "state", environ=environ)
    assert mode(runtime / "tpmbus") == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder somebody else's")
def test_a_state_folder_of_another_user_is_refused(tmp_path, environ):
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12_345, 12_345)
    with pytest.raises(ConnectError):
        open_state(tmp_path / "state", environ=environ)


@pytest.mark.parametrize("below", ["", "state"])
def test_a_place_that_is_no_folder_is_refused(tmp_path, environ, below):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConnectError):
        open_state(tmp_path / "file" / below, environ=environ)


def test_a_link_to_an_old_runtime_folder_is_replaced(tmp_path, environ):
    state = open_state(tmp_path / "state", environ=environ)
    (state.folder / "run").unlink()
    (state.folder / "run").symlink_to("/nowhere")
    assert open_state(tmp_path / "state", environ=environ) == state
    assert (state.folder / "run").readlink() == state.runtime


def test_who_asks_is_told_who_has_it_and_takes_nothing(tmp_path):
    lock = tmp_path / "lock"
    assert holder_of(lock) is None
    with owned(lock, url="unix:///x.sock", tpm="swtpm"):
        assert holder_of(lock) == {"pid": os.getpid(), "url": "unix:///x.sock", "tpm": "swtpm"}
    assert holder_of(lock) is None
    with owned(lock, url="u"):
        pass


def test_whoever_only_looks_keeps_nobody_from_having_it(tmp_path):
    """To look, one has the lock for an instant."""
    program = (
        "import sys; from pathlib import Path; from bus.hub.state import holder_of\n"
        "print('looks', flush=True)\nwhile True:\n    holder_of(Path(sys.argv[1]))"
    )
    lock = tmp_path / "lock"
    looking = subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE)
    try:
        assert looking.stdout.readline() == b"looks\n"
        for _ in range(5_000):
            with owned(lock, url="u"):
                pass
    finally:
        looking.kill()
        looking.communicate()


def test_who_gives_it_back_leaves_no_word_for_the_next_one(tmp_path):
    """Who has it next says so a moment later: until then nobody may take the last one for the one who has it."""
    with owned(tmp_path / "lock", url="unix:///last.sock"):
        pass
    assert (tmp_path / "lock").read_bytes() == b""


# ---- one owner -----------------------------------------------------------------------------------------------------------------


def test_who_comes_second_is_told_who_was_first(tmp_path):
    lock = tmp_path / "lock"
    with owned(lock, url="unix:///first.sock"):
        with pytest.raises(StateInUseError) as caught, owned(lock, url="unix:///second.sock"):
            pass
        assert (caught.value.pid, caught.value.url) == (os.getpid(), "unix:///first.sock")
    with owned(lock, url="unix:///third.sock"):
        pass


def test_an_owner_that_failed_gives_it_back(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path / "lock", url="u"):
        raise ZeroDivisionError
    with owned(tmp_path / "lock", url="u"):
        pass


def test_an_owner_that_was_killed_gives_it_back(tmp_path):
    lock = tmp_path / "lock"
    program = (
        "import sys; from pathlib import Path; from bus.hub.state import owned\n"
        "with owned(Path(sys.argv[1]), url='unix:///killed.sock'):\n    print('mine', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"mine\n"
        with pytest.raises(StateInUseError) as caught, owned(lock, url="u"):
            pass
        assert (caught.value.pid, caught.value.url) == (process.pid, "unix:///killed.sock")
    finally:
        process.kill()
        process.communicate()
    with owned(lock, url="u"):
        assert json.loads(lock.read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"5", b'{"pid": "x"}', b'{"pid": null}', b"\xff"])
def test_a_lock_file_that_says_nonsense_is_in_use_all_the_same(tmp_path, text):
    """Between the lock and what is written into it there is a moment."""
    lock = tmp_path / "lock"
    with owned(lock, url="u"):
        lock.write_bytes(text)
        with pytest.raises(StateInUseError) as caught, owned(lock, url="fallback"):
            pass
        assert (caught.value.pid, caught.value.url) == (0, "fallback")

"""Which files are read, and what happens with those that should not be."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from bus.errors import PolicyError
from bus.policy import files, open_policy
from bus.policy.source import MAX_FILE_BYTES

ROLES = "version: 1\nroles: {x: {key: ecc256/sha256}}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str = ROLES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_is_its_yaml_files_and_no_others(place):
    write(place / "p/a.yaml")
    write(place / "p/b.yml", "version: 1\n")
    write(place / "p/c.test.yaml", "nonsense")
    write(place / "p/d.json", "{}")
    write(place / "p/deeper/e.yaml", "nonsense")
    assert list(files.read("p")) == ["p/a.yaml", "p/b.yml"]
    assert list(files.read_expectations("p")) == ["p/c.test.yaml"]
    assert list(files.read_expectations("p/a.yaml")) == ["p/c.test.yaml"]


def test_a_file_is_itself_and_its_roster(place):
    write(place / "p/a.yaml", ROLES + "agents: ../people/roster.yaml\n")
    write(place / "people/roster.yaml", "version: 1\nagents: {A: x}\n")
    assert list(files.read("p/a.yaml")) == ["p/a.yaml", "people/roster.yaml"]
    assert open_policy(place / "p").role_of("A").name == "x"


def test_a_roster_that_is_missing_is_said_at_its_line(place):
    write(place / "p/a.yaml", ROLES + "agents: ../people/roster.yaml\n")
    with pytest.raises(PolicyError) as caught:
        open_policy("p")
    assert caught.value.problems[0][:3] == ("p/a.yaml", 3, 9)


def test_a_shipped_name_means_the_shipped_policy_wherever_one_stands(place):
    write(place / "minimal/p.yaml", "nonsense: 1\n")
    assert open_policy("minimal").others == "agent"
    with pytest.raises(PolicyError):
        open_policy("./minimal")
    with pytest.raises(PolicyError):
        open_policy(Path("minimal"))


@pytest.mark.parametrize("name", ["nowhere", "defualt", "p/empty"])
def test_what_is_not_there_is_a_policy_error(place, name):
    (place / "p/empty").mkdir(parents=True)
    with pytest.raises(PolicyError) as caught:
        open_policy(name)
    assert caught.value.file == name


def test_a_misspelt_name_gets_the_nearest(place):
    with pytest.raises(PolicyError) as caught:
        open_policy("minimla")
    assert "'minimal'" in caught.value.problems[0].message


def test_a_large_file_is_refused_before_it_is_read(place, monkeypatch):
    with (place / "p.yaml").open("wb") as stream:
        stream.truncate(10_000_000)
    monkeypatch.setattr(Path, "open", None)
    with pytest.raises(PolicyError) as caught:
        open_policy("p.yaml")
    assert caught.value.file == "p.yaml"


def test_a_file_that_has_more_than_it_says_is_read_no_further_than_its_limit(place):
    """A pipe, a device, or what grows meanwhile: the disk says that it is empty."""
    os.mkfifo(place / "p.yaml")

    def write_much() -> None:
        with suppress(BrokenPipeError), (place / "p.yaml").open("wb", buffering=0) as stream:
            for _ in range(64):
                stream.write(b"#" * (MAX_FILE_BYTES // 16))

    writer = Thread(target=write_much)
    writer.start()
    try:
        assert len(files.read("p.yaml")["p.yaml"]) == MAX_FILE_BYTES + 1
    finally:
        writer.join()


def test_too_many_files_and_too_many_bytes_are_refused(place, monkeypatch):
    for number in range(4):
        write(place / f"p/{number}.yaml", "version: 1\n")
    monkeypatch.setattr(files, "MAX_FILES", 3)
    with pytest.raises(PolicyError) as caught:
        open_policy("p")
    assert caught.value.file == "p/3.yaml"
    monkeypatch.setattr(files, "MAX_FILES", 4)
    monkeypatch.setattr(files, "MAX_TOTAL_BYTES", 25)
    with pytest.raises(PolicyError) as caught:
        open_policy("p")
    assert caught.value.file == "p/2.yaml"


def test_a_file_that_cannot_be_read_is_a_policy_error(place):
    write(place / "p/a.yaml")
    (place / "p/a.yaml").chmod(0)
    try:
        (place / "p/a.yaml").read_bytes()
    except PermissionError:
        with pytest.raises(PolicyError):
            open_policy("p")
    else:
        pytest.skip("this user may read everything")


def test_a_folder_that_ends_in_yaml_and_a_pipe_are_no_policy_files(place):
    (place / "p/folder.yaml").mkdir(parents=True)
    os.mkfifo(place / "p/pipe.yaml")
    write(place / "p/a.yaml")
    assert list(files.read("p")) == ["p/a.yaml"]

"""The room's one file that reads files: a policy file, a folder of them, or the name of a shipped policy -> texts.

Of a folder, what lies directly in it and ends in .yaml or .yml, but not *.test.yaml (expectations); and the roster files that
these ask for. Sizes are checked before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import path
from pathlib import Path
from typing import Final

from bus.errors import PolicyError, Problem
from bus.policy.loader import MAX_FILES, MAX_TOTAL_BYTES, load, roster_files
from bus.policy.near import hint
from bus.policy.policy import Policy
from bus.policy.source import MAX_FILE_BYTES
from bus.shipped import folder

SUFFIXES: Final = (".yaml", ".yml")
SHIPPED: Final = {"default": ".", "minimal": "minimal", "tutorial": "tutorial"}
"""Names of shipped policies, each with its place in `policies/`."""


def open_policy(path_or_name: str | Path | None = None) -> Policy:
    """The policy in a file or folder, or a shipped one; without an argument `default`. Raises PolicyError with every mistake."""
    return load(read(path_or_name))


def read(path_or_name: str | Path | None = None) -> dict[str, bytes]:
    """The texts of a policy by path, rosters included. Raises PolicyError for files that are missing, too large or too many."""
    found = find(path_or_name)
    texts = _read_all(_policy_files(found) if found.is_dir() else [found])
    rosters = [Path(roster) for roster in roster_files(texts) if roster not in texts and Path(roster).is_file()]
    return {**texts, **_read_all(rosters)}


def read_expectations(path_or_name: str | Path | None = None) -> dict[str, bytes]:
    """The texts of the *.test.yaml files beside a policy, by path."""
    found = find(path_or_name)
    place = found if found.is_dir() else found.parent
    return _read_all(file for file in _yaml_files(place) if is_expectations(file))


def find(path_or_name: str | Path | None = None) -> Path:
    """The file or folder that is meant. A shipped name always means the shipped policy; a folder of that name is `./name`."""
    given = "default" if path_or_name is None else str(path_or_name)
    if given in SHIPPED and not isinstance(path_or_name, Path):
        return _shown(folder("policies") / SHIPPED[given])
    if Path(given).exists():
        return Path(given)
    known = hint(given, SHIPPED) or f"; the shipped ones are {', '.join(SHIPPED)}"
    raise PolicyError([Problem(given, 1, 1, f"there is no such file or folder, and no shipped policy of this name{known}")])


def is_expectations(file: Path) -> bool:
    return file.name.endswith(tuple(f".test{suffix}" for suffix in SUFFIXES))


def _shown(place: Path) -> Path:
    """Relative to where the user stands if it is below, so that messages stay short."""
    place = Path(path.normpath(place))
    try:
        return place.relative_to(Path.cwd())
    except (ValueError, OSError):
        return place


def _policy_files(place: Path) -> list[Path]:
    files = [file for file in _yaml_files(place) if not is_expectations(file)]
    if not files:
        message = "there is no policy file (*.yaml) directly in this folder; a policy is at least one file with 'version: 1'"
        raise PolicyError([Problem(place.as_posix(), 1, 1, message)])
    return files


def _yaml_files(place: Path) -> list[Path]:
    try:
        return sorted(file for file in place.iterdir() if file.suffix in SUFFIXES and file.is_file())
    except OSError as error:
        raise PolicyError([_unreadable(place, error)]) from error


def _read_all(files: Iterable[Path]) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    total = 0
    for file in files:
        try:
            size = file.stat().st_size
            total += size
            if size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES or len(texts) >= MAX_FILES:
                raise PolicyError([_too_much(file, size)])
            with file.open("rb") as stream:
                texts[file.as_posix()] = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise PolicyError([_unreadable(file, error)]) from error
    return texts


def _too_much(file: Path, size: int) -> Problem:
    if size > MAX_FILE_BYTES:
        message = f"is {size:,} bytes long; a policy file has at most {MAX_FILE_BYTES:,}; split it into several files of one folder"
    else:
        message = f"is one file too many: a policy has at most {MAX_FILES:,} files and {MAX_TOTAL_BYTES:,} bytes in all"
    return Problem(file.as_posix(), 1, 1, message)


def _unreadable(file: Path, error: OSError) -> Problem:
    return Problem(file.as_posix(), 1, 1, f"cannot be read: {error.strerror or error}")

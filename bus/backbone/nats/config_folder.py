"""A folder with the configuration of NATS servers, and with the keys that they know: NAME.conf, and NAME.nk for each who logs in.

All files are 0600. A key that is there is never made anew, because brokers have it; a configuration is, and only for who says so.
Nothing is written before it is known that all can be.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bus.backbone.nats.login import Login
from bus.backbone.nats.nkeys import SEED_BYTES, parse_seed, seed_text
from bus.errors import BackboneError

_PASSWORD: Final = re.compile(r'user: "servers", password: "([0-9a-f]{48})"', re.ASCII)
LOOK: Final = "look"
"""Who may see how things stand, and no message."""


def seed_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.nk"


def config_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.conf"


def check_is_free(folder: Path, servers: Sequence[str]) -> None:
    """Raises BackboneError("exists")."""
    for path in (config_file(folder, name) for name in servers):
        if path.exists():
            raise BackboneError("exists", f"{path} is there already: another folder, or --force to write it anew", path=str(path))


def seeds(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Those that are there, and new ones, which are not written yet. Raises BackboneError("login")."""
    found: dict[str, bytes] = {}
    for name in names:
        path = seed_file(folder, name)
        found[name] = parse_seed(Login.read(nkey=path).seed) if path.exists() else secrets.token_bytes(SEED_BYTES)
    return found


def password(folder: Path, servers: Sequence[str]) -> str:
    """By which servers know each other: the one that is there, so that they may read their configurations one after the other."""
    for path in (config_file(folder, name) for name in servers):
        found = _PASSWORD.search(path.read_text()) if path.exists() else None
        if found is not None:
            return found[1]
    return secrets.token_hex(24)


def write(folder: Path, keys: Mapping[str, bytes], configs: Mapping[str, str]) -> None:
    """Raises BackboneError("disk")."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, seed in keys.items():
            if not seed_file(folder, name).exists():
                _put(seed_file(folder, name), f"{seed_text(seed)}\n")
        for name, text in configs.items():
            _put(config_file(folder, name), text)
    except OSError as error:
        raise BackboneError("disk", f"{folder} cannot be written: {error.strerror}", path=str(folder)) from error


def _put(path: Path, text: str) -> None:
    """All of it or nothing."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

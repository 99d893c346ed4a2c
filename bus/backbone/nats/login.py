"""How a broker logs in to NATS: with an nkey's seed, or with a file of credentials as `nsc` writes them. Neither tells the secret.

They are read from files before a broker is contained, and no file is read again when a server was away. What is secret stands in no
URL, command line, repr, log or error: only a file's path does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from bus.backbone.nats.nkeys import parse_seed, public_text
from bus.errors import BackboneError

NKEY_FILE: Final = "TPMBUS_NATS_NKEY"
CREDENTIALS_FILE: Final = "TPMBUS_NATS_CREDS"
"""Environment variables with the path of a file."""
MAX_FILE_BYTES: Final = 64 << 10
USUAL_INBOX: Final = "_INBOX"
"""Of who logs in otherwise than by an nkey: what it may hear is for whoever configures that."""
_MARKS: Final = ("-----BEGIN NATS USER JWT-----", "-----BEGIN USER NKEY SEED-----")


@dataclass(frozen=True, slots=True)
class Login:
    """One of the two, or neither: who needs none, or has a password in the URL."""

    seed: str = field(default="", repr=False)
    credentials: str = field(default="", repr=False)

    @classmethod
    def read(cls, *, nkey: Path | None = None, credentials: Path | None = None) -> Self:
        """Blocks. Raises BackboneError("login")."""
        if nkey is not None and credentials is not None:
            raise BackboneError("login", f"log in to NATS with an nkey ({nkey}) or with credentials ({credentials}), not with both")
        if nkey is not None:
            return cls(seed=_seed(nkey))
        return cls() if credentials is None else cls(credentials=_credentials(credentials))

    @property
    def inbox(self) -> str:
        """What the subjects begin with on which answers come."""
        return inbox_of(public_text(parse_seed(self.seed))) if self.seed else USUAL_INBOX

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """The files that TPMBUS_NATS_NKEY or TPMBUS_NATS_CREDS name. Blocks. Raises BackboneError("login")."""
        nkey, credentials = (environ.get(name) for name in (NKEY_FILE, CREDENTIALS_FILE))
        return cls.read(nkey=Path(nkey) if nkey else None, credentials=Path(credentials) if credentials else None)


def inbox_of(public: str) -> str:
    """Of who has this nkey: nobody else may listen there, so that answers are for who asked."""
    return f"{USUAL_INBOX}_{public}"


def _seed(path: Path) -> str:
    """The first line that is no comment, as NATS's own tools have it."""
    lines = [line.strip() for line in _text(path).splitlines()]
    seed = next((line for line in lines if line and not line.startswith("#")), "")
    try:
        parse_seed(seed)
    except ValueError:
        raise BackboneError("login", f"{path} holds no nkey seed of a user (it begins with SU)", path=str(path)) from None
    return seed


def _credentials(path: Path) -> str:
    text = _text(path)
    lines = [line.strip() for line in text.splitlines()]
    try:
        places = [lines.index(mark) + 1 for mark in _MARKS]
        parse_seed(lines[places[1]])
    except (ValueError, IndexError):
        said = f"{path} is no file of NATS credentials (a JWT and a seed, as `nsc generate creds` writes them)"
        raise BackboneError("login", said, path=str(path)) from None  # the cause would quote the file
    return text


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BackboneError("login", f"{path}, with which to log in to NATS, cannot be read: {reason}", path=str(path)) from error


NO_LOGIN: Final = Login()

"""Who may enrol under which name: what an operator wrote down. A value; each change makes another one.

Three ways to be on it: the hash of the chip's endorsement key, a one-time token (128 bits, kept as SHA-256, good for an hour),
or a local user, whom the kernel names. A token enrols once: the enrolment that succeeds uses it up. One that fails does not (a
chip that is not believed yet, a name that is held): what is wrong is put right, and the same token tried again within its hour.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from bus.errors import AttestationError
from bus.protocol.names import is_agent_name
from bus.trust.enrolment_messages import TOKEN_BYTES

MAX_UID: Final = (1 << 32) - 2

TOKEN_MS: Final = 3_600_000
KEEP_SPENT_MS: Final = 24 * 3_600_000
"""How long it is still known what became of a token, so that its holder hears why it does not count."""
EVERY_NAME: Final = "*"
"""For local users alone: the owner of a state folder may enrol whomever policy knows."""
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Token:
    """A token's fate; the token itself is kept nowhere."""

    name: str
    ends_ms: int
    used: bool = False


@dataclass(frozen=True, slots=True)
class EnrolmentList:
    """Made without arguments it lets nobody in."""

    chips: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    """By name: SHA-256 of the endorsement keys that may have it."""
    tokens: Mapping[bytes, Token] = field(default_factory=dict, repr=False)
    """By the token's SHA-256."""
    uids: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("chips", "tokens", "uids"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    # -- what an operator does -------------------------------------------------------------------------------------------------

    def with_chip(self, name: str, ek_hash: bytes) -> EnrolmentList:
        if len(ek_hash) != hashlib.sha256().digest_size:
            raise ValueError("a chip is listed by the SHA-256 of its endorsement key: 32 bytes")
        return replace(self, chips={**self.chips, _checked(name): self.chips.get(name, frozenset()) | {ek_hash}})

    def with_token(self, name: str, token: bytes, *, now_ms: int) -> EnrolmentList:
        """`token`: 16 random bytes, which only the agent's operator gets."""
        if len(token) != TOKEN_BYTES:
            raise ValueError(f"a token has {TOKEN_BYTES} random bytes, not {len(token)}")
        return self.with_token_hash(name, _digest(token), now_ms=now_ms)

    def with_token_hash(self, name: str, digest: bytes, *, now_ms: int) -> EnrolmentList:
        """`digest`: SHA-256 of a token that somebody else made. One that was known before stays as it is: a token enrols once."""
        if len(digest) != hashlib.sha256().digest_size:
            raise ValueError("a token is listed by its SHA-256: 32 bytes")
        if digest in self.tokens:
            return self
        known = {digest: each for digest, each in self.tokens.items() if each.ends_ms + KEEP_SPENT_MS > now_ms}
        return replace(self, tokens={**known, digest: Token(_checked(name), now_ms + TOKEN_MS)})

    def with_uid(self, name: str, uid: int) -> EnrolmentList:
        """`name` may be EVERY_NAME."""
        if not 0 <= uid <= MAX_UID:
            raise ValueError(f"a local user has a number from 0 to {MAX_UID}, not {uid}")
        if name != EVERY_NAME:
            _checked(name)
        return replace(self, uids={**self.uids, name: self.uids.get(name, frozenset()) | {uid}})

    def without(self, name: str) -> EnrolmentList:
        """Nobody may have this name any more, but by what is true of every name. A revocation asks for it."""
        return EnrolmentList(
            {other: chips for other, chips in self.chips.items() if other != name},
            {digest: token for digest, token in self.tokens.items() if token.name != name},
            {other: uids for other, uids in self.uids.items() if other != name or other == EVERY_NAME},
        )

    # -- what an enrolment asks ------------------------------------------------------------------------------------------------

    def without_tokens(self, tokens: Iterable[bytes]) -> EnrolmentList:
        """These have let somebody in, so they are used up. The same list where none of them was good."""
        used = {digest for digest in map(_digest, tokens) if digest in self.tokens and not self.tokens[digest].used}
        if not used:
            return self
        spent = {digest: replace(each, used=each.used or digest in used) for digest, each in self.tokens.items()}
        return replace(self, tokens=spent)

    def check_chip(self, name: str, ek_hash: bytes) -> None:
        """Raises AttestationError("not_listed")."""
        if ek_hash not in self.chips.get(name, ()):
            raise AttestationError("not_listed", agent=name, detail="add the chip with `tpmbus trust enroll`, or use a token")

    def check_token(self, name: str, token: bytes, *, now_ms: int) -> None:
        """Raises AttestationError: token_unknown, token_used, token_expired, token_other_name."""
        known = self.tokens.get(_digest(token))
        if known is None:
            raise AttestationError("token_unknown", agent=name, detail="no such token was given out here")
        if known.used:
            raise AttestationError("token_used", agent=name, detail="a token enrols once; ask for another")
        if now_ms >= known.ends_ms:
            raise AttestationError("token_expired", agent=name, detail="a token is good for an hour; ask for another")
        if known.name != name:
            raise AttestationError(
                "token_other_name", agent=name, detail="this token is for another name; ask for one for this name"
            )

    def check_uid(self, name: str, uid: int | None) -> None:
        """`uid`: whom the kernel names at the other end; None where it names nobody. Raises AttestationError("uid_unknown")."""
        if uid not in self.uids.get(name, frozenset()) | self.uids.get(EVERY_NAME, frozenset()):
            raise AttestationError("uid_unknown", agent=name, detail="this local user may not enrol that name")

    # -- at rest ---------------------------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """JSON, for operators to read; what is in it lets nobody in."""
        document = {
            "version": VERSION,
            "chips": {name: sorted(chip.hex() for chip in chips) for name, chips in sorted(self.chips.items())},
            "tokens": {digest.hex(): [each.name, each.ends_ms, each.used] for digest, each in sorted(self.tokens.items())},
            "uids": {name: sorted(uids) for name, uids in sorted(self.uids.items())},
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> EnrolmentList:
        """What `encode` gave. Raises ValueError for anything else: an authority does not guess whom it may let in."""
        try:
            document = json.loads(data)
            parsed = _from_document(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"this is no enrolment list: {error}") from error
        if parsed.encode() != data:
            raise ValueError("this enrolment list was not written by tpmbus, or not by this version of it")
        return parsed


def _from_document(document: dict[str, Any]) -> EnrolmentList:
    if document["version"] != VERSION:
        raise ValueError(f"it is of version {document['version']!r}")
    return EnrolmentList(
        {_checked(name): frozenset(map(bytes.fromhex, chips)) for name, chips in document["chips"].items()},
        {bytes.fromhex(digest): _token(*fields) for digest, fields in document["tokens"].items()},
        {name: frozenset(map(_uid, uids)) for name, uids in document["uids"].items()},
    )


def _token(name: str, ends_ms: int, used: object) -> Token:
    if type(ends_ms) is not int or type(used) is not bool:
        raise ValueError("a token without its end or its use")
    return Token(_checked(name), ends_ms, used)


def _uid(uid: object) -> int:
    if type(uid) is not int or uid < 0:
        raise ValueError("a user without a number")
    return uid


def _checked(name: str) -> str:
    if not is_agent_name(name):
        raise ValueError(f"{name[:64]!r} is no agent name: 1 to 32 of A-Z 0-9, a letter first")
    return name


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()

"""What the authority knows, in memory: made by applying the journal's entries, one after the other, and nothing else.

An entry says what is so from now on: certificates issued, revocations, generations, numbers taken. Applying one twice changes
nothing, and all that is known can be said in entries again, which is how a journal gets rid of what no longer counts.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bus.trust.profiles import DAY_MS, Profile
from bus.trust.revocations import Reason, Revocation

KEPT_MS: Final = 366 * DAY_MS
"""How long an identity's certificate is remembered after its end: what it signed may still lie somewhere, and can be taken back."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate."""

    serial: int
    profile: Profile
    name: str
    ek_hash: bytes
    not_after_ms: int
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry. Whatever it holds is set; nothing is taken away."""

    issued: tuple[Issued, ...] = ()
    revoked: Mapping[int, Revocation] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    ml_dsa: Mapping[str, bytes] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "issued": [_issued_to_json(one) for one in self.issued],
            "revoked": {f"{serial:x}": [one.date_ms, one.reason.value] for serial, one in self.revoked.items()},
            "generations": dict(self.generations),
            "sessions": dict(self.sessions),
            "ml_dsa": {name: digest.hex() for name, digest in self.ml_dsa.items()},
            "numbers": dict(self.numbers),
        }
        return {key: value for key, value in entry.items() if value}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Change:
        return cls(
            issued=tuple(_issued_from_json(one) for one in entry.get("issued", ())),
            revoked={
                int(serial, 16): Revocation(int(date), Reason(reason))
                for serial, (date, reason) in entry.get("revoked", {}).items()
            },
            generations={name: int(value) for name, value in entry.get("generations", {}).items()},
            sessions={name: int(value) for name, value in entry.get("sessions", {}).items()},
            ml_dsa={name: bytes.fromhex(value) for name, value in entry.get("ml_dsa", {}).items()},
            numbers={name: int(value) for name, value in entry.get("numbers", {}).items()},
        )


class Index:
    def __init__(self) -> None:
        self.issued: dict[int, Issued] = {}
        self.revoked: dict[int, Revocation] = {}
        self.generations: dict[str, int] = {}
        self.sessions: dict[str, int] = {}
        self.ml_dsa: dict[str, bytes] = {}
        self.numbers: dict[str, int] = {}
        self._serials: dict[tuple[Profile, str], list[int]] = {}

    def apply(self, change: Change) -> None:
        for one in change.issued:
            if one.serial not in self.issued:
                self._serials.setdefault((one.profile, one.name), []).append(one.serial)
            self.issued[one.serial] = one
        self.revoked |= change.revoked
        self.generations |= change.generations
        self.sessions |= change.sessions
        self.ml_dsa |= change.ml_dsa
        self.numbers |= change.numbers

    def of(self, profile: Profile, name: str) -> list[Issued]:
        """All that this name was given, the newest last."""
        return [self.issued[serial] for serial in self._serials.get((profile, name), ())]

    def current(self, profile: Profile, name: str) -> Issued | None:
        """The newest that is not revoked, nor about to be."""
        serials = self._serials.get((profile, name), ())
        return next((self.issued[serial] for serial in reversed(serials) if serial not in self.revoked), None)

    def names(self) -> Iterator[tuple[Profile, str]]:
        yield from self._serials

    def changes(self, now_ms: int) -> Iterator[Change]:
        """All that still counts, as changes that make the same index again. Only certificates that ended are left out."""
        kept = [one for one in self.issued.values() if self._counts(one, now_ms)]
        yield from (Change(issued=(one,)) for one in kept)
        yield Change(
            revoked=self.revoked,  # for the root's life: no clock may let anybody in again, whatever it says today
            generations=self.generations,
            sessions=self.sessions,
            ml_dsa=self.ml_dsa,
            numbers=self.numbers,
        )

    def _counts(self, one: Issued, now_ms: int) -> bool:
        if one.profile is Profile.TLS:
            return one.not_after_ms >= now_ms
        return one.not_after_ms + KEPT_MS >= now_ms or self.current(one.profile, one.name) == one


def _issued_to_json(one: Issued) -> dict[str, Any]:
    return {
        "serial": f"{one.serial:x}",
        "profile": one.profile.path,
        "name": one.name,
        "ek": one.ek_hash.hex(),
        "ends": one.not_after_ms,
        "der": b64encode(one.der).decode(),
    }


def _issued_from_json(entry: dict[str, Any]) -> Issued:
    return Issued(
        serial=int(entry["serial"], 16),
        profile=Profile[entry["profile"].upper()],
        name=str(entry["name"]),
        ek_hash=bytes.fromhex(entry["ek"]),
        not_after_ms=int(entry["ends"]),
        der=b64decode(entry["der"], validate=True),
    )

"""Which TPMs one vault may have, when there are several: who is who, and whose keys are whose.

A vault belongs to the TPMs that its keys were made in: each entry names the primary key that it is wrapped under. So of each TPM
that answers, one of these must hold, before anything secret goes to it:

- the vault has keys under its primary key. What it is called matters not: devices are numbered anew at each start;
- it is new: under its own name nothing was made yet, and at least one of the others is known to the vault, or the vault is empty.

A TPM that answers to the name of another one was replaced, or somebody sits in between: it gets no keys. Nor do two names for
one TPM, which would be two queues for one chip. And one that was seen stays who it was for as long as the engine runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bus.errors import TpmRefusedError
from bus.tpm.interface import SOFTWARE
from bus.tpm.keyring import wrong_tpm
from bus.tpm.vault import Entry, Vault


@dataclass(slots=True)
class Roster:
    """`names`, in the order in which somebody named them. TPMs are opened in threads of their own, and report here."""

    names: Sequence[str]
    vault: Vault
    primaries: Mapping[str, bytes] = field(default_factory=dict)
    """The Name of each TPM's primary key, as far as it was ever reached. Replaced as a whole: read it without a lock."""
    origins: Mapping[str, str] = field(default_factory=dict)
    _all_are_asked: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def seen(self, name: str, origin: str, primary_name: bytes) -> None:
        """One was opened. Raises VaultError("wrong_tpm"), TpmRefusedError("same_tpm")."""
        with self._lock:
            if self._all_are_asked:  # before, nobody can say which of the others are known
                self._judge(name, origin, primary_name)
            self.primaries = {**self.primaries, name: primary_name}
            self.origins = {**self.origins, name: origin}

    def judge_all(self) -> None:
        """All that are there have reported: from now on each is judged when it is seen. Raises as `seen` does."""
        with self._lock:
            self._all_are_asked = True
            for name in self.names:
                if name in self.primaries:
                    self._judge(name, self.origins[name], self.primaries[name])

    def home(self, entry: Entry) -> str | None:
        """What the TPM is called in which this key lives; None if it is none of these."""
        primaries = self.primaries
        for name, primary_name in primaries.items():
            if primary_name == entry.parent:
                return name
        return entry.tpm if entry.tpm in self.names and entry.tpm not in primaries else None

    def _judge(self, name: str, origin: str, primary_name: bytes) -> None:
        before = self.primaries.get(name, primary_name)
        if before != primary_name:
            raise wrong_tpm(name, before, primary_name)
        for other, found in self.primaries.items():
            if other != name and found == primary_name:
                text = f"TPM {name} and TPM {other} are one and the same: name it once"
                raise TpmRefusedError("same_tpm", text, tpm=name)
        entries = [entry for entry in self.vault.entries() if entry.info.origin == origin and origin != SOFTWARE]
        parents = {entry.parent for entry in entries}
        if not entries or primary_name in parents:
            return
        under_its_name = [entry.parent for entry in entries if entry.tpm == name]
        known = any(entry.tpm in self.names for entry in entries) or bool(parents & set(self.primaries.values()))
        if under_its_name or not known:
            raise wrong_tpm(name, min(under_its_name or parents), primary_name)

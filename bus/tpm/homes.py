"""In which of several TPMs each key lives: the vault says it, and here it is remembered.

Reading the vault may touch the disk, so that is done in a thread; what is remembered is not asked again. Keys never move, and a
name's current key changes through this engine alone; should the vault be changed from elsewhere, the TPM that is asked for a
key that is not its own says so, and the vault is looked at once more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from anyio import to_thread

from bus.clock import Clock
from bus.protocol.suites import Suite
from bus.tpm.interface import SOFTWARE, KeyInfo
from bus.tpm.keyring import ATTESTATION, elsewhere
from bus.tpm.roster import Roster
from bus.tpm.vault import Entry, Vault

_REMEMBERED: Final = 16_384
"""Keys; one that is forgotten costs a look into the vault."""


@dataclass(slots=True)
class Homes:
    vault: Vault
    roster: Roster
    permit: Callable[[str, str], None]
    clock: Clock
    _remembered: OrderedDict[str, str] = field(default_factory=OrderedDict)

    async def of(self, key: str, *, anew: bool = False) -> str:
        """What the TPM of this key is called; `software` for one of the keystore.

        Raises TpmRefusedError("unknown_key"), VaultError("wrong_tpm") for a key of a TPM that nobody named.
        """
        found = None if anew else self._remembered.get(key)
        if found is None:
            found = await to_thread.run_sync(self._look_up, key)
            self._remembered[key] = found
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return found

    def forget(self, key: str) -> None:
        self._remembered.pop(key, None)

    async def for_create(self, name: str, suite: Suite, origin: str) -> KeyInfo | str | None:
        """The name's key if it has the right one; else what the TPM is called that must make it; else None: any may.

        Raises VaultError("wrong_tpm") where the name has its key in a TPM that nobody named, and what `permit` raises.
        """
        return await to_thread.run_sync(self._for_create, name, suite, origin)

    async def for_rotate(self, name: str) -> tuple[str, str | None]:
        """The origin of the name's key, and what its TPM is called; None if nobody named that, so that any may make the next."""

        def look() -> tuple[str, str | None]:
            entry = self.vault.find(name)
            return entry.info.origin, self._home(entry)

        return await to_thread.run_sync(look)

    async def keys(self) -> list[KeyInfo]:
        """The agents' keys, wherever they live."""
        return await to_thread.run_sync(lambda: [entry.info for entry in self.vault.entries() if entry.info.name != ATTESTATION])

    def _look_up(self, key: str) -> str:
        entry = self.vault.find(key)
        home = self._home(entry)
        if home is None:
            raise elsewhere(entry)
        return home

    def _home(self, entry: Entry) -> str | None:
        return SOFTWARE if entry.info.origin == SOFTWARE else self.roster.home(entry)

    def _for_create(self, name: str, suite: Suite, origin: str) -> KeyInfo | str | None:
        self.permit(name, origin)
        now_ms = self.clock.now_ms()
        mine = [entry for entry in self.vault.entries() if entry.info.name == name and entry.info.origin == origin]
        for entry in mine:
            if entry.info.ends_ms is None:
                home = self._home(entry)
                if home is None:
                    raise elsewhere(entry)
                return entry.info if entry.info.suite == suite.name else home
        for entry in sorted(mine, key=lambda entry: -entry.info.generation):
            lives = entry.info.ends_ms is not None and entry.info.ends_ms > now_ms
            if lives and entry.info.suite == suite.name and (home := self._home(entry)) is not None:
                return home
        return None

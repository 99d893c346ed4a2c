"""The policy and the trust that are in force where a hub runs: signed, stated, told to who follows, and kept up to date.

    at open                 the policy's files are signed if they say something new; a statement is issued if none is recent
    a watched file changed  it is signed as the next version, stated, and told. What is wrong with it is logged; the old one stays
    an agent joins          the same, with its name and role
    every five minutes      a statement is issued and told

One thing after the other, and each is on disk, accepted and remembered before anybody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bus.clock import Clock
from bus.errors import BusError, PolicyError
from bus.identity import trust_documents
from bus.identity.authority import Authority, policies
from bus.identity.authority.statements import INTERVAL_SECONDS, RETRY_SECONDS, Statements
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.policy import Policy, files, load
from bus.trust.bundle import Bundle

_log = logging.getLogger(__name__)
WATCH_SECONDS: Final = 1.0

Follow = Callable[[Snapshot], None]
Stamps = tuple[tuple[str, int, int, int], ...]


class InForce:
    """Of an authority that is open. `policy`: a file, a folder, or the name of a shipped policy. `agents`: who joins besides."""

    def __init__(
        self, authority: Authority, memory: TrustMemory, *, policy: str | Path, agents: Mapping[str, str], clock: Clock
    ) -> None:
        self._authority, self._memory, self._clock = authority, memory, clock
        self._place, self._agents = policy, dict(agents)
        self._statements = Statements(authority, clock=clock)
        self._verifier = Verifier(authority.root, authority.domain, ml_dsa_root=authority.ml_dsa_root)
        self._lock = anyio.Lock()
        self._texts: Mapping[str, bytes] = {}
        """As they were signed last."""
        self._stamps: Stamps = ()
        self._issue_at = 0.0
        self.snapshot: Snapshot
        self.documents: TrustDocuments
        self.first: list[Callable[[TrustDocuments], Awaitable[None]]] = []
        """Told before the others, and waited for: hosts of this process, so that they know the rule before a broker acts by it."""
        self.followers: list[Follow] = []
        """Told of each change, in the step of the loop in which it is in force. They must neither wait nor raise."""
        self.failures: dict[str, BusError] = {}
        """What is wrong now with the `policy`'s files, or kept the last `statement` from being issued; empty if all is well."""

    async def begin(self) -> None:
        """Whatever is to be signed, is; from here on there are a `snapshot` and `documents`. Raises PolicyError, VaultError."""
        async with self._lock:
            await to_thread.run_sync(self._sign_files)
            await to_thread.run_sync(self._issue_if_due)
            await self._tell()

    @property
    def policy(self) -> Policy:
        return self.snapshot.policy

    @property
    def place(self) -> str:
        """Where the policy's files are."""
        return str(self._place)

    # ---- changes -------------------------------------------------------------------------------------------------------------

    async def reload(self) -> bool:
        """Sign the files as they are now; whether they say something new. Raises PolicyError, and then the old ones stay."""
        async with self._lock:
            changed = await self._changed(self._sign_files)
        self.failures.pop("policy", None)  # whoever asked for it
        return changed

    async def join(self, agents: Mapping[str, str]) -> bool:
        """With these agents, and their roles, besides. Raises PolicyError."""
        async with self._lock:
            return await self._changed(lambda: self._sign(self._texts, {**self._agents, **agents}))

    async def settle(self, work: Callable[[], object] = lambda: None) -> None:
        """Do this with the authority, in a thread, and state whatever is no longer as the last statement says."""
        async with self._lock:
            await to_thread.run_sync(work)
            if not await to_thread.run_sync(self._statements.is_current):
                await self._issue_and_tell()

    async def _changed(self, sign: Callable[[], bool]) -> bool:
        changed = await to_thread.run_sync(sign)
        if changed:
            await self._issue_and_tell()
        return changed

    def _sign_files(self) -> bool:
        """The stamps are older than what is read, and of the files that were known: at worst they are read again for nothing."""
        self._stamps = _stamps(self._place, self._texts)
        return self._sign(files.read(self._place), self._agents)

    def _sign(self, texts: Mapping[str, bytes], agents: Mapping[str, str]) -> bool:
        """In a thread. Whether there is a new version."""
        everybody = _everybody(load(texts), policies.in_force(self._authority), agents)
        changed = policies.sign(self._authority, texts, agents=everybody, clock=self._clock).changed
        self._texts, self._agents = texts, dict(agents)
        return changed

    async def _issue_and_tell(self) -> None:
        await to_thread.run_sync(self._statements.issue)
        await self._tell()

    async def _tell(self) -> None:
        documents = await to_thread.run_sync(trust_documents.load, self._authority.public)
        self.snapshot = await trust_documents.accept(documents, self._memory, self._verifier)
        self.documents = documents
        age_ms = max(0, self._clock.now_ms() - self.snapshot.trust.statement.issued_ms)
        self._issue_at = self._clock.monotonic() + INTERVAL_SECONDS - age_ms / 1000
        for hear in self.first:
            await hear(documents)
        for follow in self.followers:
            follow(self.snapshot)

    def _issue_if_due(self) -> None:
        said = self._authority.last_statement()
        age_ms = self._clock.now_ms() - said.issued_ms if said is not None else 0
        if said is None or not 0 <= age_ms < INTERVAL_SECONDS * 1000 or not self._statements.is_current():
            self._statements.issue()

    # ---- now and then --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Statements in time, and what changes in the policy's files, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_stating)
            tasks.start_soon(self._keep_watching)

    async def _keep_stating(self) -> None:
        while True:
            await self._clock.sleep(max(0.0, self._issue_at - self._clock.monotonic()))
            async with self._lock:
                if self._clock.monotonic() >= self._issue_at and not await self._try("statement", self._issue_and_tell):
                    self._issue_at = self._clock.monotonic() + RETRY_SECONDS

    async def _keep_watching(self) -> None:
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            if await to_thread.run_sync(_stamps, self._place, self._texts) != self._stamps:
                await self._try("policy", self.reload)

    async def _try(self, what: str, work: Callable[[], Awaitable[object]]) -> bool:
        """What fails is said, and leaves things as they are."""
        try:
            await work()
        except BusError as error:
            self.failures[what] = error
            _log.error("the %s in force stays as it is: %s", what, error)
            return False
        self.failures.pop(what, None)
        return True


def _everybody(listed: Policy, bundle: Bundle | None, agents: Mapping[str, str]) -> dict[str, str]:
    """Who joined before and who joins now. Those whom the policy's files list meanwhile are theirs."""
    before = {name: role for name, role in policies.joined(bundle).items() if name not in listed.agents}
    return {**before, **agents}


def _stamps(place: str | Path, texts: Iterable[str]) -> Stamps:
    """What the disk says of the policy's files and of their folder: so that none is read again for nothing."""
    try:
        found = files.find(place)
    except PolicyError:
        return ()
    return tuple(_stamp(file) for file in [found, *map(Path, sorted(texts))])


def _stamp(file: Path) -> tuple[str, int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return (str(file), 0, 0, 0)
    return (str(file), status.st_mtime_ns, status.st_size, status.st_ino)

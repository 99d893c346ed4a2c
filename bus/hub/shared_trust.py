"""The trust that several gateways have in common: policy, revocation list and trust statement, in one value on NATS.

    authority     what its hub signs goes there, at once, in place of whatever is there
    gateway       what is there and newer counts here, at once; what is there and older is replaced by what counts here
    told          what the authority cannot store at once (the servers' disks are full) it tells live until it is stored: who fills
                  disks does not keep a revocation from the others
    read          believed only when it verifies against the root that is pinned here, and leads nobody back (`TrustMemory`)

A gateway writes what it goes by into STATE/broker/trust.bin before it remembers that it did: so one that is killed at any instant
begins again with what it remembers. Two buses that were given the same space on one NATS are told from each other by their roots,
and the second does not begin: what stands there is another bus only if that bus's own root has signed all of it, for this space.
Everything else is junk. It is set aside with a word in the log, and hub and gateways begin with what they have.

Nobody on NATS is believed. Who may write there can keep news from the gateways for as long as a trust statement lasts, and no
longer: then they say `trust_stale`, as behind a broker that keeps news back.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from anyio import to_thread

from bus.backbone.nats.bucket import OtherRevisionError
from bus.backbone.nats.watching import MAX_BYTES, PAUSE_SECONDS, Shared
from bus.clock import Clock
from bus.errors import BackboneError, BusError, RemoteProtocolError, VaultError, VerificationError
from bus.hub.state import State
from bus.identity import durable, trust_documents
from bus.identity.anchor import Anchor
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.public_trust import domain_of
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.codec import pack, unpack
from bus.trust.root import Root

VERSION: Final = 2
FILE: Final = "trust.bin"
LOGGED_SECONDS: Final = 60.0
NO_ROOM: Final = "disk_full"
_TRIES: Final = 8
_log = logging.getLogger(__name__)

Take = Callable[[Snapshot, TrustDocuments], None]
Believed = tuple[Snapshot, TrustDocuments]


class Value(NamedTuple):
    """What stands on NATS, and in the file of a gateway."""

    space: str
    """On NATS: so that a copy from elsewhere is no bus here."""
    root: bytes
    """Its certificate: whose trust it is, and what another bus is known by."""
    ml_dsa_root: bytes
    """Empty for none."""
    documents: TrustDocuments

    @classmethod
    def of(cls, space: str, anchor: Anchor, documents: TrustDocuments) -> Value:
        return cls(space, anchor.root.der, anchor.ml_dsa_root or b"", documents)

    def encode(self) -> bytes:
        one = self.documents
        return pack([VERSION, self.space, self.root, self.ml_dsa_root, one.crl, one.bundle, one.statement])

    @classmethod
    def parse(cls, data: bytes) -> Value:
        """Raises RemoteProtocolError("malformed")."""
        fields = unpack(data, longest=7, arrays=1)
        if [*map(type, fields)] != [int, str, *[bytes] * 5] or fields[0] != VERSION:
            raise RemoteProtocolError("malformed", "no trust of a bus")
        _, space, root, ml_dsa_root, *documents = fields
        return cls(space, root, ml_dsa_root, TrustDocuments(*documents))

    def domain(self) -> str:
        """Of the bus whose root has signed all of this. Blocks. Raises BusError where none has."""
        root = Root.of(self.root)
        found = domain_of(root)
        trust_documents.read(self.documents, root=root, domain=found, ml_dsa_root=self.ml_dsa_root or None)
        return found


class SharedTrust:
    """`believed`: what counts here now. `take` is told, in a step of the loop, of what counts from then on."""

    def __init__(
        self,
        shared: Shared,
        anchor: Anchor,
        memory: TrustMemory,
        believed: Believed,
        *,
        space: str,
        state: State,
        is_authority: bool,
        take: Take,
        clock: Clock,
    ) -> None:
        self._shared, self._memory, self._clock, self._take = shared, memory, clock, take
        self._anchor, self._space = anchor, space
        self._verifier = Verifier(anchor.root, anchor.domain, ml_dsa_root=anchor.ml_dsa_root)
        self._snapshot, self._documents = believed
        self._file, self._is_authority = state.broker / FILE, is_authority
        self._lock, self._judging = anyio.Lock(), anyio.Lock()
        self._is_untold = is_authority
        """Ours is not where the others look, as far as is known."""
        self._told, self._was_told = b"", anyio.Event()
        self._logged = 0.0
        self._counts: Counter[str] = Counter()

    async def begin(self) -> None:
        """What is newest, here and there. Raises BackboneError: "another_bus", and what NATS raises; ClosedError."""
        seen = await self._shared.read()
        there = None if seen.value is None else _parsed(seen.value)
        if there is not None and (other := await self._another_bus(there)):
            text = f"these NATS servers carry another bus, {other}, in the same space"
            raise BackboneError("another_bus", f"{text}: give each of them an account of its own, or servers of its own")
        try:
            await self.look()
        except BackboneError as error:
            if error.code != NO_ROOM:
                raise
            _log.error("what counts here is told to gateways live, until NATS has room to store it: %s", error)

    async def _another_bus(self, there: Value) -> str:
        """What it is called; empty for ours, and for what is none."""
        if there.root == self._anchor.root.der or there.space != self._space:
            return ""
        try:
            domain = await to_thread.run_sync(there.domain)
        except BusError:
            return ""
        return f"{domain!r} (root {hashlib.sha256(there.root).hexdigest()[:16]})"

    def follow(self, snapshot: Snapshot, documents: TrustDocuments) -> None:
        """This counts now."""
        if documents != self._documents:
            self._snapshot, self._documents = snapshot, documents
            self._is_untold = self._is_authority
            self._shared.look()

    async def run(self) -> None:
        """Until cancelled. Raises ClosedError."""
        async with anyio.create_task_group() as tasks:
            if not self._is_authority:
                tasks.start_soon(self._hear)
            await self._shared.run(self.look)

    async def _hear(self) -> None:
        """What the authority tells. Only what came last waits, so that who says much costs little."""

        def heard(value: bytes) -> None:
            self._told = value
            self._was_told.set()

        await self._shared.hear(heard)
        while True:
            await self._was_told.wait()
            self._was_told = anyio.Event()
            there = _parsed(self._told)
            if there is not None and there.root == self._anchor.root.der:
                await self._is_ours_due(there)
            await self._clock.sleep(PAUSE_SECONDS)

    async def look(self) -> None:
        """Until what is there is what counts here. Raises BackboneError, ClosedError."""
        async with self._lock:
            if self._is_untold:
                self._shared.tell(self._ours().encode())
            for _ in range(_TRIES):
                seen = await self._shared.read()
                there = None if seen.value is None else _parsed(seen.value)
                if there == self._ours():
                    self._is_untold = False
                    return
                if there is None and seen.revision:
                    self._set_aside("it is no trust of any bus")
                if not await self._is_ours_due(there):
                    return
                self._counts["shared"] += 1
                try:
                    await self._shared.write(self._ours().encode(), instead_of=seen.revision)
                except OtherRevisionError:
                    continue

    def _ours(self) -> Value:
        return Value.of(self._space, self._anchor, self._documents)

    async def _is_ours_due(self, there: Value | None) -> bool:
        """Whether ours belongs there. What is newer and believed counts here from now on."""
        if there is None:
            return True
        async with self._judging:
            return await self._judged(there)

    async def _judged(self, there: Value) -> bool:
        number = await self._number(there)
        ours = self._snapshot.trust.statement.number
        if number is None:
            return self._is_authority
        if number <= ours:
            return number < ours or self._is_authority
        if self._is_authority:
            self._say("NATS has a trust statement that is newer than this authority's last: was it restored from a backup?")
            return False
        try:
            self._snapshot = await self._accept(there.documents)
        except BusError as error:
            self._set_aside(str(error))
            return False
        self._documents = there.documents
        self._counts["taken"] += 1
        self._take(self._snapshot, self._documents)
        return False

    async def _number(self, there: Value) -> int | None:
        """Of its statement, if what is there verifies."""
        verifier = self._verifier
        try:
            found = await to_thread.run_sync(
                lambda: trust_documents.read(
                    there.documents, root=verifier.root, domain=verifier.domain, ml_dsa_root=verifier.ml_dsa_root
                )
            )
        except BusError as error:
            self._set_aside(str(error))
            return None
        return found.trust.statement.number

    def _set_aside(self, why: str) -> None:
        self._counts["refused"] += 1
        number = self._snapshot.trust.statement.number
        what = "the authority's own takes its place" if self._is_authority else "the authority's hub replaces it when it runs"
        text = f"what stands on NATS as the trust of all gateways is set aside ({why})"
        self._say(f"{text}: here statement {number} counts, which is kept on this disk, and {what}. Who may write there?")

    async def _accept(self, documents: TrustDocuments) -> Snapshot:
        """On disk before it is remembered."""

        def keep() -> None:
            durable.make_folder(self._file.parent)
            durable.replace(self._file, Value.of(self._space, self._anchor, documents).encode())

        await to_thread.run_sync(keep)
        return await trust_documents.accept(documents, self._memory, self._verifier)

    def _say(self, text: str) -> None:
        """Once a minute."""
        now = self._clock.monotonic()
        if not self._logged or now - self._logged >= LOGGED_SECONDS:
            self._logged = now
            _log.error("%s", text)

    def statistics(self) -> dict[str, int]:
        return {name: self._counts[name] for name in ("taken", "shared", "refused")}


def kept_by_gateway(folder: Path, anchor: Anchor) -> TrustDocuments | None:
    """What a gateway went by last, in STATE/broker; None where there is none that is of this bus. Blocks. Raises VaultError."""
    data = durable.read(folder / FILE, longest=MAX_BYTES)
    found = None if data is None else _parsed(data)
    return None if found is None or found.root != anchor.root.der else found.documents


def stamp_of_kept(folder: Path) -> tuple[int, int]:
    """Of that file: it changes when the file does. Blocks."""
    try:
        status = (folder / FILE).stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_ino


async def begun_with(public: Path, folder: Path, anchor: Anchor, memory: TrustMemory) -> Believed:
    """What a gateway begins with: the newest of what is kept in its broker's `folder` and what is `public` here.

    Raises VaultError("missing") where it never had any, and what keeps the last of them from being believed.
    """
    candidates = []
    kept = await to_thread.run_sync(kept_by_gateway, folder, anchor)
    try:
        candidates.append(await to_thread.run_sync(trust_documents.load, public))
    except VaultError as error:
        if kept is None and error.code == "missing":
            text = "this gateway never had any trust to begin with: `tpmbus host gateway NAME --over COMMAND` brings it"
            raise VaultError("missing", text, path=str(public)) from error
        if kept is None:
            raise
    if kept is not None:
        candidates.append(kept)
    return await newest_of(candidates, memory, Verifier(anchor.root, anchor.domain, ml_dsa_root=anchor.ml_dsa_root))


async def newest_of(candidates: list[TrustDocuments], memory: TrustMemory, verifier: Verifier) -> Believed:
    """The one with the newest statement of those that can be believed. Raises what keeps the last of them from being believed."""
    found: list[tuple[int, TrustDocuments]] = []
    wrong: BusError = VaultError("missing", "there is no trust to begin with: `tpmbus host gateway` brings it", path="")
    for one in candidates:
        try:
            snapshot = trust_documents.read(one, root=verifier.root, domain=verifier.domain, ml_dsa_root=verifier.ml_dsa_root)
        except BusError as error:
            wrong = error
        else:
            found.append((snapshot.trust.statement.number, one))
    for _, one in sorted(found, key=lambda pair: -pair[0]):
        try:
            return await trust_documents.accept(one, memory, verifier), one
        except VerificationError as error:
            wrong = error
    raise wrong


def _parsed(data: bytes) -> Value | None:
    try:
        return Value.parse(data)
    except RemoteProtocolError:
        return None

"""Several TPMs as one engine: each has an engine of its own, and each key is asked of the TPM in which it lives.

    caller -- NAME --> home of that key (its vault entry) -- Engine "swtpm"    -- thread -- chip
                                                          - Engine "swtpm-2"  -- thread -- chip
                                                          - Engine "software" -- thread -- keystore beside the vault

A key lives where it was made (`homes`), and a new one is made where `placement` says; a name stays in its TPM through rotations,
because certificates are renewed by the chip that they were issued to. What belongs to no key (the authority's secret, a quote)
is the first TPM's. A TPM that is away fails its own keys alone, with an error that names it, and is opened again when somebody
asks for one of them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Final, Self, TypeVar

import anyio
from anyio import to_thread

from bus.clock import Clock, SystemClock
from bus.errors import BusError, TpmError, TpmRefusedError, TpmUnavailableError
from bus.protocol.contexts import Purpose
from bus.protocol.names import is_agent_name
from bus.protocol.proof import BatchProof
from bus.protocol.suites import Suite
from bus.tpm.engine import Engine
from bus.tpm.homes import Homes
from bus.tpm.interface import (
    SOFTWARE,
    AttestationKey,
    Attested,
    Endorsement,
    EngineStatistics,
    Facts,
    KeyInfo,
    Priority,
    Timing,
    Tpm,
)
from bus.tpm.keyring import anywhere
from bus.tpm.placement import ranked
from bus.tpm.roster import Roster
from bus.tpm.tally import together
from bus.tpm.vault import Vault

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_NOT_ITS_BLOB: Final = frozenset({"wrong_tpm", "malformed_blob"})
_PASSING: Final = frozenset({"tpm_memory", "pcr_changed"})
_NEXT_STEP: Final = (
    "only its own keys wait for it: start it again or put it back; if it is lost, name the others alone, "
    "and `tpmbus keys rotate AGENT` gives its agents keys in these"
)
_NOT_ITS_OWN: Final = frozenset({"wrong_tpm", "wrong_origin"})
"""What an engine says of a key that lives elsewhere."""


class SeveralTpms:
    """`tpms`: what each is called, and what opens it, in its own thread. `origins`: what its keys are expected to be; where these
    differ, new keys are made in those like the first. The others as for `Engine`.
    """

    def __init__(
        self,
        tpms: Mapping[str, Callable[[], Tpm]],
        vault: Vault,
        *,
        origins: Mapping[str, str] = MappingProxyType({}),
        software: Tpm | None = None,
        permit: Callable[[str, str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock, permit = clock or SystemClock(), permit or anywhere
        self._tpms, self._expected = tuple(tpms), origins
        self._roster = Roster(self._tpms, vault)
        self._homes = Homes(vault, self._roster, permit, clock)
        self._engines = {
            name: Engine(open_tpm, vault, permit=permit, clock=clock, name=name, judge=partial(self._roster.seen, name))
            for name, open_tpm in tpms.items()
        }
        if software is not None:
            self._engines[SOFTWARE] = Engine(None, vault, software=software, permit=permit, clock=clock)
        self._changing: dict[str, anyio.Lock] = {}
        """Names whose current key is being changed: one after the other."""

    async def __aenter__(self) -> Self:
        """Start all threads and open all TPMs. Raises what is wrong with any; where all are away, what the first is away with."""
        try:
            away = await self._open()
        except BaseException:
            await self.aclose()
            raise
        for name, error in away.items():
            _log.warning("TPM %s is away (%s): its keys fail until it is there", name, error)
        return self

    async def _open(self) -> dict[str, TpmUnavailableError]:
        """All at once. Gives those that are away."""
        wrong: list[BusError] = []
        away: dict[str, TpmUnavailableError] = {}

        async def start(name: str, engine: Engine) -> None:
            try:
                if (found := await engine.start()) is not None:
                    away[name] = found
            except BusError as error:
                wrong.append(error)

        async with anyio.create_task_group() as tasks:
            for name, engine in self._engines.items():
                tasks.start_soon(start, name, engine)
        if wrong:
            raise wrong[0]
        if len(away) == len(self._tpms):
            raise _away(self._tpms[0], away[self._tpms[0]])
        await to_thread.run_sync(self._roster.judge_all)
        return away

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop: waiting callers get ClosedError. A TPM that hangs is not waited for longer than a few seconds."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for engine in self._engines.values():
                    tasks.start_soon(engine.aclose)

    # -- keys ------------------------------------------------------------------------------------------------------------------

    async def keys(self) -> list[KeyInfo]:
        return await self._homes.keys()

    async def create(self, name: str, suite: Suite, *, origin: str | None = None) -> KeyInfo:
        if not is_agent_name(name):
            raise ValueError(f"{name!r} is no agent name: a capital letter, then capital letters and digits, 32 at most")
        origin = origin or await self._usual_origin()
        async with self._alone(name):
            found = await self._homes.for_create(name, suite, origin)
            if isinstance(found, KeyInfo):
                return found
            places = self._places_for(name, origin) if found is None else [found]
            return await self._first_of(places, lambda engine: engine.create(name, suite, origin=origin))

    async def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None = None) -> KeyInfo:
        async with self._alone(name):
            origin, home = await self._homes.for_rotate(name)
            places = self._places_for(name, origin) if home is None else [home]
            return await self._first_of(places, lambda engine: engine.rotate(name, keep_until_ms=keep_until_ms, suite=suite))

    async def sign_many(
        self,
        key: str,
        purpose: Purpose,
        contents: Sequence[bytes],
        *,
        signer: bytes | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[BatchProof]:
        return await self._at(key, lambda engine: engine.sign_many(key, purpose, contents, signer=signer, priority=priority))

    async def certify(self, key: str, *, qualifying: bytes) -> Attested:
        return await self._at(key, lambda engine: engine.certify(key, qualifying=qualifying))

    # -- what is asked of one of them ------------------------------------------------------------------------------------------

    async def facts(self, *, beside: str | None = None) -> Facts:
        if beside is not None:
            return await self._beside(beside, lambda engine: engine.facts(beside=beside))
        return await self._of(self._first_there(), lambda engine: engine.facts())

    async def seal(self, secret: bytes, *, pcrs: Sequence[int] = (), origin: str | None = None, beside: str | None = None) -> bytes:
        def seal(engine: Engine) -> Awaitable[bytes]:
            return engine.seal(secret, pcrs=pcrs, origin=origin)

        return await (self._of(SOFTWARE, seal) if origin == SOFTWARE else self._beside(beside, seal))

    async def unseal(self, blob: bytes, *, origin: str | None = None) -> bytes:
        """By whichever sealed it: a TPM knows what is its own."""
        if origin == SOFTWARE:
            return await self._of(SOFTWARE, lambda engine: engine.unseal(blob, origin=origin))
        refused: list[TpmError] = []
        for name in sorted(self._tpms, key=lambda name: not self._engines[name].is_there):
            try:
                return await self._of(name, lambda engine: engine.unseal(blob))
            except TpmUnavailableError as error:
                refused.insert(0, error)  # it may be the one
            except TpmRefusedError as error:
                if error.code not in _NOT_ITS_BLOB:
                    raise
                refused.append(error)
        raise refused[0]

    async def quote(self, pcrs: Sequence[int], *, qualifying: bytes, beside: str | None = None) -> Attested:
        return await self._beside(beside, lambda engine: engine.quote(pcrs, qualifying=qualifying))

    async def activate(self, credential: bytes, secret: bytes, *, beside: str | None = None) -> bytes:
        return await self._beside(beside, lambda engine: engine.activate(credential, secret))

    async def endorsement(self, *, beside: str | None = None) -> Endorsement:
        return await self._beside(beside, lambda engine: engine.endorsement())

    async def attestation_key(self, *, beside: str | None = None) -> AttestationKey:
        return await self._beside(beside, lambda engine: engine.attestation_key())

    async def measure(self, suite: Suite) -> Timing:
        return await self._of(self._first_there(), lambda engine: engine.measure(suite))

    async def statistics(self) -> EngineStatistics:
        return together([await engine.statistics() for engine in self._engines.values()])

    # -- which one it is -------------------------------------------------------------------------------------------------------

    async def _at(self, key: str, call: Callable[[Engine], Awaitable[_Result]]) -> _Result:
        home = await self._homes.of(key)
        try:
            return await self._of(home, call)
        except TpmRefusedError as error:
            if error.code not in _NOT_ITS_OWN or (now := await self._homes.of(key, anew=True)) == home:
                raise
        return await self._of(now, call)

    async def _beside(self, key: str | None, call: Callable[[Engine], Awaitable[_Result]]) -> _Result:
        home = self._tpms[0] if key is None else await self._homes.of(key)
        return await self._of(self._tpms[0] if home == SOFTWARE else home, call)

    async def _of(self, name: str, call: Callable[[Engine], Awaitable[_Result]]) -> _Result:
        engine = self._engines.get(name)
        if engine is None:
            raise TpmRefusedError("wrong_origin", "there is no software keystore here: this key cannot be made or used")
        try:
            return await call(engine)
        except TpmUnavailableError as error:
            raise _away(name, error) from error

    async def _first_of(self, names: Sequence[str], call: Callable[[Engine], Awaitable[_Result]]) -> _Result:
        """By the first that is there."""
        for name in names[:-1]:
            with suppress(TpmUnavailableError):
                return await self._of(name, call)
        return await self._of(names[-1], call)

    def _first_there(self) -> str:
        """The first; where that is away, one whose keys are of the same kind."""
        first = self._tpms[0]
        kind = self._kind(first)
        alike = [name for name in self._tpms if self._engines[name].is_there and kind in ("", self._kind(name))]
        return alike[0] if alike else first

    async def _usual_origin(self) -> str:
        """Of new keys where nobody says. As it was told at its opening: no need to wait for what that TPM does just now."""
        first = self._first_there()
        opened = self._engines[first].opened
        return opened.origin if opened is not None else (await self._of(first, lambda engine: engine.facts())).origin

    def _kind(self, name: str) -> str:
        return self._roster.origins.get(name) or self._expected.get(name, "")

    def _places_for(self, name: str, origin: str) -> list[str]:
        """Where a new key may be made, in the order in which it is tried; TPMs that are away come last."""
        if origin == SOFTWARE:
            return [SOFTWARE]
        alike = [tpm for tpm in self._tpms if self._kind(tpm) in (origin, "")]
        if not alike:
            raise TpmRefusedError("wrong_origin", f"no {origin} TPM is open here: this key cannot be made")
        there = {tpm: self._roster.primaries[tpm] for tpm in alike if self._engines[tpm].is_there}
        return [*ranked(name, there), *(tpm for tpm in alike if tpm not in there)]

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else changes the current key of this name; and where that was is forgotten."""
        lock = self._changing.setdefault(name, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            self._homes.forget(name)
            if self._changing.get(name) is lock and not lock.statistics().tasks_waiting and not lock.locked():
                del self._changing[name]


def _away(name: str, error: TpmUnavailableError) -> TpmUnavailableError:
    """The same, with the TPM that it is about and what to do."""
    said = str(error.args[0] if error.args else error.code)
    step = "" if error.code in _PASSING else f"; {_NEXT_STEP}"
    away = TpmUnavailableError(error.code, f"TPM {name}: {said.removeprefix(f'TPM {name} ')}{step}", tpm=name)
    away.rc = error.rc
    return away

"""A TPM's engine without a TPM and without a thread: software keys, used in the step of the loop in which their turn comes.

To everybody else it is an engine like the others (`check_tpm` says so): one operation at a time, urgent ones first, and whatever
waits for one key is covered by one signature. With `seconds`, each operation takes so long on the given clock, so that a test can
play a slow TPM with a `ManualClock`; with `fail_next`, one that fails.

Nothing runs by itself: whoever waits and finds the TPM free operates it, for all that wait for the same key, and then wakes the
next one. A caller that is cancelled while it operates has done nothing, and another takes its place.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

import anyio

from bus.clock import Clock
from bus.errors import BusError, ClosedError, TpmError, TpmRefusedError, twin
from bus.protocol import proof
from bus.protocol.contexts import Purpose
from bus.protocol.proof import MAX_BATCH, BatchProof
from bus.protocol.suites import HASHES, KINDS, Suite
from bus.testing.inline_keys import InlineKeys
from bus.tpm.interface import (
    SOFTWARE_TPM,
    AttestationKey,
    Attested,
    Endorsement,
    EngineStatistics,
    Facts,
    KeyInfo,
    Priority,
    Timing,
)
from bus.tpm.software import SoftwareTpm
from bus.tpm.tally import Tally

_Result = TypeVar("_Result")
FACTS: Final = Facts(
    description="fake TPM without a thread",
    origin=SOFTWARE_TPM,
    firmware="",
    kinds=frozenset(KINDS),
    hashes=frozenset(HASHES),
    transient_slots=3,
    primary_handle=0x81000001,
    primary_name=b"\x00\x0b" + bytes(32),
)


@dataclass(eq=False, slots=True)
class _Job:
    """What one caller waits for. Jobs that are `alike` are done by one operation."""

    verb: str
    alike: object
    priority: Priority
    since: float
    do: Callable[[list[_Job]], None]
    """Gives each of them its result, or raises for all."""
    contents: Sequence[tuple[Purpose, bytes]] = ()
    result: object = None
    error: BusError | None = None
    done: bool = False
    woken: anyio.Event = field(default_factory=anyio.Event)


class InlineEngine:
    """A `TpmEngine`, with keys of its own unless some are given."""

    def __init__(self, clock: Clock, keys: InlineKeys | None = None, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        """How long an operation takes; it may be changed at any time."""
        self.failures: deque[TpmError] = deque()
        """What the next operations raise, one each; `fail_next` adds to it."""
        self._clock, self._keys = clock, keys or InlineKeys(clock)
        self._software = SoftwareTpm(os.urandom(32))
        self._jobs: list[_Job] = []
        self._busy = self._closed = False
        self._operation: anyio.CancelScope | None = None
        self._tally = Tally()

    def fail_next(self, *errors: TpmError) -> None:
        self.failures.extend(errors)

    # ---- the verbs -----------------------------------------------------------------------------------------------------------

    async def facts(self, *, beside: str | None = None) -> Facts:
        return FACTS

    async def keys(self) -> list[KeyInfo]:
        return self._keys.infos()

    async def create(self, name: str, suite: Suite, *, origin: str | None = None) -> KeyInfo:
        return await self._call("create", lambda: self._keys.create(name, suite, origin or FACTS.origin), Priority.BACKGROUND)

    async def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None = None) -> KeyInfo:
        return await self._call("rotate", lambda: self._keys.rotate(name, keep_until_ms=keep_until_ms, suite=suite))

    async def sign_many(
        self,
        key: str,
        purpose: Purpose,
        contents: Sequence[bytes],
        *,
        signer: bytes | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[BatchProof]:
        purpose = Purpose(purpose)
        proof.check_request(contents, signer)
        found = self._keys.find(key)
        size = found.suite.digest_bytes
        if any(len(content) != size for content in contents):
            raise ValueError(f"a content for {found.suite} is a digest of {size} bytes")
        job = self._job("sign", (key, signer), lambda jobs: self._sign(key, signer, jobs), priority)
        job.contents = [(purpose, bytes(content)) for content in contents]
        return cast("list[BatchProof]", await self._wait(job))

    async def seal(self, secret: bytes, *, pcrs: Sequence[int] = (), origin: str | None = None, beside: str | None = None) -> bytes:
        """Registers are taken and do not count: there are none."""
        return await self._call("seal", lambda: self.seal_nowait(secret))

    def seal_nowait(self, secret: bytes) -> bytes:
        """For what a test finds there at its beginning."""
        return self._software.seal(secret, pcrs=())

    async def unseal(self, blob: bytes, *, origin: str | None = None) -> bytes:
        return await self._call("unseal", lambda: self._software.unseal(blob))

    async def certify(self, key: str, *, qualifying: bytes) -> Attested:
        raise _no_tpm("certify a key")

    async def quote(self, pcrs: Sequence[int], *, qualifying: bytes, beside: str | None = None) -> Attested:
        raise _no_tpm("quote platform registers")

    async def activate(self, credential: bytes, secret: bytes, *, beside: str | None = None) -> bytes:
        raise _no_tpm("activate a credential")

    async def endorsement(self, *, beside: str | None = None) -> Endorsement:
        raise _no_tpm("show an endorsement key")

    async def attestation_key(self, *, beside: str | None = None) -> AttestationKey:
        raise _no_tpm("attest anything")

    async def measure(self, suite: Suite) -> Timing:
        return Timing(suite.name, "software", self.seconds, self.seconds)

    async def statistics(self) -> EngineStatistics:
        return self._tally.snapshot(waiting=len(self._jobs), slots={})

    async def aclose(self) -> None:
        """Stop: waiting callers get ClosedError."""
        self._closed = True
        if self._operation is not None:
            self._operation.cancel()
        for job in self._jobs:
            job.woken.set()

    # ---- whose turn it is ----------------------------------------------------------------------------------------------------

    async def _call(self, verb: str, function: Callable[[], _Result], priority: Priority = Priority.NORMAL) -> _Result:
        def do(jobs: list[_Job]) -> None:
            jobs[0].result = function()

        return cast("_Result", await self._wait(self._job(verb, object(), do, priority)))

    def _job(self, verb: str, alike: object, do: Callable[[list[_Job]], None], priority: Priority) -> _Job:
        return _Job(verb, alike, priority, self._clock.monotonic(), do)

    async def _wait(self, job: _Job) -> object:
        self._jobs.append(job)
        try:
            while not job.done:
                if self._closed:
                    raise ClosedError("the TPM's engine is closed")
                if self._busy:
                    await job.woken.wait()
                    job.woken = anyio.Event()
                else:
                    await self._operate(job)
        finally:
            if job in self._jobs:
                self._jobs.remove(job)
            if not self._busy:
                self._wake_next()
        if job.error is not None:
            raise twin(job.error)
        return job.result

    async def _operate(self, job: _Job) -> None:
        """For this job and those like it, also those that come while it lasts."""
        self._busy = True
        begun = self._clock.monotonic()
        try:
            with anyio.CancelScope() as self._operation:
                await self._clock.sleep(self.seconds)
        finally:
            self._busy, self._operation = False, None
        self._tally.busy += self._clock.monotonic() - begun
        if not self._closed:
            self._do(_batch([one for one in self._jobs if one.alike == job.alike]))

    def _do(self, jobs: list[_Job]) -> None:
        first, error = jobs[0], None
        self._tally.operations[first.verb] += 1
        try:
            if self.failures:
                raise self.failures.popleft()
            first.do(jobs)
        except TpmError as raised:
            error = raised
            self._tally.failures[raised.code] += 1
        for job in jobs:
            job.done, job.error = True, error
            self._jobs.remove(job)
            self._tally.waited(self._clock.monotonic() - job.since)
            job.woken.set()

    def _wake_next(self) -> None:
        if self._jobs:
            min(self._jobs, key=lambda job: job.priority).woken.set()

    def _sign(self, key: str, signer: bytes | None, jobs: list[_Job]) -> None:
        found = self._keys.find(key)
        batch = proof.batch(found.suite, signer or found.signer, [content for job in jobs for content in job.contents])
        proofs = batch.proofs(found.sign(batch.tbs))
        self._tally.signed(found.suite.name, len(proofs))
        for job in jobs:
            job.result, proofs = proofs[: len(job.contents)], proofs[len(job.contents) :]


def _batch(jobs: list[_Job]) -> list[_Job]:
    """As many of them as one signature covers, urgent ones first."""
    jobs.sort(key=lambda job: job.priority)
    total, many = 0, 0
    for job in jobs:
        total += len(job.contents)
        if total > MAX_BATCH:
            break
        many += 1
    return jobs[:many]


def _no_tpm(what: str) -> TpmRefusedError:
    return TpmRefusedError("not_a_tpm", f"the fake TPM cannot {what}: that takes a TPM")

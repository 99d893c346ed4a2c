"""One TPM for many async callers: a queue, a worker thread, and one signature for all that wait.

    caller -- Job --> worker (schedule) -- batch --> keyring -- digest --> chip
           <- proof -                    <- proofs --         <- signature

The engine owns no algorithm: who is next is `schedule`, what is signed is `protocol.proof`, which key is `keyring`, what the
chip can hold is `slots`. It owns the chips' lives: it opens them in its thread, and opens the TPM again when it dies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread

from bus.clock import Clock, SystemClock
from bus.errors import BusError, TpmError, TpmUnavailableError
from bus.protocol.contexts import Purpose
from bus.protocol.proof import MAX_BATCH, SIGNER_BYTES, BatchProof
from bus.protocol.suites import Suite
from bus.tpm.interface import SOFTWARE, AttestationKey, Attested, Endorsement, EngineStatistics, Facts, KeyInfo, Priority, Tpm
from bus.tpm.keyring import Keyring
from bus.tpm.tally import Tally
from bus.tpm.vault import Vault
from bus.tpm.worker import Job, Worker

_Result = TypeVar("_Result")
REOPEN_PAUSE_SECONDS: Final = 1.0
"""After a TPM could not be opened again, calls fail at once for this long instead of each trying anew."""
CLOSE_SECONDS: Final = 5.0


class _Call:
    """A wish other than a signature: run `function` in the thread, and count it under `verb`."""

    __slots__ = ("function", "verb")

    def __init__(self, verb: str, function: Callable[[], Any]) -> None:
        self.verb, self.function = verb, function


class _Sign:
    __slots__ = ("contents", "key", "purpose", "signer")

    def __init__(self, key: str, purpose: Purpose, contents: Sequence[bytes], signer: bytes | None) -> None:
        self.key, self.purpose, self.contents, self.signer = key, purpose, contents, signer


class Engine:
    """`open_tpm` opens the TPM (again, after it died); it runs in the engine's thread. `software` serves keys of that origin."""

    def __init__(
        self, open_tpm: Callable[[], Tpm] | None, vault: Vault, *, software: Tpm | None = None, clock: Clock | None = None
    ) -> None:
        self._open_tpm, self._software = open_tpm, software
        self._clock = clock or SystemClock()
        self._keyring = Keyring(vault, self._clock)
        self._worker = Worker(self._execute, self._clock, MAX_BATCH)
        self._tally = Tally()
        self._tpm: Tpm | None = None
        self._facts: Facts | None = None
        self._retry_at = 0.0

    async def __aenter__(self) -> Self:
        """Start the thread and open the TPM. Raises TpmUnavailableError, TpmRefusedError("foreign_primary")."""
        self._worker.start()
        try:
            await self._call("open", self._connect)
        except BaseException:
            self._worker.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- the verbs -------------------------------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        return await self._call("facts", lambda: self._chip().facts())

    async def keys(self) -> list[KeyInfo]:
        return await self._call("keys", self._keyring.infos)

    async def create(self, name: str, suite: Suite, *, origin: str | None = None) -> KeyInfo:
        return await self._call(
            "create", lambda: self._keyring.create(name, suite, origin or self._origin()), priority=Priority.BACKGROUND
        )

    async def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None = None) -> KeyInfo:
        return await self._call("rotate", lambda: self._keyring.rotate(name, keep_until_ms=keep_until_ms, suite=suite))

    async def sign_many(
        self,
        key: str,
        purpose: Purpose,
        contents: Sequence[bytes],
        *,
        signer: bytes | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[BatchProof]:
        """A proof for each content, all under one TPM signature together with whatever else waits for this key.

        A content is the digest that its purpose prescribes. `signer` is the digest of the key's certificate; without one, that
        of the bare key, which verifiers accept for enrolment only.
        """
        purpose = Purpose(purpose)
        if not 0 < len(contents) <= MAX_BATCH:
            raise ValueError(f"sign 1 to {MAX_BATCH} contents at a time, not {len(contents)}")
        if signer is not None and len(signer) != SIGNER_BYTES:
            raise ValueError(f"a signer has {SIGNER_BYTES} bytes, not {len(signer)}")
        work = _Sign(key, purpose, tuple(bytes(content) for content in contents), signer)
        proofs: list[BatchProof] = await self._worker.run(("sign", key, signer), work, size=len(contents), priority=priority)
        return proofs

    async def seal(self, secret: bytes, *, pcrs: Sequence[int] = ()) -> bytes:
        return await self._call("seal", lambda: self._chip().seal(secret, pcrs=_checked_pcrs(pcrs)))

    async def unseal(self, blob: bytes) -> bytes:
        return await self._call("unseal", lambda: self._chip().unseal(blob))

    async def certify(self, key: str, *, qualifying: bytes) -> Attested:
        def certify() -> Attested:
            subject = self._keyring.open(key)
            chip, attester = self._keyring.chip(subject.info.origin), self._keyring.attester()
            return chip.certify(
                subject.wrapped, attester.wrapped, qualifying=qualifying, auth=subject.auth, attester_auth=attester.auth
            )

        return await self._call("certify", certify)

    async def quote(self, pcrs: Sequence[int], *, qualifying: bytes) -> Attested:
        def quote() -> Attested:
            attester = self._keyring.attester()
            return self._chip().quote(_checked_pcrs(pcrs), attester.wrapped, qualifying=qualifying, attester_auth=attester.auth)

        return await self._call("quote", quote)

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        def activate() -> bytes:
            attester = self._keyring.attester()
            return self._chip().activate(attester.wrapped, credential=credential, secret=secret, attester_auth=attester.auth)

        return await self._call("activate", activate)

    async def endorsement(self) -> Endorsement:
        return await self._call("endorsement", lambda: self._chip().endorsement())

    async def attestation_key(self) -> AttestationKey:
        def read() -> AttestationKey:
            info = self._keyring.attester().info
            # A Name is the number of the name algorithm (SHA-256) and the hash of the public area without its length.
            return AttestationKey(info.spki, info.public, b"\x00\x0b" + hashlib.sha256(info.public[2:]).digest())

        return await self._call("attestation", read)

    async def statistics(self) -> EngineStatistics:
        slots = self._tpm.statistics() if self._tpm is not None else {}
        return self._tally.snapshot(waiting=self._worker.waiting, slots=slots)

    async def aclose(self) -> None:
        """Stop: waiting callers get ClosedError. A TPM that hangs is not waited for longer than a few seconds."""
        self._worker.close()
        with anyio.CancelScope(shield=True):
            ended = await anyio.to_thread.run_sync(self._worker.join, CLOSE_SECONDS)
        if ended:
            self._disconnect()

    # -- in the thread ---------------------------------------------------------------------------------------------------------

    async def _call(self, verb: str, function: Callable[[], _Result], *, priority: Priority = Priority.NORMAL) -> _Result:
        result: _Result = await self._worker.run(object(), _Call(verb, function), priority=priority)
        return result

    def _execute(self, jobs: list[Job]) -> None:
        begun = self._clock.monotonic()
        for job in jobs:
            self._tally.waited(begun - job.arrived)
        try:
            results = self._with_a_tpm_that_lives(jobs)
            for job, result in zip(jobs, results, strict=True):
                job.result = result
        except Exception as error:  # noqa: BLE001  whatever it is, it is the callers' to hear, and the thread must live
            self._tally.failures[error.code if isinstance(error, TpmError) else type(error).__name__] += 1
            for job in jobs:
                job.error = error if len(jobs) == 1 or not isinstance(error, BusError) else _copy(error)
        self._tally.busy += self._clock.monotonic() - begun

    def _with_a_tpm_that_lives(self, jobs: list[Job]) -> Iterable[Any]:
        """Everything here can be done twice without harm, so a TPM that died meanwhile is opened again and asked once more."""
        if self._tpm is None and self._open_tpm is not None and self._facts is not None:
            self._reconnect()
        try:
            return self._serve(jobs)
        except TpmUnavailableError as error:
            if error.code != "no_tpm" or self._open_tpm is None or self._facts is None:
                raise
            self._reconnect()
            return self._serve(jobs)

    def _serve(self, jobs: list[Job]) -> Iterable[Any]:
        work = jobs[0].work
        if isinstance(work, _Call):
            self._tally.operations[work.verb] += 1
            return [work.function()]
        key = self._keyring.open(work.key)
        contents = [(job.work.purpose, content) for job in jobs for content in job.work.contents]
        proofs = self._keyring.sign(key, work.signer or key.signer, contents)
        self._tally.operations["sign"] += 1
        self._tally.signed(key.suite.name, len(contents))
        ends = [0]
        for job in jobs:
            ends.append(ends[-1] + job.size)
        return [proofs[start:end] for start, end in pairwise(ends)]

    def _connect(self) -> None:
        chips: dict[str, Tpm] = {}
        if self._open_tpm is not None:
            self._tpm = self._open_tpm()
            self._facts = self._tpm.facts()
            chips[self._facts.origin] = self._tpm
            self._keyring.parents = {self._facts.origin: self._facts.primary_name}
        if self._software is not None:
            chips.setdefault(SOFTWARE, self._software)
        if not chips:
            raise ValueError("an engine needs a TPM or a software keystore")
        self._keyring.chips = chips

    def _reconnect(self) -> None:
        now = self._clock.monotonic()
        if now < self._retry_at:
            raise TpmUnavailableError("no_tpm", "the TPM is gone; trying to open it again shortly")
        self._disconnect(keep_software=True)
        try:
            self._connect()
        except TpmError:
            self._retry_at = now + REOPEN_PAUSE_SECONDS
            raise
        self._tally.restarts += 1

    def _disconnect(self, *, keep_software: bool = False) -> None:
        tpm, self._tpm = self._tpm, None
        if tpm is not None:
            tpm.close()
        if self._software is not None and not keep_software:
            self._software.close()

    def _chip(self) -> Tpm:
        chip = self._tpm or self._software
        if chip is None:
            raise TpmUnavailableError("no_tpm", "the TPM is gone; trying to open it again shortly")
        return chip

    def _origin(self) -> str:
        return self._facts.origin if self._facts is not None else SOFTWARE


def _copy(error: BusError) -> BusError:
    """Its own exception for each waiting caller: a shared one would gather all their tracebacks."""
    twin = error.__class__.__new__(error.__class__, *error.args)
    twin.__dict__.update(error.__dict__)
    twin.args = error.args
    twin.__cause__ = error
    return twin


def _checked_pcrs(pcrs: Sequence[int]) -> Sequence[int]:
    for pcr in pcrs:
        if not 0 <= pcr < 24:
            raise ValueError(f"there is no PCR {pcr}: they are 0 to 23")
    return pcrs

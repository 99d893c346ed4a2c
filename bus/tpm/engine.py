"""One TPM for many async callers: a queue, a worker thread, and one signature for all that wait.

    caller -- Job --> worker (schedule) -- batch --> keyring -- digest --> chip
           <- proof -                    <- proofs --         <- signature

The engine owns no algorithm: who is next is `schedule`, what is signed is `protocol.proof`, which key is `keyring`, what the
chip can hold is `slots`. It owns the chips' lives: it opens them in its thread, and opens the TPM again when it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Self, TypeVar

import anyio
import anyio.to_thread

from bus.clock import Clock, SystemClock
from bus.errors import TpmUnavailableError
from bus.protocol.contexts import Purpose
from bus.protocol.proof import MAX_BATCH, BatchProof, check_request
from bus.protocol.suites import Suite
from bus.tpm.executor import Call, Executor, Sign
from bus.tpm.interface import (
    AttestationKey,
    Attested,
    Endorsement,
    EngineStatistics,
    Facts,
    KeyInfo,
    Priority,
    Timing,
    Tpm,
    name_of,
)
from bus.tpm.keyring import Keyring, anywhere
from bus.tpm.vault import Vault
from bus.tpm.worker import Worker

_Result = TypeVar("_Result")
CLOSE_SECONDS: Final = 5.0


class Engine:
    """`open_tpm` opens the TPM (again, after it died); it runs in the engine's thread. `software` serves keys of that origin."""

    def __init__(
        self,
        open_tpm: Callable[[], Tpm] | None,
        vault: Vault,
        *,
        software: Tpm | None = None,
        permit: Callable[[str, str], None] | None = None,
        clock: Clock | None = None,
        name: str = "",
        judge: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """`permit(name, origin)` raises where policy does not let a key live there; without it, nobody asks.

        `name`: what the TPM is called. `judge(origin, primary_name)` raises where what was opened must not have the vault's
        keys; without it, the vault decides by itself.
        """
        clock = clock or SystemClock()
        self.name = name
        self._keyring = Keyring(vault, clock, permit=permit or anywhere, tpm=name)
        self._executor = Executor(open_tpm, software, self._keyring, clock, judge or self._keyring.check_same_tpm)
        self._worker = Worker(self._executor.execute, self._executor.close, clock, MAX_BATCH)

    async def __aenter__(self) -> Self:
        """Start the thread and open the TPM. Raises TpmUnavailableError, TpmRefusedError("foreign_primary")."""
        self._worker.start()
        try:
            await self._call("open", self._executor.connect)
        except BaseException:
            self._stop()
            raise
        return self

    async def start(self) -> TpmUnavailableError | None:
        """The same for a TPM that may come later: what it is away with, or None. Until then its callers hear that it is away."""
        self._worker.start()
        try:
            await self._call("open", self._executor.connect)
        except TpmUnavailableError as error:
            self._executor.is_awaited = True
            return error
        except BaseException:
            self._stop()
            raise
        return None

    @property
    def is_there(self) -> bool:
        """Whether the TPM answered when it was last asked."""
        return self._executor.tpm is not None

    @property
    def opened(self) -> Facts | None:
        """What the TPM said of itself when it was opened last; None if it never was."""
        return self._executor.facts

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- the verbs -------------------------------------------------------------------------------------------------------------

    async def facts(self, *, beside: str | None = None) -> Facts:
        if beside is not None:
            return await self._call("facts", self._executor.known_facts)
        return await self._call("facts", lambda: self._executor.chip().facts())

    async def keys(self) -> list[KeyInfo]:
        return await self._call("keys", self._keyring.infos)

    async def create(self, name: str, suite: Suite, *, origin: str | None = None) -> KeyInfo:
        return await self._call(
            "create",
            lambda: self._keyring.create(name, suite, origin or self._executor.chip().facts().origin),
            priority=Priority.BACKGROUND,
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
        check_request(contents, signer)
        if not all(isinstance(content, bytes | bytearray | memoryview) for content in contents):
            raise TypeError("a content is bytes: the digest that its purpose prescribes")
        work = Sign(key, purpose, tuple(bytes(content) for content in contents), signer)
        proofs: list[BatchProof] = await self._worker.run(("sign", key, signer), work, size=len(contents), priority=priority)
        return proofs

    async def seal(self, secret: bytes, *, pcrs: Sequence[int] = (), origin: str | None = None, beside: str | None = None) -> bytes:
        return await self._call("seal", lambda: self._sealer(origin).seal(secret, pcrs=_checked_pcrs(pcrs)))

    async def unseal(self, blob: bytes, *, origin: str | None = None) -> bytes:
        return await self._call("unseal", lambda: self._sealer(origin).unseal(blob))

    async def certify(self, key: str, *, qualifying: bytes) -> Attested:
        def certify() -> Attested:
            subject = self._keyring.open(key)
            chip, attester = self._keyring.chip(subject.info.origin), self._keyring.attester()
            return chip.certify(
                subject.wrapped, attester.wrapped, qualifying=qualifying, auth=subject.auth, attester_auth=attester.auth
            )

        return await self._call("certify", certify)

    async def quote(self, pcrs: Sequence[int], *, qualifying: bytes, beside: str | None = None) -> Attested:
        def quote() -> Attested:
            attester = self._keyring.attester()
            return self._executor.chip().quote(
                _checked_pcrs(pcrs), attester.wrapped, qualifying=qualifying, attester_auth=attester.auth
            )

        return await self._call("quote", quote)

    async def activate(self, credential: bytes, secret: bytes, *, beside: str | None = None) -> bytes:
        def activate() -> bytes:
            attester = self._keyring.attester()
            return self._executor.chip().activate(
                attester.wrapped, credential=credential, secret=secret, attester_auth=attester.auth
            )

        return await self._call("activate", activate)

    async def endorsement(self, *, beside: str | None = None) -> Endorsement:
        return await self._call("endorsement", self._executor.endorsement)

    async def attestation_key(self, *, beside: str | None = None) -> AttestationKey:
        def read() -> AttestationKey:
            info = self._keyring.attester().info
            return AttestationKey(info.spki, info.public, name_of(info.public))

        return await self._call("attestation", read)

    async def measure(self, suite: Suite) -> Timing:
        return await self._call(
            "measure", lambda: self._keyring.measure(suite, self._executor.chip()), priority=Priority.BACKGROUND
        )

    async def statistics(self) -> EngineStatistics:
        tpm, facts, tally, waiting = self._executor.tpm, self._executor.facts, self._executor.tally, self._worker.waiting
        slots = tpm.statistics() if tpm is not None else {}
        name = facts.primary_name if facts is not None else b""
        origin = facts.origin if facts is not None else ""
        mine = tally.reading(origin=origin, primary_name=name, is_there=tpm is not None, waiting=waiting)
        return tally.snapshot(waiting=waiting, slots=slots, tpms={self.name: mine} if self.name else {})

    async def aclose(self) -> None:
        """Stop: waiting callers get ClosedError. A TPM that hangs is not waited for longer than a few seconds."""
        self._stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._worker.join, CLOSE_SECONDS)

    def _sealer(self, origin: str | None) -> Tpm:
        return self._executor.chip() if origin is None else self._keyring.chip(origin)

    def _stop(self) -> None:
        """The thread closes the chips when it ends, even if that is long after the last caller has gone."""
        self._executor.closing = True
        self._worker.close()

    async def _call(self, verb: str, function: Callable[[], _Result], *, priority: Priority = Priority.NORMAL) -> _Result:
        result: _Result = await self._worker.run(object(), Call(verb, function), priority=priority)
        return result


def _checked_pcrs(pcrs: Sequence[int]) -> Sequence[int]:
    for pcr in pcrs:
        if not 0 <= pcr < 24:
            raise ValueError(f"there is no PCR {pcr}: they are 0 to 23")
    return pcrs

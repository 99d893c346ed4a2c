"""An engine that is in another process: the same verbs, the same values, the same errors, over the TPM service's socket.

Any number of tasks may use one RemoteEngine at once, over one connection. Long lists of contents go in pieces, a few at a
time, so that a signature that matters is not behind all of them; they wait for one key, so they share its signatures anyway.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

import anyio

from bus.errors import ConnectError
from bus.protocol.contexts import Purpose
from bus.protocol.proof import BatchProof, check_request
from bus.protocol.suites import Suite
from bus.tpm.interface import AttestationKey, Attested, Endorsement, EngineStatistics, Facts, KeyInfo, Priority, Timing
from bus.tpm.permissions import ROOT_UID
from bus.tpm.pipeline import Pipeline
from bus.tpm.values import MAX_CONTENTS
from bus.transport import unix
from bus.transport.unix import UnixStream

WAIT_SECONDS: Final = 5.0
"""How long a call waits for a service that went away to be started again."""
_PIECES_AT_A_TIME: Final = 3
_SLOW_AT_A_TIME: Final = 32
"""Making keys takes long; the service bears 64 requests of one connection, and these must not take all of them."""


class RemoteEngine:
    """Made by `connect`, used as `async with await RemoteEngine.connect(path) as engine:`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._slow = anyio.Semaphore(_SLOW_AT_A_TIME)
        self._tasks: AsyncExitStack | None = None

    @classmethod
    async def connect(
        cls,
        path: Path,
        *,
        server_uids: Collection[int] = (),
        wait_seconds: float = WAIT_SECONDS,
        start: Callable[[], Awaitable[None]] | None = None,
    ) -> RemoteEngine:
        """Reach the service at this socket. It must be this user's, root's, or of a uid that is named. Raises ConnectError.

        Where nobody listens, now or after the service has died, `start` is called first; what it raises goes to the callers.
        """
        trusted = {os.geteuid(), ROOT_UID, *server_uids}

        async def reach() -> UnixStream:
            try:
                stream = await unix.connect(path)
            except ConnectError:
                if start is None:
                    raise
                await start()
                stream = await unix.connect(path)
            if stream.peer.uid not in trusted:
                stream.close()
                raise ConnectError(f"what listens at {path} is another user's (uid {stream.peer.uid}): it gets nothing from us")
            return stream

        return cls(Pipeline(path, await reach(), reach, wait_seconds=wait_seconds))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(self._pipeline.run)
            self._tasks = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
        if self._tasks is not None:
            await self._tasks.aclose()  # and not with the body's exception, which it would wrap in a group

    async def aclose(self) -> None:
        """Close the connection; whoever still waits gets ClosedError. The service goes on for others."""
        self._pipeline.close()

    # -- the verbs -------------------------------------------------------------------------------------------------------------

    async def facts(self, *, beside: str | None = None) -> Facts:
        found: Facts = (await self._call("facts", beside=beside))["facts"]
        return found

    async def keys(self) -> list[KeyInfo]:
        found: list[KeyInfo] = []
        while True:
            page = await self._call("keys", after=found[-1].id if found else None)
            found += page["keys"]
            if not page["more"]:
                return found

    async def create(self, name: str, suite: Suite, *, origin: str | None = None) -> KeyInfo:
        async with self._slow:
            info: KeyInfo = (await self._call("create", name=name, suite=suite, origin=origin))["key"]
        return info

    async def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None = None) -> KeyInfo:
        """Not asked again when the service ends meanwhile: then TpmUnavailableError("outcome_unknown")."""
        async with self._slow:
            info: KeyInfo = (await self._call("rotate", name=name, keep_until_ms=keep_until_ms, suite=suite))["key"]
        return info

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
        check_request(contents, signer)
        fields = {"key": key, "purpose": purpose, "signer": signer, "priority": priority}
        if len(contents) <= MAX_CONTENTS:
            proofs: list[BatchProof] = (await self._call("signMany", **fields, contents=contents))["batches"]
            return proofs
        return await self._sign_pieces(fields, contents)

    async def seal(self, secret: bytes, *, pcrs: Sequence[int] = (), origin: str | None = None, beside: str | None = None) -> bytes:
        blob: bytes = (await self._call("seal", secret=secret, pcrs=pcrs or None, origin=origin, beside=beside))["blob"]
        return blob

    async def unseal(self, blob: bytes, *, origin: str | None = None) -> bytes:
        secret: bytes = (await self._call("unseal", blob=blob, origin=origin))["secret"]
        return secret

    async def certify(self, key: str, *, qualifying: bytes) -> Attested:
        return Attested(**await self._call("certify", key=key, qualifying=qualifying))

    async def quote(self, pcrs: Sequence[int], *, qualifying: bytes, beside: str | None = None) -> Attested:
        return Attested(**await self._call("quote", pcrs=pcrs, qualifying=qualifying, beside=beside))

    async def activate(self, credential: bytes, secret: bytes, *, beside: str | None = None) -> bytes:
        found = await self._call("activateCredential", credential_blob=credential, encrypted_secret=secret, beside=beside)
        decrypted: bytes = found["decrypted_secret"]
        return decrypted

    async def endorsement(self, *, beside: str | None = None) -> Endorsement:
        return Endorsement(**await self._call("endorsement", beside=beside))

    async def attestation_key(self, *, beside: str | None = None) -> AttestationKey:
        return AttestationKey(**await self._call("attestationKey", beside=beside))

    async def measure(self, suite: Suite) -> Timing:
        async with self._slow:
            timing: Timing = (await self._call("measure", suite=suite))["timing"]
        return timing

    async def statistics(self) -> EngineStatistics:
        found: EngineStatistics = (await self._call("statistics"))["statistics"]
        return found

    async def ping(self) -> None:
        """Return when the service answers."""
        await self._call("ping")

    async def _call(self, command: str, **fields: Any) -> dict[str, Any]:
        return await self._pipeline.answer(self._pipeline.submit(command, fields))

    async def _sign_pieces(self, fields: dict[str, Any], contents: Sequence[bytes]) -> list[BatchProof]:
        proofs: list[BatchProof] = []
        out: deque[Any] = deque()
        starts = deque(range(0, len(contents), MAX_CONTENTS))
        try:
            while starts or out:
                while starts and len(out) < _PIECES_AT_A_TIME:
                    first = starts.popleft()
                    out.append(self._pipeline.submit("signMany", fields | {"contents": contents[first : first + MAX_CONTENTS]}))
                proofs += (await self._pipeline.answer(out.popleft()))["batches"]
        finally:
            self._pipeline.forget(list(out))
        return proofs

"""A TPM made as slow as real chips are, and one that fails when told to: for benchmarks and for tests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bus.errors import TpmError
from bus.protocol.suites import Suite
from bus.tpm.interface import Attested, Endorsement, Facts, Tpm, WrappedKey


@dataclass(slots=True)
class SlowTpm:
    """`inner`, with a pause before each operation of a key. It sleeps in the engine's thread, as a chip makes it wait."""

    inner: Tpm
    ecc_seconds: float = 0.040
    rsa_seconds: float = 0.120
    failures: deque[TpmError] = field(default_factory=deque)
    """What the next operations raise, one each; `fail_next` adds to it."""
    operations: int = 0

    def fail_next(self, *errors: TpmError) -> None:
        self.failures.extend(errors)

    def facts(self) -> Facts:
        return self.inner.facts()

    def create(self, suite: Suite | None, *, auth: bytes) -> WrappedKey:
        self._wait(suite)
        return self.inner.create(suite, auth=auth)

    def sign(self, key: WrappedKey, suite: Suite, digest: bytes, *, auth: bytes) -> bytes:
        self._wait(suite)
        return self.inner.sign(key, suite, digest, auth=auth)

    def seal(self, secret: bytes, *, pcrs: Sequence[int]) -> bytes:
        self._wait(None)
        return self.inner.seal(secret, pcrs=pcrs)

    def unseal(self, blob: bytes) -> bytes:
        self._wait(None)
        return self.inner.unseal(blob)

    def certify(self, key: WrappedKey, attester: WrappedKey, *, qualifying: bytes, auth: bytes, attester_auth: bytes) -> Attested:
        self._wait(None)
        return self.inner.certify(key, attester, qualifying=qualifying, auth=auth, attester_auth=attester_auth)

    def quote(self, pcrs: Sequence[int], attester: WrappedKey, *, qualifying: bytes, attester_auth: bytes) -> Attested:
        self._wait(None)
        return self.inner.quote(pcrs, attester, qualifying=qualifying, attester_auth=attester_auth)

    def activate(self, attester: WrappedKey, *, credential: bytes, secret: bytes, attester_auth: bytes) -> bytes:
        self._wait(None)
        return self.inner.activate(attester, credential=credential, secret=secret, attester_auth=attester_auth)

    def endorsement(self) -> Endorsement:
        self._wait(None)
        return self.inner.endorsement()

    def statistics(self) -> Mapping[str, int]:
        return self.inner.statistics()

    def close(self) -> None:
        self.inner.close()

    def _wait(self, suite: Suite | None) -> None:
        self.operations += 1
        if self.failures:
            raise self.failures.popleft()
        time.sleep(self.rsa_seconds if suite is not None and suite.kind == "rsa3072" else self.ecc_seconds)

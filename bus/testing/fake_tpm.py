"""A TPM without a chip, a process or a wait, for users' unit tests: software keys that call themselves a software TPM's.

It can break on purpose: what is in `faults` happens to the next operation, in the engine's thread, as with a real one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from bus.protocol.suites import Suite
from bus.tpm.interface import SOFTWARE_TPM, Facts, WrappedKey
from bus.tpm.software import SoftwareTpm


class FakeTpm(SoftwareTpm):
    """`faults` holds functions that are called, one at each operation, before it: to raise, to block, to look."""

    def __init__(self, *, hashes: Sequence[str] = ("sha256", "sha384"), number: int = 0) -> None:
        """`number` tells fakes apart, as primary keys do chips: what one has sealed, another does not open."""
        super().__init__(b"a fake TPM keeps no secret at all" + number.to_bytes(2) * bool(number))
        self.faults: deque[Callable[[], None]] = deque()
        self.operations = 0
        self.corrupt_signatures = 0
        """How many of the next signatures come out wrong, as from a chip that is being attacked."""
        self._hashes, self._number = frozenset(hashes), number

    def facts(self) -> Facts:
        return replace(
            super().facts(),
            description="fake TPM",
            origin=SOFTWARE_TPM,
            hashes=self._hashes,
            transient_slots=3,
            primary_handle=0x81000001,
            primary_name=b"\x00\x0b" + self._number.to_bytes(32),
        )

    def create(self, suite: Suite | None, *, auth: bytes) -> WrappedKey:
        self._operate()
        return replace(super().create(suite, auth=auth), origin=SOFTWARE_TPM)

    def sign(self, key: WrappedKey, suite: Suite, digest: bytes, *, auth: bytes) -> bytes:
        self._operate()
        signature = super().sign(key, suite, digest, auth=auth)
        if self.corrupt_signatures:
            self.corrupt_signatures -= 1
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        return signature

    def seal(self, secret: bytes, *, pcrs: Sequence[int]) -> bytes:
        self._operate()
        return super().seal(secret, pcrs=pcrs)

    def unseal(self, blob: bytes) -> bytes:
        self._operate()
        return super().unseal(blob)

    def _operate(self) -> None:
        self.operations += 1
        if self.faults:
            self.faults.popleft()()

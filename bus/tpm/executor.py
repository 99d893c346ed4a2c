"""What runs in an engine's thread: it holds the chips, serves batches of jobs, and opens the TPM again when it died."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bus.clock import Clock
from bus.errors import BusError, ClosedError, TpmError, TpmUnavailableError, twin
from bus.protocol.contexts import Purpose
from bus.protocol.suites import Suite
from bus.tpm.interface import SOFTWARE, Endorsement, Facts, Tpm
from bus.tpm.keyring import Keyring
from bus.tpm.tally import Tally
from bus.tpm.worker import Job

REOPEN_TRIES_SECONDS: Final = (0.02, 0.1, 0.3)
"""Pauses before opening it is tried again: one that was killed still takes calls a moment before it is gone."""
REOPEN_PAUSE_SECONDS: Final = 1.0
"""After a TPM could not be opened again, calls fail at once for this long instead of each trying anew."""


@dataclass(frozen=True, slots=True)
class Call:
    """A wish other than a signature: run `function`, and count it under `verb`."""

    verb: str
    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sign:
    key: str
    purpose: Purpose
    contents: Sequence[bytes]
    signer: bytes | None


@dataclass(slots=True)
class Executor:
    open_tpm: Callable[[], Tpm] | None
    software: Tpm | None
    keyring: Keyring
    clock: Clock
    judge: Callable[[str, bytes], None]
    """Raises where the TPM of this origin, with this primary key's Name, must not have the vault's keys."""
    tally: Tally = field(default_factory=Tally)
    tpm: Tpm | None = None
    facts: Facts | None = None
    """As they were when it was opened last."""
    is_awaited: bool = False
    """It was away when the engine started, and is opened when it comes."""
    closing: bool = False
    """Set from outside, for a thread that a TPM holds: what died meanwhile is not opened again."""
    _endorsement: Endorsement | None = None
    _retry_at: float = 0.0
    _closed_to_us: TpmError | None = None
    """Why it could not be opened when that was tried last."""

    def execute(self, jobs: list[Job]) -> None:
        """Serve jobs of one key together; each gets its result or its error, and the thread lives on."""
        begun = self.clock.monotonic()
        for job in jobs:
            self.tally.waited(begun - job.arrived)
        try:
            self._with_a_tpm_that_lives(jobs)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the callers' to hear
            self.tally.failures[error.code if isinstance(error, TpmError) else type(error).__name__] += 1
            for job in jobs:
                job.error = job.error or (twin(error) if isinstance(error, BusError) else error)
        self.tally.busy += self.clock.monotonic() - begun

    def connect(self) -> None:
        chips: dict[str, Tpm] = {}
        if self.open_tpm is not None:
            tpm = self.open_tpm()
            try:
                facts = tpm.facts()
                self.judge(facts.origin, facts.primary_name)
            except BaseException:
                tpm.close()
                raise
            self.tpm, self.facts, self._endorsement = tpm, facts, None
            chips[facts.origin] = tpm
            self.keyring.parents = {facts.origin: facts.primary_name}
        if self.software is not None:
            chips.setdefault(SOFTWARE, self.software)
        if not chips:
            raise ValueError("an engine needs a TPM or a software keystore")
        self.keyring.chips = chips

    def endorsement(self) -> Endorsement:
        """Read once for each opening: the chip derives the key anew each time, and it is always the same."""
        if self._endorsement is None:
            self._endorsement = self.chip().endorsement()
        return self._endorsement

    def close(self) -> None:
        self._drop_tpm()
        if self.software is not None:
            self.software.close()

    def chip(self) -> Tpm:
        """The TPM; without one, the software keystore."""
        chip = self.tpm or (self.software if self.open_tpm is None else None)
        if chip is None:
            raise TpmUnavailableError("no_tpm", f"{self._called} is gone; it is opened again as soon as it answers")
        return chip

    def known_facts(self) -> Facts:
        """As they were when it was opened: no question to the TPM."""
        return self.facts if self.facts is not None else self.chip().facts()

    @property
    def _called(self) -> str:
        return f"TPM {self.keyring.tpm}" if self.keyring.tpm else "the TPM"

    def _with_a_tpm_that_lives(self, jobs: list[Job]) -> None:
        """Everything here can be done twice without harm, so a TPM that died meanwhile is opened again and asked once more."""
        connected_before = self.facts is not None or self.is_awaited
        if self.tpm is None and connected_before:
            self._reconnect()
        try:
            self._serve(jobs)
        except TpmUnavailableError as error:
            if error.code != "no_tpm" or not connected_before:
                raise
            self._reconnect()
            self._serve(jobs)

    def _serve(self, jobs: list[Job]) -> None:
        work = jobs[0].work
        if isinstance(work, Call):
            self.tally.operations[work.verb] += 1
            jobs[0].result = work.function()
            return
        key = self.keyring.open(work.key)
        jobs = [job for job in jobs if _fits(job, key.suite)]
        if not jobs:
            return
        contents = [(job.work.purpose, content) for job in jobs for content in job.work.contents]
        proofs = self.keyring.sign(key, work.signer or key.signer, contents)
        self.tally.operations["sign"] += 1
        self.tally.signed(key.suite.name, len(contents))
        start = 0
        for job in jobs:
            job.result = proofs[start : start + job.size]
            start += job.size

    def _reconnect(self) -> None:
        if self.closing:
            raise ClosedError("the TPM engine was closed while its TPM hung")
        now = self.clock.monotonic()
        if now < self._retry_at and self._closed_to_us is not None:
            raise twin(self._closed_to_us)
        self._drop_tpm()
        for pause in (*REOPEN_TRIES_SECONDS, None):
            try:
                self.connect()
                break
            except TpmError as error:
                if pause is None or error.code != "no_tpm" or self.closing:
                    self._retry_at, self._closed_to_us = self.clock.monotonic() + REOPEN_PAUSE_SECONDS, error
                    raise
                time.sleep(pause)
        self.tally.restarts += 1

    def _drop_tpm(self) -> None:
        tpm, self.tpm = self.tpm, None
        if tpm is not None:
            tpm.close()


def _fits(job: Job, suite: Suite) -> bool:
    """Whether a job's contents are digests of its key's suite. One that is wrong must not spoil the batch of the others."""
    wrong = next((content for content in job.work.contents if len(content) != suite.digest_bytes), None)
    if wrong is not None:
        job.error = ValueError(f"a content for {suite} is a digest of {suite.digest_bytes} bytes, not {len(wrong)}")
    return wrong is None

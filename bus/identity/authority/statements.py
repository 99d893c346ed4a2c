"""The trust signer's work: a new trust statement every five minutes, and at once when something changed.

    the authority's facts + the policy in force --issue--> statement --publish--> statement.bin

A number is on disk before it is used, so no two statements ever have the same, whenever the process dies; one that was lost
that way is missing, which harms nobody. Each is read again as its readers will, before anybody sees it. It is never issued
earlier than the one before, also after the clock was turned back: its readers take `issued` for an instant that has passed.
"""

from __future__ import annotations

import threading
from typing import Final

import anyio
import anyio.to_thread

from bus.clock import Clock
from bus.errors import BusError
from bus.identity.authority import policies
from bus.identity.authority.issue import Authority
from bus.identity.public_trust import ML_DSA_ROOT
from bus.policy.model import DEFAULT_TRUST_MAX_AGE_MS
from bus.trust import statement as wire
from bus.trust.bundle import Bundle
from bus.trust.statement import Statement

FILE: Final = "statement.bin"
INTERVAL_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 15.0
"""After a failure (a full disk, a TPM that is busy): a statement is good for much longer, so there is time to try again."""
NO_POLICY: Final = (0, bytes(32))
"""Version and digest before a policy was signed."""


class Statements:
    """Issues the statements of an open authority. `issue` may be called from several threads."""

    def __init__(self, authority: Authority, *, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Statement | None = None
        self._policy: tuple[Bundle, int] | None = None
        self._changed = anyio.Event()
        self.issued = 0
        self.failure: BusError | None = None
        """What went wrong the last time; None if nothing did."""

    def issue(self) -> Statement:
        """Make, publish and give the next one. Blocks: disk, signatures."""
        with self._lock:
            self._show_root_key()
            statement = self._next()
            self._authority.publish(FILE, statement.raw)
            self._last = statement
            self.issued += 1
            return statement

    def is_current(self) -> bool:
        """Whether the last one says what is so. A process that was killed may have left a revocation unsaid."""
        with self._lock:
            said, authority = self._last or self._authority.last_statement(), self._authority
            if said is None:
                return False
            crl = authority.revocations()
            listed = {name: standing for name, standing in authority.standings().items() if standing != wire.NEW}
            policy, _ = self._policy_in_force()
            so = (crl.number, crl.digest, *policy, listed, authority.ml_dsa_hashes())
            return so == (said.crl_number, said.crl_digest, said.policy_version, said.policy_digest, said.agents, said.ml_dsa)

    def changed(self) -> None:
        """Something that a statement tells of has changed: `run` issues the next one now. Call it on the event loop."""
        self._changed.set()

    async def run(self) -> None:
        """Issue for ever: now, every five minutes, and at each change. A failure is kept in `failure` and tried again soon."""
        while True:
            self._changed = anyio.Event()  # before issuing: what changes meanwhile is told of in the next one
            try:
                await anyio.to_thread.run_sync(self.issue)
                self.failure = None
            except BusError as error:
                self.failure = error
            await self._wait(RETRY_SECONDS if self.failure else INTERVAL_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Until so much time has passed or something changed."""
        async with anyio.create_task_group() as tasks:

            async def timer() -> None:
                await self._clock.sleep(seconds)
                tasks.cancel_scope.cancel()

            tasks.start_soon(timer)
            await self._changed.wait()
            tasks.cancel_scope.cancel()

    def _show_root_key(self) -> None:
        """What the second signature is checked with, beside the root's certificate."""
        if self._authority.published(ML_DSA_ROOT) != self._authority.ml_dsa_root:
            self._authority.publish(ML_DSA_ROOT, self._authority.ml_dsa_root)

    def _next(self) -> Statement:
        authority = self._authority
        revocations = authority.revocations()
        policy, max_age_ms = self._policy_in_force()
        last = self._last or authority.last_statement()
        issued_ms = max(authority.reached_ms(), last.issued_ms if last else 0)
        body = wire.body_bytes(
            domain=authority.domain,
            number=authority.next_statement_number(),
            issued_ms=issued_ms,
            next_update_ms=issued_ms + max_age_ms,
            policy=policy,
            crl=(revocations.number, revocations.digest),
            agents=authority.standings(),
            ml_dsa=authority.ml_dsa_hashes(),
        )
        by = authority.sign_statement(body)
        return _read(authority, wire.encode(body, signer=by.signer, signature=by.signature, cosignature=by.cosignature))

    def _policy_in_force(self) -> tuple[tuple[int, bytes], int]:
        """What the statement says of the policy, and how long it is good for. A policy is compiled once, not each time."""
        bundle = policies.in_force(self._authority)
        if bundle is None:
            return NO_POLICY, DEFAULT_TRUST_MAX_AGE_MS
        if self._policy is None or self._policy[0].digest != bundle.digest:
            self._policy = bundle, bundle.policy().trust_max_age_ms
        return (bundle.version, bundle.digest), self._policy[1]


def in_force(authority: Authority) -> Statement | None:
    """The statement that was published last; None if none was. Raises what `statement.read` does."""
    data = authority.published(FILE)
    return None if data is None else _read(authority, data)


def _read(authority: Authority, data: bytes) -> Statement:
    return wire.read(data, root=authority.root, domain=authority.domain, ml_dsa_root=authority.ml_dsa_root)

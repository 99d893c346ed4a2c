"""Everything that tpmbus raises on purpose.

One tree, one root. Fields carry the facts (callers and tests read fields, never text); the text says what happened, to what,
and what to do next. Foreign exceptions are mapped into this tree in one place per room, and chained. Misuse of the API is
`TypeError` or `ValueError`, as everywhere in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class BusError(Exception):
    """The root of the tree; never raised itself."""


class Problem(NamedTuple):
    """One mistake in a policy file; line and column count from 1, or are 0 where it is of the whole file."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.file}{place}: {self.message}"


class PolicyError(BusError):
    """The YAML is wrong. Raised when it is loaded, never later, with every mistake at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def file(self) -> str:
        return self.problems[0].file

    @property
    def line(self) -> int:
        return self.problems[0].line


class NotPermittedError(BusError):
    """Policy says no."""

    def __init__(self, agent: str, action: str, rule: str) -> None:
        self.agent, self.action, self.rule = agent, action, rule
        super().__init__(f"{agent} may not {action}: {rule}")


class ProtocolError(BusError):
    """Somebody broke the protocol; raised as one of its two children."""


class LocalProtocolError(ProtocolError):
    """We tried what the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer did; the connection is over."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class VerificationError(BusError):
    """Something that should prove itself did not; `reason` is a code of the specification."""

    def __init__(self, reason: str, *, agent: str = "", detail: str = "") -> None:
        self.agent, self.reason = agent, reason
        super().__init__(": ".join(part for part in (agent, reason, detail) if part))


class AttestationError(VerificationError):
    """The same, while an agent is enrolled."""


class TpmError(BusError):
    """A TPM or its keys; raised as one of its children. `code` is stable, `rc` is the TPM's own response code where it gave one.

    `tpm` says which TPM, in the words of who named it, where there are several.
    """

    def __init__(self, code: str, message: str, *, rc: int | None = None, tpm: str = "") -> None:
        self.code, self.rc, self.tpm = code, rc, tpm
        super().__init__(message if rc is None else f"{message} (TPM response 0x{rc:x})")


class TpmUnavailableError(TpmError):
    """The TPM cannot be reached or is too busy; trying again later may help."""


class TpmRefusedError(TpmError):
    """The TPM, or the engine in front of it, said no; trying the same again will not help."""


class VaultError(TpmRefusedError):
    """A key file is missing, damaged, or belongs to another TPM."""

    def __init__(self, code: str, message: str, *, path: str, tpm: str = "") -> None:
        self.path = path
        super().__init__(code, message, tpm=tpm)


class BackboneError(BusError):
    """What keeps and moves envelopes failed or refused. `code` is stable; `path` names a file, `classes` the retention classes."""

    def __init__(self, code: str, message: str, *, path: str = "", classes: Sequence[str] = ()) -> None:
        self.code, self.path, self.classes = code, path, tuple(classes)
        super().__init__(message)


class TransportError(BusError):
    """The way between two processes; raised as one of its children."""


class ConnectError(TransportError):
    """No connection could be made."""


class ConnectionLostError(TransportError):
    """There was one, and it is gone."""


class OverloadedError(BusError):
    """A bounded queue is full."""

    def __init__(self, queue: str, *, pending: int, limit: int) -> None:
        self.queue, self.pending, self.limit = queue, pending, limit
        super().__init__(f"{queue} is full: {pending} waiting, at most {limit}; wait for some of them before adding more")


class SlowReaderError(OverloadedError):
    """A subscription was ended because its messages were not taken quickly enough. `queue` is its pattern."""

    def __init__(self, queue: str, *, pending: int, limit: int) -> None:
        super().__init__(queue, pending=pending, limit=limit)
        what = f"the subscription to {queue} was ended: {pending} messages waited in it for too long, its limit is {limit}"
        self.args = (f"{what}; take them faster, share them in a queue group, or let it drop some: overflow='drop_oldest'",)


class MessageTooLargeError(BusError):
    """More bytes than one message or request may have."""

    def __init__(self, size: int, *, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(f"{size:,} bytes are too many, the limit is {limit:,}: say it in parts, or say where it lies")


class StateInUseError(BusError):
    """Another process owns this state folder."""

    def __init__(self, pid: int, url: str, *, step: str = "") -> None:
        """`step`: what to do, where that is not to go there or elsewhere."""
        self.pid, self.url, self.step = pid, url, step
        there = f"reach it at {url} (a program joins its hub with `bus.open(join=True)`)" if url else "end it first"
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{who} already uses this state folder; {step or f'{there}, or choose another folder'}")


class SessionEndedError(BusError):
    """An agent of this process has no session certificate that counts now; `reason` says what kept it from being renewed."""

    def __init__(self, agent: str, reason: str) -> None:
        self.agent, self.reason = agent, reason
        super().__init__(f"{agent} has no valid session ({reason}): nothing can be signed for it until it is renewed")


class TrustStaleError(VerificationError):
    """There has been no news of revocations for too long: nothing is sealed or delivered until there is. `until`: ms since 1970."""

    def __init__(self, until: int) -> None:
        self.until = until
        super().__init__("trust_stale", detail="the newest trust statement has ended; is the authority running?")


class RequestError(BusError):
    """A request got no answer; raised as one of its children."""


class NoRespondersError(RequestError):
    """Nobody who may answer listens on that topic."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        super().__init__(f"nobody listens on {topic}: start who answers there, or check the topic with `tpmbus subscriptions`")


class RequestTimeoutError(RequestError, TimeoutError):
    """Somebody listens, and nobody answered in time."""

    def __init__(self, topic: str, seconds: float) -> None:
        self.topic, self.seconds = topic, seconds
        super().__init__(
            f"no answer on {topic} within {seconds:g} s, and somebody listens there: wait longer, or look with "
            "`tpmbus subscriptions` who it is, and whether they answer or only listen"
        )


class RequestFailedError(RequestError):
    """Who answered says that it failed."""

    def __init__(self, agent: str, reason: str) -> None:
        self.agent, self.reason = agent, reason
        super().__init__(f"{agent} could not answer: {reason}; its log says more")


class RevokedError(BusError):
    """This agent's identity was revoked: it is off the bus, and stays so until it is enrolled again."""

    def __init__(self, agent: str, *, uid: int | None = None) -> None:
        """`uid`: the local user who would enroll it again, where that is known."""
        self.agent, self.reason, self.uid = agent, "revoked", uid
        super().__init__(
            f"{agent} was revoked, and does not come back by itself. Its operator lets it in again, at the hub: "
            f"`tpmbus trust enroll --uid {'UID' if uid is None else uid} {agent}`, or for another machine `tpmbus trust enroll "
            f"--token {agent}` and then `tpmbus host join {agent} --over COMMAND --token {agent}=TOKEN` there. "
            "Or go on under another name of the policy"
        )


class SessionReplacedError(BusError):
    """The same agent was opened elsewhere; there is one live session of each."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        super().__init__(f"{agent} was opened elsewhere, and does not come back here")


class Drop(BusError):  # noqa: N818  what a hook does, and no error of anybody
    """Raised by a hook: this message goes no further."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "dropped by a hook")


class ClosedError(BusError):
    """Used after it was closed."""


def twin(error: BusError) -> BusError:
    """The same error again, caused by the first: where several wait for one thing that failed, each raises its own.

    A shared one would gather the tracebacks of all.
    """
    copy = error.__class__.__new__(error.__class__, *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy

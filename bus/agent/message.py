"""What an agent is handed: one record of an envelope that passed all that is asked of one.

A batch is what one envelope brought to one subscription; its messages are made when they are taken, and share it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic

from bus.agent.bodies import pack_body, unpack_body
from bus.agent.record import NO_HEADERS, checked_headers
from bus.agent.tracing import TRACEPARENT
from bus.identity.envelopes.receive import Received
from bus.protocol.header import Header
from bus.protocol.records import BYTES, MSGPACK

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from bus.agent.settling import Settling

    Body = TypeVar("Body", default=Any)
else:
    from typing import TypeVar

    Body = TypeVar("Body")

FAILED: Final = "tpmbus-error"
"""A header of replies: there is no answer, and why."""
_SAME: Final = object()
_NO_LIMIT: Final = 1 << 32
Answer = Callable[["Message", Any, Mapping[str, str] | None], Any]


class Batch:
    """The records of one envelope for one subscription."""

    __slots__ = (
        "agent", "answer", "by_identity", "dead_reason", "deliveries", "header", "headers", "indexes", "kinds", "missed",
        "payloads", "position", "redelivered", "settling", "size_bytes", "until_ms",
    )  # fmt: skip

    def __init__(
        self,
        received: Received,
        agent: str,
        *,
        indexes: Sequence[int] | None = None,
        redelivered: bool = False,
        deliveries: int = 1,
        position: int | None = None,
        answer: Answer | None = None,
        settling: Settling | None = None,
        dead_reason: str = "",
    ) -> None:
        records = received.records
        if records is None:
            raise ValueError("an envelope whose records were not handed over makes no batch")
        self.header: Header = received.header
        self.agent = agent
        self.kinds: Sequence[int] | Mapping[int, int] = records.kinds
        self.payloads: Sequence[bytes] | Mapping[int, bytes] = records.payloads
        self.headers = records.headers
        self.size_bytes = received.size_bytes
        self.indexes: Sequence[int] = range(len(records.payloads)) if indexes is None else indexes
        self.by_identity = received.by_identity
        self.redelivered, self.deliveries, self.position = redelivered, deliveries, position
        self.missed = 0
        """Set when it is begun."""
        self.answer, self.settling = answer, settling
        self.until_ms, self.dead_reason = received.until_ms, dead_reason

    def __len__(self) -> int:
        return len(self.indexes)

    def changed(self, index: int, payload: bytes, kind: int, headers: Mapping[str, str]) -> Batch:
        """The same, with another content of one record: of that alone it may be asked."""
        other = copy.copy(self)
        other.payloads, other.kinds, other.headers = {index: payload}, {index: kind}, {index: headers}
        return other


class Message(Generic[Body]):
    """One record. Made by subscriptions; nothing in it can be changed."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch, self._index = batch, index

    @property
    def header(self) -> Header:
        """The envelope's header, as it was verified."""
        return self._batch.header

    @property
    def agent(self) -> str:
        """The agent that it was handed to."""
        return self._batch.agent

    @property
    def sender(self) -> str:
        """The agent that signed it."""
        return self._batch.header.sender

    @property
    def topic(self) -> str:
        return self._batch.header.topic

    @property
    def data(self) -> bytes:
        """The body as it travelled."""
        return self._batch.payloads[self._index]

    @property
    def is_packed(self) -> bool:
        """Whether `data` is msgpack, and no bytes that were published as they are."""
        return self._batch.kinds[self._index] == MSGPACK

    @property
    def body(self) -> Body:
        """Bytes as they were published, or the value that they stand for, decoded each time. Raises ValueError for none."""
        data: Any = self._batch.payloads[self._index]
        return data if self._batch.kinds[self._index] == BYTES else unpack_body(data)  # type: ignore[no-any-return]  # by msgpack

    @property
    def headers(self) -> Mapping[str, str]:
        found = self._batch.headers.get(self._index)
        return NO_HEADERS if found is None else MappingProxyType(dict(found))

    @property
    def trace(self) -> str | None:
        """The W3C `traceparent` of the span in which it was published. `bus.trace_context(message.headers)` is OpenTelemetry's."""
        return self.headers.get(TRACEPARENT)

    @property
    def error(self) -> str | None:
        """Of a reply: why there is no answer."""
        return self.headers.get(FAILED)

    @property
    def id(self) -> str:
        """The envelope's id in hex, and "-index" where it has several records."""
        header = self._batch.header
        return header.id.hex() if header.records == 1 else f"{header.id.hex()}-{self._index}"

    @property
    def sent_at(self) -> datetime:
        return datetime.fromtimestamp(self._batch.header.sent_ms / 1000, UTC)

    @property
    def signed_by(self) -> str:
        """By whom: "identity" is the TPM key itself, "session" the key that it certified."""
        return "identity" if self._batch.by_identity else "session"

    @property
    def deliveries(self) -> int:
        """How often it was handed to somebody, this time included, as the broker counts."""
        return self._batch.deliveries

    @property
    def redelivered(self) -> bool:
        return self._batch.redelivered or self._batch.deliveries > 1

    @property
    def missed(self) -> int:
        """Records of this sender on this topic that were lost just before this one; in a group or durably, dropped here."""
        batch = self._batch
        return batch.missed if batch.missed and self._index == batch.indexes[0] else 0

    @property
    def position(self) -> int | None:
        """Where it is stored; None on live topics."""
        return self._batch.position

    @property
    def dead_reason(self) -> str:
        """Why it is a dead letter; empty for all others."""
        return self._batch.dead_reason

    @property
    def is_request(self) -> bool:
        """Whether somebody waits for a reply."""
        return self._batch.header.is_request

    def replace(self, *, body: Any = _SAME, headers: Mapping[str, str] | None = None) -> Message:
        """The same with another content, for a deliver hook to give back. What is said of its signature is of the original's.

        Raises TypeError and ValueError for what could not travel either.
        """
        batch, index = self._batch, self._index
        payload, kind = batch.payloads[index], batch.kinds[index]
        if body is not _SAME:
            kind = BYTES if type(body) is bytes else MSGPACK
            payload = body if kind == BYTES else pack_body(body, _NO_LIMIT)
        others = batch.headers.get(index, NO_HEADERS) if headers is None else checked_headers(headers, _NO_LIMIT)[0]
        return Message(batch.changed(index, payload, kind, others), index)

    async def reply(self, body: Any, *, headers: Mapping[str, str] | None = None) -> None:
        """Answer a request. Raises LocalProtocolError if it is none; what `publish` raises."""
        answer = self._batch.answer
        if not self.is_request or answer is None:
            from bus.errors import LocalProtocolError  # noqa: PLC0415  only where it is misused

            raise LocalProtocolError(f"message {self.id} is no request: nobody waits for a reply")
        await answer(self, body, headers)

    async def ack(self, *, confirmed: bool = False) -> None:
        """It is done. Returns when that is on its way, or `confirmed`, when it is on disk. Nothing on live topics."""
        if self._batch.settling is not None:
            await self._batch.settling.ack(self._batch, self._index, confirmed=confirmed)

    async def nak(self, delay: float | None = None) -> None:
        """Have it delivered again, after so many seconds, or as the broker thinks right. Nothing on live topics.

        Raises ValueError for what is no delay.
        """
        if delay is not None:
            _check_delay(delay)
        if self._batch.settling is not None:
            await self._batch.settling.nak(self._batch, self._index, delay)

    async def term(self, reason: str = "") -> None:
        """Do not deliver it again: it becomes a dead letter, which an operator may have handed out anew. Nothing on live topics."""
        if self._batch.settling is not None:
            await self._batch.settling.term(self._batch, self._index, reason)

    async def touch(self) -> None:
        """It takes longer: whoever waits for the ack waits anew. Nothing on live topics."""
        if self._batch.settling is not None:
            await self._batch.settling.touch(self._batch)

    def __repr__(self) -> str:
        return f"<Message {self.id} of {self.sender} on {self.topic}>"


def _check_delay(delay: Any) -> None:
    if not (isinstance(delay, int | float) and 0 <= delay < float("inf")):
        raise ValueError(f"delay={delay!r}: seconds, from 0 on")


class DecodedMessage(Message[Body]):
    """One whose body was decoded as its subscription wants it."""

    __slots__ = ("_value",)

    def __init__(self, message: Message, value: Body) -> None:
        super().__init__(message._batch, message._index)  # noqa: SLF001  they are one
        self._value = value

    @property
    def body(self) -> Body:
        """What `decode` made of it, once."""
        return self._value

"""One stream for each retention class: made and changed as policy says, and found again where policy knows it no more.

A class lies on three servers where NATS is a cluster, and on the one that there is where it is none, unless it is said how many.
What policy says of a class is in a bucket, for those who read what is left of it after policy forgot it.

What newer servers can do besides is asked of each stream, and what JetStream says that it is counts, not a version: the servers of
a cluster are made newer one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from bus.backbone.interface import RetentionClass
from bus.backbone.nats.appending import Appender
from bus.backbone.nats.bucket import Bucket, OtherRevisionError
from bus.backbone.nats.connection import Connection
from bus.backbone.nats.jetstream import ApiError, JetStream, check_position, count, refused
from bus.backbone.nats.layout import ALLOW_TTL, Names, keeps_ms
from bus.clock import Clock
from bus.errors import BackboneError, RemoteProtocolError
from bus.protocol.codec import pack, unpack

USUAL_REPLICAS: Final = 3
MESSAGE_TTL: Final = "message_ttl"
"""What newer servers can: a message has a time of its own."""
HAVE_TTL: Final = (2, 11)
"""Servers that can; no others are asked once more."""
ASK_SECONDS: Final = 600.0
"""So often they are asked for what they did not say that they can: the others of their cluster may be newer by now."""


class Streams:
    def __init__(self, connection: Connection, jetstream: JetStream, names: Names, clock: Clock, *, replicas: int | None) -> None:
        self._connection, self._jetstream, self._names, self._clock = connection, jetstream, names, clock
        self._replicas = replicas
        self._appenders: dict[str, Appender] = {}
        self.known: dict[str, RetentionClass] = {}
        self.taking: dict[str, None] = {}
        """Those that policy has."""
        self._asked: dict[str, float] = {}

    @property
    def features(self) -> list[str]:
        """What newer servers can, of all that is kept here as policy says."""
        return [MESSAGE_TTL] if self.taking and all(self.appender(name).kept_ms for name in self.taking) else []

    async def begin(self) -> None:
        """Raises BackboneError, ClosedError."""
        self.consumers = await self.bucket("consumers")
        self.grants = await self.bucket("grants")
        self._classes = await self.bucket("classes")
        async for kept in self._classes.each():
            settings = _parse(kept.data)
            if settings is not None and self._classes.key(kept) == [self._names.stream(settings.name)]:
                self.known[settings.name] = settings

    def appender(self, class_: str) -> Appender:
        return self._appenders.setdefault(class_, Appender(self._connection, self._clock))

    def settings(self, class_: str) -> RetentionClass:
        """Raises BackboneError("unknown_class")."""
        found = self.known.get(class_)
        if found is None:
            raise BackboneError(
                "unknown_class", f"no durable topics of policy are kept as {class_!r}: give `retain` the classes first"
            )
        return found

    def check_taking(self, class_: str) -> None:
        """Raises BackboneError("unknown_class")."""
        if class_ not in self.taking:
            self.settings(class_)
            raise BackboneError("unknown_class", f"policy keeps nothing as {class_!r} any more: what is there can still be read")

    async def follow(self, classes: Sequence[RetentionClass]) -> list[str]:
        """Policy as it is now. The classes that changed. Raises BackboneError, ClosedError."""
        changed: list[str] = []
        for settings in classes:
            if self.known.get(settings.name) != settings or settings.name not in self._asked:
                await self._put_class(settings)
                await self._write(settings)
                self.known[settings.name] = settings
                changed.append(settings.name)
            elif self._may_have_become_newer(settings.name):
                with suppress(BackboneError):  # it is no worse than it was
                    await self._put_class(settings)
        self.taking = {settings.name: None for settings in classes}
        return changed

    async def last(self, class_: str) -> int:
        """The last position that was given. Raises BackboneError, ClosedError."""
        return count(await self._jetstream.stream(self._names.stream(class_)), "state", "last_seq")

    async def bucket(self, name: str) -> Bucket:
        """Made if there is none. Raises BackboneError, ClosedError."""
        config, _ = await self._put(lambda replicas: self._names.bucket_config(name, replicas=replicas))
        return Bucket(config, self._connection, self._jetstream, self._clock)

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _put_class(self, settings: RetentionClass) -> None:
        _, answer = await self._put(lambda replicas: self._names.stream_config(settings, replicas=replicas))
        found = answer.get("config")
        has_ttl = type(found) is dict and found.get(ALLOW_TTL) is True
        self.appender(settings.name).kept_ms = keeps_ms(settings) if has_ttl else 0
        self._asked[settings.name] = self._clock.monotonic()

    def _may_have_become_newer(self, class_: str) -> bool:
        is_due = self._clock.monotonic() - self._asked[class_] >= ASK_SECONDS
        return is_due and not self.appender(class_).kept_ms and self._connection.server_version >= HAVE_TTL

    async def _put(self, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What it is to be, and what JetStream says that it is."""
        if self._replicas is None:
            try:
                wanted: dict[str, Any] = config(USUAL_REPLICAS)
                answer = await self._jetstream.put_stream(wanted)
            except ApiError:  # there is one server alone
                self._replicas = 1
            else:
                self._replicas = USUAL_REPLICAS
                return wanted, _checked(answer)
        wanted = config(self._replicas)
        try:
            answer = await self._jetstream.put_stream(wanted)
        except ApiError as error:
            raise refused(error) from error
        return wanted, _checked(answer)

    async def _write(self, settings: RetentionClass) -> None:
        key, data = self._names.stream(settings.name), pack([*_fields(settings)])
        while True:
            kept = await self._classes.get(key)
            if kept is not None and kept.data == data:
                return
            try:
                await self._classes.put(key, data, revision=0 if kept is None else kept.seq)
            except OtherRevisionError:
                continue
            return


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Raises BackboneError("version")."""
    check_position(count(answer, "state", "last_seq"))
    return answer


def _fields(settings: RetentionClass) -> tuple[str, int, int, int]:
    return settings.name, settings.retention_ms, settings.ack_wait_ms, settings.max_deliver


def _parse(data: bytes) -> RetentionClass | None:
    try:
        fields = unpack(data, longest=4, arrays=1)
    except RemoteProtocolError:
        return None
    if [*map(type, fields)] != [str, int, int, int] or min(fields[1:]) <= 0:
        return None
    return RetentionClass(*fields)

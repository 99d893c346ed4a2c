"""JetStream's own interface, as the brokers need it: questions in JSON, asked again while a cluster has no leader.

An error that the caller expects raises ApiError with its number; every other one, and a question that nobody answers in time,
BackboneError.
Everything here may be asked twice without harm.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from bus.backbone.nats.connection import NO_RESPONDERS, SAID_SECONDS, Connection, UnansweredError
from bus.clock import Clock
from bus.errors import BackboneError

PATIENCE_SECONDS: Final = 15.0
"""A cluster that lost its leader has another one after a few."""
RETRY_SECONDS: Final = 0.2
_log = logging.getLogger(__name__)

NO_PEERS: Final = 10_005
NO_LEADER: Final = 10_008
PASSES: Final = frozenset((NO_PEERS, NO_LEADER))
"""A cluster says so while one of its servers is away, or has just come back and is not known to be there again."""
NO_CONSUMER: Final = 10_014
NO_MESSAGE: Final = 10_037
NO_STREAM: Final = 10_059
NAME_IN_USE: Final = 10_058
NOT_CLUSTERED: Final = 10_074
OTHER_REVISION: Final = 10_071
NO_TTL: Final = 10_166
"""Messages of this stream have no time of their own."""
GONE: Final = frozenset((10_043, 10_057, NO_MESSAGE, NO_STREAM))
"""What is to be deleted is not there."""
FULL: Final = frozenset((10_002, 10_023, 10_028, 10_047, 10_077))
"""No room: of the server, the account, or the stream."""


NEWER_WROTE: Final = 1 << 62
"""No stream has so many messages. nats-server 2.10 and newer set this bit where one was deleted, and 2.9 takes it for a number."""


class ApiError(Exception):
    """JetStream said no."""

    def __init__(self, number: int, text: str) -> None:
        self.number, self.text = number, text
        super().__init__(text)


class Kept(NamedTuple):
    """A message of a stream."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


class JetStream:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection, self._clock = connection, clock
        self._is_slow = False
        """It did not answer last, and that was said."""

    async def call(self, verb: str, body: Mapping[str, Any] | None = None, *, expected: Collection[int] = ()) -> dict[str, Any]:
        """Raises ApiError with an `expected` number, BackboneError: "disk", "disk_full"; ClosedError."""
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        began = self._clock.monotonic()
        until = began + PATIENCE_SECONDS
        while True:
            try:
                answer = parse_answer((await self._connection.ask(f"$JS.API.{verb}", data)).data)
            except UnansweredError as error:
                denied = self._connection.denied
                if self._clock.monotonic() > until or f'"$JS.API.{verb}"'.lower() in denied.lower():
                    raise unreachable(self._connection, denied) from error
                self._say_slow(began)
            except ApiError as error:
                if error.number in expected:
                    raise
                if error.number not in PASSES or self._clock.monotonic() > until:
                    raise refused(error) from error
            else:
                self._is_slow = False
                return answer
            await self._clock.sleep(RETRY_SECONDS)

    def _say_slow(self, began: float) -> None:
        if not self._is_slow and self._clock.monotonic() - began >= SAID_SECONDS:
            self._is_slow = True
            _log.warning("waiting for JetStream, which does not answer yet: it is asked again for %g s", PATIENCE_SECONDS)

    # ---- streams ---------------------------------------------------------------------------------------------------------------

    async def put_stream(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Make it, or have it as it is said here. Raises ApiError(NOT_CLUSTERED) where it asks for more servers than there are."""
        try:
            return await self.call(f"STREAM.CREATE.{config['name']}", config, expected=(NAME_IN_USE, NOT_CLUSTERED))
        except ApiError as error:
            if error.number != NAME_IN_USE:
                raise
        return await self.call(f"STREAM.UPDATE.{config['name']}", config, expected=(NOT_CLUSTERED,))

    async def stream(self, name: str, *, subjects: str = "", offset: int = 0) -> dict[str, Any] | None:
        """What it is like; with how many messages each of these subjects has. None: there is none."""
        try:
            body = {"subjects_filter": subjects, "offset": offset} if subjects else None
            return await self.call(f"STREAM.INFO.{name}", body, expected=(NO_STREAM,))
        except ApiError:
            return None

    # ---- messages --------------------------------------------------------------------------------------------------------------

    async def message(self, stream: str, which: Mapping[str, Any]) -> Kept | None:
        """The message with this `seq`, the last of one subject (`last_by_subj`), or the next one from `seq` on (`next_by_subj`)."""
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", which, expected=(NO_MESSAGE, NO_STREAM))
        except ApiError:
            return None
        return _kept(answer.get("message"))

    async def delete_message(self, stream: str, seq: int) -> None:
        """It may be gone already."""
        with suppress(ApiError):
            await self.call(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True}, expected=GONE)

    # ---- consumers -------------------------------------------------------------------------------------------------------------

    async def put_consumer(self, stream: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """Make it, or have it as it is said here, as far as one that exists can be changed."""
        name = config["durable_name"]
        return await self.call(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})

    async def consumer(self, stream: str, name: str) -> dict[str, Any] | None:
        try:
            return await self.call(f"CONSUMER.INFO.{stream}.{name}", expected=(NO_CONSUMER, NO_STREAM))
        except ApiError:
            return None

    async def delete_consumer(self, stream: str, name: str) -> None:
        """It may be gone already."""
        with suppress(ApiError):
            await self.call(f"CONSUMER.DELETE.{stream}.{name}", expected=(NO_CONSUMER, NO_STREAM))


def parse_answer(data: bytes) -> dict[str, Any]:
    """Raises ApiError, UnansweredError for what is no answer at all."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnansweredError("an answer of JetStream is JSON") from error
    if type(answer) is not dict:
        raise UnansweredError("an answer of JetStream is an object")
    if "error" in answer:
        raise _refusal(answer["error"])
    return answer


def count(answer: Mapping[str, Any] | None, *path: str) -> int:
    """The number that stands there in an answer; 0 where there is none."""
    found: Any = answer
    for name in path:
        found = found.get(name) if type(found) is dict else None
    return found if type(found) is int and 0 <= found < 1 << 63 else 0


def subjects(answer: Mapping[str, Any] | None) -> dict[str, int]:
    """The subjects of a stream that were asked for, and how many messages each has."""
    state = (answer or {}).get("state")
    found = state.get("subjects") if type(state) is dict else None
    return {str(name): number for name, number in found.items() if type(number) is int} if type(found) is dict else {}


def _refusal(said: Any) -> ApiError:
    fields = said if type(said) is dict else {}
    number = fields.get("err_code", NO_LEADER if fields.get("code") == NO_RESPONDERS else 0)
    return ApiError(number if type(number) is int else 0, str(said)[:256])


def _kept(message: Any) -> Kept:
    try:
        seq, subject = message["seq"], message["subject"]
        headers, data = b64decode(message.get("hdrs", "")), b64decode(message.get("data", ""))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BackboneError("damaged", "NATS gave a message that is none") from error
    if type(seq) is not int or not 0 < seq < 1 << 63 or type(subject) is not str:
        raise BackboneError("damaged", "NATS gave a message that is none")
    return Kept(seq, subject, _headers(headers), data)


def _headers(data: bytes) -> dict[str, str]:
    lines = data.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def unreachable(connection: Connection, denied: str = "") -> BackboneError:
    """`denied`: what a server said that this broker may not do."""
    now, before = connection.server_version, connection.newest_version
    if now[:2] < before[:2]:
        text = f"JetStream does not answer since its server is {_dotted(now)} and no more {_dotted(before)}"
        step = "an older one cannot read what a newer one wrote. Have the newer one again; nothing is lost by that"
        return BackboneError("version", f"{text}: {step}")
    if denied:
        text = f"this broker may not do on NATS what it has to: {denied}"
        step = "write its configuration anew (`tpmbus backbone nats-config .. --force`) and have the servers read it"
        return BackboneError("disk", f"{text}. If `tpmbus backbone nats-config` wrote what is there, {step}")
    return BackboneError("disk", "JetStream does not answer: are its servers running, and has it been enabled (`nats-server -js`)?")


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def refused(error: ApiError) -> BackboneError:
    """What JetStream said, where nobody expected it."""
    if error.number in FULL:
        return full()
    text = f"JetStream refused: {error.text} ({error.number})"
    return BackboneError("disk", f"{text}; may this broker do that in its account, and is JetStream enabled (`nats-server -js`)?")


def check_position(seq: int) -> int:
    """Raises BackboneError("version") for what no stream has got to."""
    if seq < NEWER_WROTE:
        return seq
    text = "a newer nats-server wrote what lies here, and this one, which is older, cannot read it"
    raise BackboneError("version", f"{text}: have the newer one again; nothing is lost by that")


def full() -> BackboneError:
    return BackboneError("disk_full", "JetStream has no room: give its account or its servers more, or keep less")

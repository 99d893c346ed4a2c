"""The connection to NATS, and the only place that knows nats-py: what is published, asked for and subscribed to goes through here.

One inbox takes all answers; whoever expects one gives a callback and has a token for it. When the connection is lost everybody who
expects something is told so at once, because what was under way may be lost with it: they ask again. nats-py dials again by itself,
for good, and subscribes again to what was subscribed to.

nats-py starts tasks of its own on asyncio, so on trio there is no such connection: a broker runs in a process of its own there.
What comes from NATS is made into plain values here, whatever it says; who takes them judges them.
"""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
from anyio.lowlevel import current_token

from bus.backbone.nats.login import NO_LOGIN, Login
from bus.clock import Clock
from bus.errors import BackboneError, ClosedError

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

OLDEST: Final = (2, 9)
"""Of servers: what the brokers ask of JetStream is there since then."""
ANSWER_SECONDS: Final = 2.0
"""So long an answer may take; then it is asked for again."""
PENDING_BYTES: Final = 64 << 20
"""What waits to be written while the server is away, and what arrived and waits to be looked at."""
PENDING_MESSAGES: Final = 1 << 18
HEADER_BYTES: Final = 1 << 10
"""The longest headers that we write, rounded up: NATS counts them in with the payload."""
NO_RESPONDERS: Final = 503
SAID_SECONDS: Final = 1.5
"""So long nobody is told that a server is waited for."""
_DENIED: Final = "permissions violation"
_log = logging.getLogger(__name__)


class Arrived(NamedTuple):
    """A message as it came."""

    subject: str
    reply: str
    status: int
    """Of a message that is none: "there are no more", "nobody answers"; else 0."""
    text: str
    headers: Mapping[str, str]
    data: bytes


Told = Callable[[Arrived | None], None]
"""Hears one answer; None when the connection was lost before it came."""


class UnansweredError(Exception):
    """Nobody answered, or the connection was lost meanwhile: it may be asked again."""


class Connection:
    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._expected: dict[str, Told] = {}
        self._number = 0
        self._inbox = client.new_inbox()
        self._outgoing: deque[tuple[str, bytes, str]] = deque()
        self._wanted = anyio.Event()
        self._sending = anyio.Lock()
        self._is_closed = False
        self.newest_version = self.server_version
        """Of the servers that it was connected to; what they wrote, an older one may not be able to read."""
        self.losses = 0
        """How often the connection was lost."""
        self.denied = ""
        """What a server last said that this broker may not do."""
        self._to_tell: dict[Callable[[], None], None] = {}
        """Of a loss."""

    @property
    def max_bytes(self) -> int:
        """The longest payload that this server takes beside our headers."""
        return self._client.max_payload - HEADER_BYTES

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Of the server that it is connected to, or was last."""
        version = self._client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def is_connected(self) -> bool:
        """Now; where it is not, nats-py dials."""
        return self._client.is_connected

    def when_lost(self, told: Callable[[], None]) -> Callable[[], None]:
        """`told` hears whenever the connection is lost. Gives what ends it."""
        self._to_tell[told] = None
        return lambda: self._to_tell.pop(told, None)

    # ---- answers ---------------------------------------------------------------------------------------------------------------

    def expect(self, told: Told) -> str:
        """A token for an answer; `told` hears what comes, until the token is forgotten."""
        self._number += 1
        token = f"{self._inbox}.{self._number}"
        self._expected[token] = told
        return token

    def forget(self, token: str) -> None:
        self._expected.pop(token, None)

    async def ask(self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None) -> Arrived:
        """Raises UnansweredError, ClosedError."""
        found: list[Arrived | None] = []
        came = anyio.Event()

        def told(arrived: Arrived | None) -> None:
            found.append(arrived)
            came.set()

        token = self.expect(told)
        try:
            await self.publish(subject, data, token, headers)
            with suppress(TimeoutError), self._clock.fail_after(ANSWER_SECONDS):
                await came.wait()
        finally:
            self.forget(token)
        self._check_open()
        answer = found[0] if found else None
        if answer is None or answer.status == NO_RESPONDERS:
            raise UnansweredError(subject)
        return answer

    # ---- sending ---------------------------------------------------------------------------------------------------------------

    async def publish(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Raises UnansweredError: nothing more can wait for the server. ClosedError."""
        self._check_open()
        from nats.errors import Error  # noqa: PLC0415  an extra

        try:
            await self._client.publish(subject, data, reply, headers)
        except (Error, OSError) as error:
            self._check_open()
            raise UnansweredError(subject) from error

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """The same without waiting; it leaves with the next `flush`, or when `run` comes to it."""
        self._outgoing.append((subject, data, reply))
        self._wanted.set()

    async def flush(self) -> None:
        """What was to be sent is written, or will be when the server is back. Raises UnansweredError, ClosedError."""
        async with self._sending:
            while self._outgoing:
                await self.publish(*self._outgoing[0])
                self._outgoing.popleft()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            try:
                await self.flush()
            except UnansweredError:
                await self._clock.sleep(ANSWER_SECONDS)
                self._wanted.set()
            except ClosedError:
                return

    # ---- subscriptions ---------------------------------------------------------------------------------------------------------

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    async def subscribe(self, subject: str, heard: Callable[[Arrived], None], *, group: str = "") -> Callable[[], Awaitable[None]]:
        """`heard` is told of each message. Gives what ends it. Raises UnansweredError, ClosedError."""
        self._check_open()
        from nats.errors import Error  # noqa: PLC0415  an extra

        async def hear(message: Msg) -> None:
            heard(_arrived(message))

        limits: dict[str, Any] = {"pending_msgs_limit": PENDING_MESSAGES, "pending_bytes_limit": PENDING_BYTES}
        try:
            subscription = await self._client.subscribe(subject, queue=group, cb=hear, **limits)
        except (Error, OSError) as error:
            raise UnansweredError(subject) from error

        async def end() -> None:
            with suppress(Error, OSError):
                await subscription.unsubscribe()

        return end

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Listen to answers."""
        await self.subscribe(f"{self._inbox}.*", self._answered)

    def lost(self) -> None:
        """The connection is gone, with whatever was under way. Nobody has to wait until it is missed."""
        self.losses += 1
        self.newest_version = max(self.newest_version, self.server_version)
        expected, self._expected = self._expected, {}
        for told in expected.values():
            told(None)
        for hear in [*self._to_tell]:
            hear()

    async def aclose(self) -> None:
        """Also where a server has ended it before."""
        if not self._is_closed:
            from nats.errors import Error  # noqa: PLC0415  an extra

            gone = (Error, OSError, TimeoutError)
            with suppress(UnansweredError, ClosedError, *gone), self._clock.fail_after(ANSWER_SECONDS):
                await self.flush()
                await self._client.flush(int(ANSWER_SECONDS))
            self._is_closed = True
            with suppress(*gone), self._clock.fail_after(ANSWER_SECONDS):
                await self._client.close()
            self.lost()

    def _answered(self, arrived: Arrived) -> None:
        told = self._expected.get(arrived.subject)
        if told is not None:
            told(arrived)

    def _check_open(self) -> None:
        if self._is_closed or self._client.is_closed:
            raise ClosedError("the connection to NATS is closed")


def _arrived(message: Msg) -> Arrived:
    headers = message.headers or {}
    status = headers.get("Status", "")
    number = int(status) if len(status) == 3 and status.isascii() and status.isdecimal() else 0
    return Arrived(message.subject, message.reply, number, headers.get("Description", ""), headers, message.data)


async def connect(
    servers: Sequence[str], clock: Clock, *, tls: ssl.SSLContext | None, wait_seconds: float, login: Login = NO_LOGIN
) -> Connection:
    """Raises BackboneError: "unsuitable", "disk" (nobody answers there)."""
    _check_loop()
    try:
        from nats.errors import Error  # noqa: PLC0415  an extra, imported late

        client = _new_client()
    except ImportError as error:
        raise BackboneError("unsuitable", "the NATS backbone needs nats-py: pip install 'tpmbus[nats]'") from error
    connection: Connection | None = None
    reasons: list[Exception] = []

    async def lost() -> None:
        if connection is not None:
            connection.lost()

    async def failed(error: Exception) -> None:
        """nats-py tells of each attempt. Once there was a connection, who waits for an answer finds out by itself."""
        reasons[:] = [error]
        if connection is not None and _DENIED in str(error):
            connection.denied = str(error)

    def said() -> str:
        return f"{shown} ({f'{type(reasons[0]).__name__} {reasons[0]}'.rstrip()})" if reasons else shown

    shown = ", ".join(map(_without_secrets, servers))
    try:
        begin = partial(
            client.connect,
            servers=[*servers],
            name="tpmbus",
            max_reconnect_attempts=-1,
            ping_interval=2,
            max_outstanding_pings=2,
            pending_size=PENDING_BYTES,
            error_cb=failed,
            disconnected_cb=lost,
            inbox_prefix=login.inbox,
            **_options(tls, login),
        )
        with clock.fail_after(wait_seconds):
            await _said_when_slow(begin, lambda: f"waiting for a NATS server at {said()}, {wait_seconds:g} s at most", clock)
        connection = Connection(client, clock)
        _check_server(client)
        await connection.begin()
    except BaseException as error:
        with anyio.CancelScope(shield=True), suppress(TimeoutError), clock.fail_after(ANSWER_SECONDS):
            await client.close()
        if isinstance(error, (Error, OSError, TimeoutError)):
            reasons[:] = reasons or [error]
            text = f"no NATS server can be used at {said()}"
            step = "is it running, and may this broker log in there (`tpmbus run --nats-key FILE`, or TPMBUS_NATS_NKEY)?"
            raise BackboneError("disk", f"{text}: {step}") from error
        if isinstance(error, ImportError):
            raise BackboneError(
                "unsuitable", "to log in to NATS with a key, nkeys is needed: pip install 'tpmbus[nats]'"
            ) from error
        raise
    return connection


async def _said_when_slow(work: Callable[[], Awaitable[None]], text: Callable[[], str], clock: Clock) -> None:
    """Whoever watches learns within two seconds what is waited for."""
    failure: list[Exception] = []

    async def say() -> None:
        await clock.sleep(SAID_SECONDS)
        _log.warning("%s", text())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(say)
        try:
            await work()
        except Exception as error:  # noqa: BLE001  raised below, as it is and not in a group
            failure.append(error)
        tasks.cancel_scope.cancel()
    if failure:
        raise failure[0]


def _new_client() -> Client:
    """nats-py's, which says nothing in the clear to a server that is to be asked over TLS, and leaves no socket behind.

    It is the server that says whether TLS is spoken, and nats-py goes by that: whoever stands in between could have the password.
    """
    from nats.aio.client import Client  # noqa: PLC0415  an extra
    from nats.errors import Error  # noqa: PLC0415  an extra

    class Strict(Client):
        def _connect_command(self) -> bytes:
            server = self._current_server
            if server is not None and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
                raise Error("the server offers no TLS, and its address asks for it")
            return super()._connect_command()

        async def _process_connect_init(self) -> None:
            try:
                await super()._process_connect_init()
            except BaseException:  # a server that does not let us in: the next attempt would forget this socket, open
                if self._transport is not None:
                    self._transport.close()  # type: ignore[no-untyped-call]  # nats-py gives it no types
                raise

        async def _close(self, status: int, do_cbs: bool = True) -> None:
            if not self.is_connected:  # what waits cannot be written any more, and trying to would leave the rest undone
                self._pending, self._pending_data_size = [], 0
            await super()._close(status, do_cbs)

    return Strict()


def _options(tls: ssl.SSLContext | None, login: Login) -> dict[str, Any]:
    """Raises BackboneError("unsuitable")."""
    options: dict[str, Any] = {"reconnect_time_wait": 0.25}  # seconds, and parts of them, whatever its type says
    if tls is not None:
        options["tls"] = tls
    if login != NO_LOGIN and find_spec("nkeys") is None:
        raise BackboneError("unsuitable", "to log in to NATS with a key, nkeys is needed: pip install 'tpmbus[nats]'")
    if login.seed:
        options["nkeys_seed_str"] = login.seed
    elif login.credentials:
        from nats.aio.client import RawCredentials  # noqa: PLC0415  an extra

        options["user_credentials"] = RawCredentials(login.credentials)
    return options


def _without_secrets(url: str) -> str:
    return url.rpartition("@")[2]


def _check_loop() -> None:
    token: Any = current_token().native_token
    if hasattr(token, "run_sync_soon"):
        text = "the NATS backbone runs on asyncio, because nats-py does, and this is trio"
        raise BackboneError("unsuitable", f"{text}: run the broker in a process of its own (`tpmbus run`), and connect to it")


def _check_server(client: Client) -> None:
    version = client.connected_server_version
    if (version.major, version.minor) < OLDEST:
        text = f"the NATS server is {version.major}.{version.minor}"
        raise BackboneError("unsuitable", f"{text}: it has to be {OLDEST[0]}.{OLDEST[1]} or newer")

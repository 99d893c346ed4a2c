"""The link of a host, kept as long as there are agents: dialled, greeted, watched, and dialled again when it is lost.

    first      what keeps the first link from being made is raised: somebody waits for it. A broker that is there and does not
               answer in time is busy, with a hundred processes that start together for example, and is tried three times
    later      tried again, 50 ms doubling to 2 s, until it is there; or given up after so many seconds, where that was said
    refused    bad papers and a broker that is none end the host: trying again would not help. One that is busy, or gone in the
               middle of the handshake, may be there the next time
    one of     several agents whose papers are refused is put off alone, and the link is made for the others
    revoked    is what a broker says of an agent (DRAIN) before it refuses the link that this one came with
    clocks     that differ are set right some day: until then a host that was let in before goes on trying
    asleep     for longer than trust lasts: see `catching_up`
    silent     after 10 s it is asked whether it lives, after 20 s it is lost

Papers of sessions that the broker has not seen on this link are shown as soon as there are any, before anything is sent under them.
Those that were renewed come last, on a new link: what was signed under them and not credited goes again there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final

import anyio

from bus.agent.catching_up import helps, newest_statement
from bus.agent.conversation import Conversation
from bus.agent.greeting import Greeting
from bus.clock import Clock
from bus.errors import (
    BusError,
    ConnectError,
    ConnectionLostError,
    NotPermittedError,
    RemoteProtocolError,
    RevokedError,
    TransportError,
    VerificationError,
    twin,
)
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Session
from bus.identity.host.sessions import Sessions
from bus.protocol.frames import Frame, encode
from bus.protocol.handshake import MAX_SECONDS, agent_tbs
from bus.transport.link import Link

SILENT_SECONDS: Final = 10.0
"""Of silence before it is asked whether it lives, and before it counts as lost then."""
PAPERS_BYTES: Final = 512 << 10
"""Of papers in one frame."""
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
FIRST_TRIES: Final = 3
REFUSED_TOO_MUCH: Final = "the broker refused too much of what this host sent; refusals() says what"
Dial = Callable[[], Awaitable[Link]]


class Connection:
    """`opened` is called with each new link, `lost` with why it ended; `writable`, `worked` and `failed` as in `Conversation`."""

    def __init__(
        self,
        dial: Dial,
        keyring: Keyring,
        sessions: Sessions,
        verifier: Verifier,
        clock: Clock,
        *,
        brokers: Collection[str],
        give_up: float | None,
        put_off: Callable[[str, NotPermittedError | RevokedError], bool],
        random: Callable[[int], bytes],
    ) -> None:
        """`put_off` hears which agent the broker does not want, and says whether there are others."""
        self._dial, self._keyring, self._sessions, self._verifier, self._clock = dial, keyring, sessions, verifier, clock
        self._brokers, self._give_up, self._put_off, self._random = brokers, give_up, put_off, random
        self._greeting: Greeting | None = None
        self._first: tuple[str, bytes] = "", b""
        """Whose papers began the last handshake, and those."""
        self._revoked = ""
        """Of whom the broker has said so on this link."""
        self._is_let_in = self._was_let_in = False
        """Whether the broker said anything after it, on this link or on one before."""
        self._conversation: Conversation | None = None
        self._wanted = anyio.Event()
        self._changed = anyio.Event()
        self._shown: set[bytes] = set()
        self._proven = b""
        self._unanswered = 0
        """Handshakes that took too long."""
        self._asked_at = -1.0
        """When it was last asked whether it lives."""
        self._pings: dict[int, anyio.Event] = {}
        self._ping = 0
        self.error: BaseException | None = None
        """What ended it for good."""

    @property
    def is_open(self) -> bool:
        return self._conversation is not None and self._conversation.is_open

    @property
    def is_behind(self) -> bool:
        """Whether more has come than could be worked off at once."""
        return self._conversation is not None and self._conversation.is_behind

    @property
    def broker(self) -> str:
        """The name of the broker at the other end."""
        return "" if self._conversation is None else self._conversation.greeting.broker

    def let_in(self) -> None:
        """The broker wants this link."""
        self._is_let_in = self._was_let_in = True

    def send(self, frame: bytes) -> None:
        """Dropped while there is no link: what matters is said again on the next one."""
        conversation = self._conversation
        if conversation is not None and conversation.is_open:
            conversation.link.send(frame)

    def want(self, *, wanted: bool) -> None:
        """Whether there is anybody to connect."""
        if wanted:
            self._wanted.set()
        elif self._wanted.is_set():
            self._wanted = anyio.Event()  # a link that is lost now is missed by nobody

    async def opened(self) -> None:
        """Return when there is a link. Raises what keeps it from being made."""
        while not self.is_open:
            self._check()
            await self._changed.wait()

    async def sync(self) -> None:
        """Return when the broker has worked off everything that was sent before, acks of durable messages included."""
        self._ping += 1
        number, pong = self._ping, anyio.Event()
        self._pings[number] = pong
        self.send(encode(Frame.PING, number))
        try:
            await pong.wait()
        finally:
            del self._pings[number]
        self._check()

    def pong(self, number: int) -> None:
        if (waits := self._pings.get(number)) is not None:
            waits.set()

    def end(self, error: BaseException | None) -> None:
        """For good. Who waits for it hears why."""
        self.error = self.error or error
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None
        self._tell()
        for waits in self._pings.values():
            waits.set()

    def _check(self) -> None:
        if self.error is not None:
            raise twin(self.error) if isinstance(self.error, BusError) else self.error

    # ---- keeping it ----------------------------------------------------------------------------------------------------------

    async def keep(
        self,
        table: Mapping[int, Callable[..., Any]],
        *,
        opened: Callable[[Link], None],
        lost: Callable[[BusError], None],
        writable: Callable[[], None],
        worked: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Until cancelled. Raises, once it makes no sense to go on, what ended it."""

        def open_(conversation: Conversation) -> None:
            self._show([*self._sessions.held.values(), *self._sessions.former()])
            opened(conversation.link)
            for number in self._pings:  # what was asked on the last link is asked on this one
                conversation.link.send(encode(Frame.PING, number))
            self._tell()

        pause, lost_at, was_open = FIRST_PAUSE_SECONDS, None, False
        while True:
            await self._wanted.wait()
            unanswered = self._unanswered
            try:
                conversation = await self._connect(table, open_, writable, worked, failed)
                was_open = True
                await conversation.over.wait()
                error: BusError = conversation.error or ConnectionLostError("the link ended")
            except (TransportError, RemoteProtocolError) as why:
                if not was_open and not unanswered < self._unanswered < FIRST_TRIES:
                    raise
                error = why
            except (NotPermittedError, VerificationError, RevokedError) as why:
                error = why
            self._conversation = None
            if self._is_let_in:
                pause, lost_at = FIRST_PAUSE_SECONDS, None
            if isinstance(error, NotPermittedError | VerificationError | RevokedError) and not self._goes_on(error):
                raise error
            lost(error)
            lost_at = self._clock.monotonic() if lost_at is None else lost_at
            if self._give_up is not None and self._clock.monotonic() - lost_at >= self._give_up:
                raise ConnectionLostError(f"the broker was away for {self._give_up:g} s: {error}") from error
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _goes_on(self, error: NotPermittedError | VerificationError | RevokedError) -> bool:
        """Whether it may be otherwise the next time."""
        if self._is_let_in:
            return False
        if self._was_let_in and self._greeting is not None and self._greeting.clocks_differ:
            return True
        return not isinstance(error, VerificationError) and self._put_off(self._first[0], error)

    async def _connect(
        self,
        table: Mapping[int, Callable[..., Any]],
        opened: Callable[[Conversation], None],
        writable: Callable[[], None],
        worked: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> Conversation:
        self._is_let_in = False
        link = await self._dial()
        now_ms = self._keyring.now_ms()
        session = next((one for one in self._sessions.held.values() if one.is_good(now_ms)), None)
        if session is None:
            await self._catch_up(link, now_ms)
            raise ConnectError("there is no agent to connect, or none whose session counts now")
        self._first, self._revoked = (session.holder.name, session.papers), ""
        greeting = self._greet(link, session.keys, now_ms)
        conversation = self._conversation = Conversation(
            link, greeting, table, self._clock, opened=opened, writable=writable, worked=worked, failed=failed
        )
        self._shown, self._proven = {session.id}, session.keys.public
        conversation.start()
        try:
            with self._clock.fail_after(MAX_SECONDS):
                await conversation.greeted.wait()
        except TimeoutError:
            conversation.close(flush=False)
            self._unanswered += 1
            raise ConnectError(f"the broker at {link.peer.address} does not answer") from None
        if not conversation.is_open:
            raise conversation.error or ConnectionLostError("the link ended within the handshake")
        return conversation

    def _greet(self, link: Link, keys: HostKeys | None, now_ms: int) -> Greeting:
        self._greeting = Greeting(
            [self._first[1]], keys, peer=link.peer, brokers=self._brokers, snapshot=self._keyring.snapshot,
            verifier=self._verifier, now_ms=now_ms, random=self._random,
        )  # fmt: skip
        return self._greeting

    async def _catch_up(self, link: Link, now_ms: int) -> None:
        """All were closed meanwhile, or slept longer than trust lasts."""
        own = self._sessions.statement()
        if now_ms <= own.next_update_ms or not self._first[1]:
            link.close(flush=False)
            return
        heard = await newest_statement(link, self._greet(link, None, now_ms), self._clock)
        if helps(heard, own, now_ms=now_ms):
            self._sessions.hear(heard)

    def show_papers(self) -> None:
        """Those that the broker has not seen on this link."""
        self._show(self._sessions.held.values())

    def _show(self, sessions: Iterable[Session]) -> None:
        conversation = self._conversation
        if conversation is None or not conversation.is_open:
            return
        fresh = [session for session in sessions if session.id not in self._shown]
        while fresh:
            keys, size = fresh[0].keys, 0
            papers: list[bytes] = []
            while fresh and fresh[0].keys is keys and (not papers or size + len(fresh[0].papers) <= PAPERS_BYTES):
                session = fresh.pop(0)
                papers.append(session.papers)
                size += len(session.papers)
                self._shown.add(session.id)
            signature = b"" if keys.public == self._proven else keys.prove(agent_tbs(conversation.greeting.t))
            self._proven = keys.public
            conversation.link.send(encode(Frame.PAPERS, papers, signature))

    def watch(self) -> None:
        """To be called now and then: whether it still lives."""
        conversation = self._conversation
        if conversation is None or not conversation.is_open:
            return
        now = self._clock.monotonic()
        if now - conversation.heard < SILENT_SECONDS:
            return
        if self._asked_at <= conversation.heard:  # not by silence alone: this process may have been suspended itself
            self._asked_at = now
            self.send(encode(Frame.PING, 0))
        elif now - self._asked_at >= SILENT_SECONDS:
            conversation.close(ConnectionLostError(f"the broker said nothing for {now - conversation.heard:.0f} s"), flush=False)

    def refused(self, code: str) -> None:
        """The broker does not want this link, after all: its papers, or what it did."""
        conversation = self._conversation
        if conversation is not None:
            refusal = NotPermittedError("this host", "connect", f"the broker says {code}; its log says why")
            conversation.close(RevokedError(self._revoked) if self._revoked and self._revoked == self._first[0] else refusal)

    def revoked(self, name: str) -> None:
        """The broker says so of this agent."""
        self._revoked = name

    def cut(self, why: str) -> None:
        """The broker ends this link, and says why. Another one may do better."""
        conversation = self._conversation
        if conversation is not None:
            conversation.close(ConnectionLostError(why), flush=False)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

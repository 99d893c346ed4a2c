"""The agents of one process: one link, one pair of keys, one opened copy of what comes. It binds; others decide.

    open     an agent is certified, shown to the broker, and can publish and subscribe
    run      keeps the link, the sessions, the samples and the clock's business, until cancelled
    lost     everything is opened and asked for again on the next link, and what was not credited is sent again

Agents and their subscriptions are entries here, not scopes: they may be closed in any order and from any task.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from bus.agent.agent import Agent
from bus.agent.conversation import Conversation
from bus.agent.greeting import Greeting
from bus.agent.inbox import Inbox
from bus.agent.joining import Joining
from bus.agent.lane import Lane
from bus.agent.outbox import Outbox
from bus.agent.refusals import Refusal, Refusals
from bus.agent.requests import Requests
from bus.agent.sealing_turns import SealingTurns
from bus.agent.trusting import Trusting
from bus.clock import Clock
from bus.errors import (
    BusError,
    ClosedError,
    ConnectError,
    ConnectionLostError,
    NotPermittedError,
    RevokedError,
    SessionReplacedError,
    VerificationError,
    twin,
)
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.keyring import Keyring
from bus.identity.host import renewal
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.identity.signer import Signer
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import (
    ALL_DELIVERIES,
    BY_ITS_TOPIC,
    Frame,
    encode,
)
from bus.protocol.handshake import MAX_SECONDS, agent_tbs
from bus.protocol.header import EPOCH_ID_BYTES, ID_BYTES
from bus.protocol.sampling import AuditRecord
from bus.transport.link import Link

TICK_SECONDS: Final = 0.25
SILENT_SECONDS: Final = 10.0
LOST_SECONDS: Final = 20.0
FORGET_SECONDS: Final = 5.0
PAPERS_BYTES: Final = 512 << 10
"""Of papers in one frame."""
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0


class Host:
    """`dial` gives a new link to the broker, or raises ConnectError. `brokers` are the pinned names."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        sessions: Sessions,
        signer: Signer,
        memory: TrustMemory,
        verifier: Verifier,
        trust: TrustDocuments,
        brokers: Collection[str],
        clock: Clock,
        dial: Callable[[], Awaitable[Link]],
        give_up: float | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.keyring, self.sessions, self.signer, self.clock = keyring, sessions, signer, clock
        self._memory, self._verifier, self._brokers, self._dial, self.random = memory, verifier, brokers, dial, random
        self._give_up = give_up
        self.agents: dict[str, Agent] = {}
        self.refusals = Refusals()
        self.requests = Requests()
        self.outbox = Outbox(
            keyring, sessions, SealingTurns(sessions, signer, random=random), clock,
            start=self.start, refused=self._not_sent, failed=self.fail,
        )  # fmt: skip
        self.inbox = Inbox(keyring, self.requests, answer=self._answer, refused=self._not_taken)
        self.joining = Joining(self.inbox, self.send)
        self.trusting = Trusting(trust, memory, verifier, start=self.start, follow=self._follow)
        self._tasks: TaskGroup | None = None
        self._conversation: Conversation | None = None
        self._told: set[bytes] = set()
        self._proven = b""
        self._wanted = anyio.Event()
        self._changed = anyio.Event()
        self._error: BaseException | None = None
        self._broken = anyio.Event()
        self._pings: dict[int, anyio.Event] = {}
        self._ping = 0
        signer.on_audit = self._audit
        sessions.on_change.append(self._sessions_changed)

    # ---- life ----------------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises, alone, what nothing can go on after."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for part in (self._keep_renewing, self.signer.run, self._keep_connected, self._keep_time, self._until_broken):
                    tasks.start_soon(part)
                task_status.started()
        except BaseExceptionGroup:
            if self._error is None:
                raise
        finally:
            self._tasks = None
            self._end(ClosedError("this host is closed"))
        if self._error is not None:
            raise self._error

    def start(self, call: Callable[[], Awaitable[None]]) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(_guarded, call, self.fail)

    def fail(self, error: BaseException) -> None:
        """Nothing can go on after this."""
        if self._error is None:
            self._error = error
            self._broken.set()

    async def _until_broken(self) -> None:
        await self._broken.wait()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    async def _keep_renewing(self) -> None:
        await renewal.run(self.sessions)

    def _end(self, error: BusError) -> None:
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None
        for agent in list(self.agents.values()):
            agent.end(twin(self._error) if isinstance(self._error, BusError) else error)
        self._changed.set()

    # ---- agents --------------------------------------------------------------------------------------------------------------

    async def open(self, holder: Holder) -> Agent:
        """An agent that is on the bus when this returns.

        Raises LocalProtocolError if it is open here already, TpmError, VerificationError, ConnectError, NotPermittedError.
        """
        await self.sessions.open(holder)
        name = holder.name
        agent = self.agents[name] = Agent(self, name, began_ms=self.keyring.now_ms())
        try:
            self._wanted.set()
            await self._until_connected()
            await self.sync()
            agent.check_open()
        except BaseException:
            self.forget(agent)
            raise
        return agent

    def forget(self, agent: Agent) -> None:
        """It is closed: nothing of it is left here."""
        if self.agents.get(agent.name) is agent:
            del self.agents[agent.name]
            if not self.agents:
                self._wanted = anyio.Event()  # a link that is lost now is missed by nobody
            self.sessions.close(agent.name)
            self.keyring.close(agent.name)
            self.send(encode(Frame.DRAIN, f"closed {agent.name}"))

    async def sync(self) -> None:
        """Return when the broker has worked off everything that was sent before."""
        self._ping += 1
        number, pong = self._ping, anyio.Event()
        self._pings[number] = pong
        self.send(encode(Frame.PING, number))
        try:
            await pong.wait()
        finally:
            del self._pings[number]
        if self._error is not None:
            raise self._error

    def send(self, frame: bytes) -> None:
        conversation = self._conversation
        if conversation is not None and conversation.is_open:
            conversation.link.send(frame)

    def give_credit(self, number: int, records: int) -> None:
        """A subscription took so many."""
        self.send(encode(Frame.CREDIT, number, records))

    @property
    def is_connected(self) -> bool:
        return self._conversation is not None and self._conversation.is_open

    async def _until_connected(self) -> None:
        while not self.is_connected:
            if self._error is not None:
                raise twin(self._error) if isinstance(self._error, BusError) else self._error
            await self._changed.wait()

    # ---- the link ------------------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        pause, lost_at = FIRST_PAUSE_SECONDS, None
        was_connected = False
        while True:
            await self._wanted.wait()
            try:
                conversation = await self._connect()
                was_connected, pause, lost_at = True, FIRST_PAUSE_SECONDS, None
                await conversation.over.wait()
                error: BusError = conversation.error or ConnectionLostError("the link ended")
            except ConnectError as failed:
                if not was_connected:
                    self.fail(failed)
                    return
                error = failed
            except BusError as refused:
                self.fail(refused)
                return
            self._lost(error)
            now = self.clock.monotonic()
            lost_at = now if lost_at is None else lost_at
            if self._give_up is not None and now - lost_at >= self._give_up:
                self.fail(ConnectionLostError(f"the broker was away for {self._give_up:g} s: {error}"))
                return
            await self.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _connect(self) -> Conversation:
        link = await self._dial()
        papers = [session.papers for session in self.sessions.held.values()]
        if not papers:  # all were closed meanwhile
            link.close(flush=False)
            raise ConnectError("there is no agent to connect")
        keys = self.sessions.keys
        greeting = Greeting(
            papers[:1], keys, peer=link.peer, brokers=self._brokers, snapshot=self.keyring.snapshot, verifier=self._verifier,
            now_ms=self.keyring.now_ms(), random=self.random,
        )  # fmt: skip
        conversation = Conversation(
            link, greeting, self._table(), self.clock,
            opened=self._opened, writable=self.outbox.wake, worked=self._worked, failed=self.fail,
        )  # fmt: skip
        self._conversation = conversation
        self._told, self._proven = {next(iter(self.sessions.held.values())).id}, keys.public
        conversation.start()
        try:
            with self.clock.fail_after(MAX_SECONDS):
                await conversation.greeted.wait()
        except TimeoutError:
            conversation.close(flush=False)
            raise ConnectError(f"the broker at {link.peer.address} does not answer") from None
        if not conversation.is_open:
            raise conversation.error or ConnectionLostError("the link ended within the handshake")
        return conversation

    def _opened(self, conversation: Conversation) -> None:
        self._announce()
        self.joining.join_again()
        self.outbox.connected(conversation.link)
        self._changed.set()
        self._changed = anyio.Event()

    def _lost(self, error: BusError) -> None:
        self._conversation = None
        self.outbox.lost()
        self.inbox.taken = 0
        self.inbox.take(self.keyring.link_lost())
        for agent in self.agents.values():
            agent.disconnected(error)

    def _table(self) -> Mapping[int, Callable[..., Any]]:
        topics = self.outbox.topics
        return {
            Frame.OPENED: lambda alias, credit, unit, _serial: topics.opened(alias, credit, unit),
            Frame.CREDIT: self.outbox.credited,
            Frame.STORED: self.outbox.stored,
            Frame.SUBSCRIBED: self.joining.joined,
            Frame.DELIVER: lambda _number, subs, deliveries, position, data: self.inbox.deliver(subs, deliveries, position, data),
            Frame.INTEREST: self._interest,
            Frame.ASK: self._asked,
            Frame.PAPERS: self._papers,
            Frame.TRUST: self.trusting.part,
            Frame.PING: lambda number: self.send(encode(Frame.PONG, number)),
            Frame.PONG: self._pong,
            Frame.DRAIN: self._drained,
            Frame.REFUSE: self._refused,
        }

    def _worked(self) -> None:
        """After each slice of what came."""
        if taken := self.inbox.taken:
            self.inbox.taken = 0
            self.send(encode(Frame.CREDIT, ALL_DELIVERIES, taken))
        if self.keyring.waiting:
            self._ask()

    # ---- what the broker says ------------------------------------------------------------------------------------------------

    def _interest(self, serial: int, changes: list[Any]) -> None:
        self.outbox.topics.interest(changes)
        self.send(encode(Frame.INTEREST_SEEN, serial))

    def _asked(self, id_: bytes, papers: bytes) -> None:
        """Somebody wants the key of an epoch of an agent here."""
        if len(id_) != EPOCH_ID_BYTES:
            return
        answer = self.keyring.answer(id_, papers)
        if answer.grant:
            self.outbox.control(BY_ITS_TOPIC, answer.grant)
        else:
            self.send(encode(Frame.REFUSE, answer.word, id_))

    def _papers(self, papers: list[bytes], _signature: bytes) -> None:
        for data in papers:
            try:
                found, outcomes = self.keyring.papers(data)
            except VerificationError as error:
                self.refusals.add(Refusal("in", error.agent, "", error.reason, ""), now=self.clock.monotonic())
                continue
            self.outbox.topics.papers_changed(found.name)
            self.inbox.take(outcomes)

    def _pong(self, number: int) -> None:
        if (waits := self._pings.get(number)) is not None:
            waits.set()

    def _drained(self, reason: str) -> None:
        word, _, name = reason.partition(" ")
        agent = self.agents.get(name)
        if agent is None:
            return
        errors: dict[str, BusError] = {
            "session_replaced": SessionReplacedError(name),
            "revoked": RevokedError(name),
        }
        agent.end(errors.get(word) or NotPermittedError(name, "use this bus", f"the broker: {word}"))

    def _refused(self, code: str, ref: bytes) -> None:
        if len(ref) == EPOCH_ID_BYTES:
            self.keyring.refused("missing_key", ref)
        elif len(ref) == ID_BYTES:
            self.keyring.refused("missing_papers", ref)
            self.outbox.refused(ref, code)
        elif ref:
            self.joining.refused(int.from_bytes(ref, "big"), code, self.keyring.snapshot)

    def _not_taken(self, envelope: bytes, reason: str, error: BusError | None) -> None:
        """What came and was refused. Its header is all that may be known of it, and need not be true."""
        try:
            header = headers.parse(envelopes.split(envelope)[0])
            refusal = Refusal("in", header.sender, header.topic, reason, header.id.hex())
        except BusError:
            refusal = Refusal("in", str(getattr(error, "agent", "")), "", reason, "")
        self.refusals.add(refusal, now=self.clock.monotonic())

    def _not_sent(self, lane: Lane, id_: bytes, reason: str) -> None:
        refusal = Refusal("out", lane.agent, lane.key.topic, reason, id_.hex())
        self.refusals.add(refusal, now=self.clock.monotonic())
        agent = self.agents.get(lane.agent)
        if agent is not None:
            agent.refused.add(refusal, now=self.clock.monotonic())

    def _follow(self, snapshot: Snapshot) -> None:
        """Another policy or trust."""
        self.keyring.follow(snapshot)
        self.signer.follow(snapshot.policy)
        for agent in self.agents.values():
            agent.follow(snapshot)
        self.joining.judge(snapshot)
        self.outbox.follow()

    # ---- sessions, replies, samples ----------------------------------------------------------------------------------------------

    def _sessions_changed(self) -> None:
        self.requests.renewed(self.sessions.held)
        for session in self.sessions.held.values():  # nobody shows us our own
            if session.id not in self.keyring.held.sessions:
                self._papers([session.papers], b"")
        if self.is_connected:
            self._announce()
        self.outbox.follow()

    def _announce(self) -> None:
        """Show the broker the papers that it has not seen on this link."""
        conversation = self._conversation
        if conversation is None:
            return
        fresh = [session for session in self.sessions.held.values() if session.id not in self._told]
        while fresh:
            keys, size = fresh[0].keys, 0
            papers: list[bytes] = []
            while fresh and fresh[0].keys is keys and (not papers or size + len(fresh[0].papers) <= PAPERS_BYTES):
                session = fresh.pop(0)
                papers.append(session.papers)
                size += len(session.papers)
                self._told.add(session.id)
            signature = b"" if keys.public == self._proven else keys.sign(agent_tbs(conversation.greeting.t))
            self._proven = keys.public
            conversation.link.send(encode(Frame.PAPERS, papers, signature))

    async def _answer(self, message: Any, body: Any, extra: Mapping[str, str] | None) -> None:
        agent = self.agents.get(message._batch.agent)  # noqa: SLF001  message and host are one room
        if agent is None:
            raise ClosedError("the agent that was asked is closed")
        await agent.answer(message, body, extra)

    def _audit(self, agent: str, record: AuditRecord) -> None:
        if (found := self.agents.get(agent)) is not None:
            found.audit(record)

    # ---- now and then ----------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        forgotten = self.clock.monotonic()
        while True:
            await self.clock.sleep(TICK_SECONDS)
            self.inbox.take(self.keyring.expire())
            self._ask()
            self._heartbeat()
            now = self.clock.monotonic()
            if now - forgotten >= FORGET_SECONDS:
                forgotten = now
                self.keyring.forget()
                self.outbox.follow()  # a session or statement may count again by the clock alone
                if self._memory.clock_is_due():
                    await to_thread.run_sync(self._memory.keep_clock)

    def _ask(self) -> None:
        for agent, wanted in self.keyring.asks():
            session = self.sessions.held.get(agent)
            if session is not None:
                self.send(encode(Frame.ASK, wanted.id, session.papers))

    def _heartbeat(self) -> None:
        conversation = self._conversation
        if conversation is None or not conversation.is_open:
            return
        silent = self.clock.monotonic() - conversation.heard
        if silent >= LOST_SECONDS:
            conversation.close(ConnectionLostError(f"the broker said nothing for {silent:.0f} s"), flush=False)
        elif silent >= SILENT_SECONDS:
            self.send(encode(Frame.PING, 0))

    def statistics(self) -> dict[str, Any]:
        """Since the start, and what is there now."""
        return {
            "agents": len(self.agents),
            "connected": self.is_connected,
            "sent": dict(self.outbox.counts),
            "received": dict(self.inbox.counts),
            "turns": {"out": self.outbox.window.out, "window": self.outbox.window.size},
            "requests": {"outstanding": len(self.requests), "late": self.requests.late},
            "refusals": {f"{direction}:{reason}": count for (direction, reason), count in self.refusals.counts.items()},
            "subscriptions": len(self.inbox),
            "topics": len(self.outbox.topics),
            "sessions": dict(self.sessions.statistics()),
            "keyring": self.keyring.statistics(),
            "trust": dict(self.trusting.counts),
        }


async def _guarded(call: Callable[[], Awaitable[None]], fail: Callable[[BaseException], None]) -> None:
    """An error in a part of the host ends the host, and is raised alone."""
    try:
        await call()
    except Exception as error:  # noqa: BLE001  it is handed on
        fail(error)

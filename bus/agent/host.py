"""The agents of one process: one link, one pair of keys, one opened copy of what comes. It binds; others decide.

    open     an agent is certified, shown to the broker, and can publish and subscribe
    run      keeps the link, the sessions, the samples and the clock's business, until cancelled
    lost     everything is opened and asked for again on the next link, and what was not credited is sent again

Agents and their subscriptions are entries here, not scopes: they may be closed in any order and from any task.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from bus.agent.acquaintance import Acquaintance
from bus.agent.agent import Agent
from bus.agent.authority import Petitions
from bus.agent.connection import Connection, Dial
from bus.agent.events import Connected, Disconnected, Event
from bus.agent.heard import Heard
from bus.agent.inbox import Inbox
from bus.agent.joining import Joining
from bus.agent.keeping_time import keep_time
from bus.agent.message import Message
from bus.agent.outbox import Outbox
from bus.agent.own_inboxes import OwnInbox, OwnInboxes
from bus.agent.reporting import Reporting
from bus.agent.requests import Requests
from bus.agent.sealing_turns import SealingTurns
from bus.agent.settling import LedgerStore, LedgerWriter
from bus.agent.trusting import Trusting
from bus.clock import Clock
from bus.errors import BusError, ClosedError, twin
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.keyring import Keyring
from bus.identity.host import renewal
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.identity.signer import Signer
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.frames import Frame, encode
from bus.protocol.sampling import AuditRecord
from bus.transport.link import Link


class Host:
    """`dial` gives a new link to the broker, or raises ConnectError. `brokers` are the pinned names. Without `ledgers` there are no
    durable subscriptions.
    """

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
        dial: Dial,
        ledgers: LedgerStore | None = None,
        give_up: float | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.keyring, self.sessions, self.signer, self.clock, self.random = keyring, sessions, signer, clock, random
        self._memory = memory
        self.agents: dict[str, Agent] = {}
        self._heard = Heard(self)
        self.reporting, self.requests = Reporting(self.agents, clock), Requests()
        self.refusals = self.reporting.refusals
        self.connection = Connection(
            dial, keyring, sessions, verifier, clock, brokers=brokers, give_up=give_up, put_off=self._heard.put_off, random=random
        )  # fmt: skip
        self.send = self.connection.send
        self.outbox = Outbox(
            keyring, sessions, SealingTurns(sessions, signer, random=random), clock,
            start=self.start, refused=self.reporting.not_sent, failed=self.fail,
        )  # fmt: skip
        self.outbox.gathering.is_behind = lambda: self.connection.is_behind
        self.own_inboxes = OwnInboxes(keyring, self.start, clock)
        self.inbox = Inbox(
            keyring, self.requests, answer=self._answer, credit=self.give_credit, unseal=self.own_inboxes.unseal,
            refused=self.reporting.not_taken,
        )  # fmt: skip
        self.joining, self.petitions = Joining(self.inbox, self.send), Petitions(self)
        self.inbox.stale = self.joining.pause
        self.settling = None if ledgers is None else LedgerWriter(ledgers, self.connection.sync, self.reporting.disk_failed)
        self.trusting = Trusting(trust, memory, verifier, clock=clock, start=self.start, follow=self._follow)
        self.acquaintance = Acquaintance(
            keyring, sessions, memory, self.outbox, self.inbox, send=self.send, start=self.start,
            refused=self.reporting.not_believed,
        )  # fmt: skip
        self.inbox.granted = self.acquaintance.granted
        self.reporting.why_missing = self.inbox.why_missing = self.acquaintance.why_missing
        self._tasks: TaskGroup | None = None
        self._is_away = False
        self._error: BaseException | None = None
        self._broken = anyio.Event()
        signer.on_audit = self._audit
        sessions.on_change.append(self._sessions_changed)

    # ---- life ----------------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises, alone, what nothing can go on after."""
        parts: list[Callable[[], Awaitable[None]]] = [
            self._keep_renewing,
            self.signer.run,
            self._keep_connected,
            partial(keep_time, self, self._memory),
        ]
        if self.settling is not None:
            parts.append(self.settling.run)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._until_broken)
                for part in parts:
                    self.start(part)
                task_status.started()
        finally:
            self._tasks = None
            self._end()
        if self._error is not None:
            raise self._error

    def start(self, call: Callable[[], Awaitable[None]]) -> None:
        """In the host's task group; an error of it ends the host."""
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

    async def _keep_connected(self) -> None:
        await self.connection.keep(
            self._heard.table(),
            opened=self._opened,
            lost=self._lost,
            writable=self.outbox.wake,
            worked=self._heard.worked,
            failed=self.fail,
        )

    def _end(self) -> None:
        error = self._error if isinstance(self._error, BusError) else ClosedError("this host is closed")
        self.connection.end(self._error or error)
        for agent in list(self.agents.values()):
            agent.end(twin(error))

    # ---- agents --------------------------------------------------------------------------------------------------------------

    async def open(self, holder: Holder, *, inbox: OwnInbox | None = None) -> Agent:
        """An agent that is on the bus when this returns.

        Raises LocalProtocolError if it is open here already, TpmError, VerificationError, ConnectError, NotPermittedError.
        """
        await self.sessions.open(holder)
        name = holder.name
        agent = self.agents[name] = Agent(self, name, began_ms=self.keyring.now_ms())
        if inbox is not None:
            self.own_inboxes.add(name, inbox, holder.identity.der)
        try:
            self.connection.want(wanted=True)
            await self.connection.opened()
            self.show_inboxes(name)
            await self.connection.sync()
            agent.check_open()
        except BaseException:
            self.forget(agent)
            raise
        return agent

    def show_inboxes(self, agent: str | None = None) -> None:
        """Others seal to them; and so do we, what only we shall be able to grant again."""
        papers = self.own_inboxes.papers(agent)
        if papers:
            self.send(encode(Frame.PAPERS, papers, b""))
            self.acquaintance.papers(papers, b"")

    def forget(self, agent: Agent) -> None:
        """It is closed: nothing of it is left here."""
        if self.agents.get(agent.name) is agent:
            del self.agents[agent.name]
            if not self.agents:
                self.connection.want(wanted=False)
            self.own_inboxes.remove(agent.name)
            self.sessions.close(agent.name)
            self.keyring.close(agent.name)
            self.send(encode(Frame.DRAIN, f"closed {agent.name}"))

    @property
    def is_connected(self) -> bool:
        return self.connection.is_open

    def give_credit(self, number: int, records: int) -> None:
        """A subscription took so many."""
        self.send(encode(Frame.CREDIT, number, records))

    # ---- the link ------------------------------------------------------------------------------------------------------------

    def _opened(self, link: Link) -> None:
        self.show_inboxes()
        self.joining.join_again()
        self.outbox.connected(link)
        if self._is_away:
            self._is_away = False
            self._happened(Connected())

    def _lost(self, error: BusError) -> None:
        self.outbox.lost()
        self.acquaintance.lost()
        self.petitions.lost()
        if self.settling is not None:
            self.settling.lost()
        self.inbox.taken = 0
        self.inbox.take(self.keyring.link_lost())
        self._is_away = True
        self._happened(Disconnected(str(error)))

    def _follow(self, snapshot: Snapshot) -> None:
        """Another policy or trust."""
        self.keyring.follow(snapshot)
        self.signer.follow(snapshot.policy)
        for agent in self.agents.values():
            agent.follow(snapshot)
        self.joining.judge(snapshot)
        self.joining.resume()
        self.outbox.follow()
        self.petitions.follow()

    # ---- sessions, replies, samples ------------------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        for agent in self.agents.values():
            agent.happened.add(event)

    def _sessions_changed(self) -> None:
        self.requests.renewed(self.sessions.held)
        for agent in self.agents.values():
            agent.sessions_changed()
        self.acquaintance.own_papers()
        self.connection.show_papers()
        self.outbox.follow()

    async def _answer(self, message: Message, body: Any, extra: Mapping[str, str] | None) -> None:
        agent = self.agents.get(message.agent)
        if agent is None:
            raise ClosedError("the agent that was asked is closed")
        await agent.answer(message, body, extra)

    def _audit(self, agent: str, record: AuditRecord) -> None:
        if (found := self.agents.get(agent)) is not None:
            found.audit(record)

    def statistics(self) -> dict[str, Any]:
        """Since the start, and what is there now."""
        return {
            "agents": len(self.agents),
            "connected": self.is_connected,
            "sent": dict(self.outbox.counts),
            "received": dict(self.inbox.counts),
            "turns": {"out": self.outbox.out, "window": self.outbox.window},
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

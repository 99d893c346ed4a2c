"""What a host and others need of each other to seal and to open: papers, inbox certificates, keys of epochs, asked for and given.

    papers     of sessions and of inbox keys, as the broker shows them; readers whose papers are new are granted anew
    asked      for an epoch of an agent here: a grant, or why not. One that an earlier process sealed is fetched first, from where
               the grant to ourselves is kept
    asking     for what waits here, as `Asks` says when

An inbox certificate counts from when its counter is on disk, so it is taken in a moment later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from anyio import to_thread

from bus.agent.inbox import NOT_GRANTED, Inbox
from bus.agent.outbox import Outbox
from bus.errors import LocalProtocolError, RemoteProtocolError, VaultError, VerificationError
from bus.identity.envelopes.believe import BelievedInbox
from bus.identity.epochs.giving import BUSY, UNKNOWN_EPOCH
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.sessions import Sessions
from bus.identity.trust_memory import InboxMark, TrustMemory
from bus.protocol.codec import unpack
from bus.protocol.frames import BY_ITS_TOPIC, Frame, encode
from bus.protocol.header import EPOCH_ID_BYTES

MAX_OWED: Final = 256
"""Epochs of earlier processes that are asked for at a time."""
MAX_ASKERS: Final = 64
MAX_REASONS: Final = 1_024
NO_GRANTER: Final = "no_granter"
"""The sender is not here to grant it, and nothing is kept that would do."""
_INBOX_FIELDS: Final = 2
Refused = Callable[[str, str], None]
"""Hears of papers that are not believed: whose, and why."""


class Acquaintance:
    def __init__(
        self,
        keyring: Keyring,
        sessions: Sessions,
        memory: TrustMemory,
        outbox: Outbox,
        inbox: Inbox,
        *,
        send: Callable[[bytes], None],
        start: Callable[[Callable[[], Awaitable[None]]], None],
        refused: Refused,
    ) -> None:
        self._keyring, self._sessions, self._memory, self._outbox, self._inbox = keyring, sessions, memory, outbox, inbox
        self._send, self._start, self._refused = send, start, refused
        self._owed: dict[bytes, dict[bytes, bytes]] = {}
        """Papers of those who asked for an epoch that is not known here yet, by session."""
        self._coming: dict[str, BelievedInbox] = {}
        """Inbox certificates whose marks have to go to the disk: the newest of each agent."""
        self._is_taking = False
        self._due: list[Callable[[], object]] = []
        """To be done when those are there that are on their way now."""
        self._afterwards: list[Callable[[], object]] = []
        """And with those that go next."""
        self._why: dict[bytes, str] = {}
        """What was said when an epoch was asked for in vain."""

    # ---- papers --------------------------------------------------------------------------------------------------------------

    def papers(self, papers: list[bytes], _signature: bytes) -> None:
        """PAPERS. The proof of new host keys is the broker's business: no envelope is believed by it."""
        for data in papers:
            try:
                if len(unpack(data, longest=8, arrays=1)) == _INBOX_FIELDS:
                    self._inbox_papers(data)
                else:
                    found, outcomes = self._keyring.papers(data)
                    self._outbox.topics.papers_changed(found.name)
                    self._inbox.take(outcomes)
            except VerificationError as error:
                self._refused(error.agent, error.reason)
        self._outbox.wake()

    def own_papers(self) -> None:
        """Of the agents of this host: nobody shows us our own."""
        for session in self._sessions.held.values():
            if session.id not in self._keyring.held.sessions:
                self.papers([session.papers], b"")

    def _inbox_papers(self, data: bytes) -> None:
        certificate, identity = unpack(data, longest=_INBOX_FIELDS, arrays=1)
        if type(certificate) is not bytes or type(identity) is not bytes:
            raise RemoteProtocolError("malformed", "an inbox certificate and an identity are bytes")
        found = self._keyring.believe_inbox(certificate, identity)
        known = self._coming.get(found.name)
        if known is None or known.inbox.body.counter <= found.inbox.body.counter:
            self._coming[found.name] = found
        if not self._is_taking:
            self._is_taking = True
            self._start(self._take_inboxes)

    def when_taken(self, call: Callable[[], object]) -> None:
        """Do this when all inboxes that were shown can be sealed to: who is told of a reader and goes on shall not leave it out."""
        if self._is_taking:
            self._afterwards.append(call)
        else:
            call()

    async def _take_inboxes(self) -> None:
        """What comes while some are written goes along with the next. So it costs little however many are shown, and nobody waits
        for more than two such rounds."""
        try:
            while self._coming or self._afterwards:
                coming, self._coming = self._coming, {}
                self._due, self._afterwards = self._afterwards, []
                await self._take(coming.values())
                due, self._due = self._due, []
                for call in due:
                    call()
        finally:
            self._is_taking = False

    async def _take(self, inboxes: Iterable[BelievedInbox]) -> None:
        """Have their marks on disk, then grant durable epochs to them."""
        marked: list[BelievedInbox] = []
        marks: dict[str, InboxMark] = {}
        for found in inboxes:
            try:
                marks[found.name] = self._keyring.inbox_mark(found)
                marked.append(found)
            except VerificationError as error:
                self._refused(error.agent, error.reason)
        try:
            if self._memory.on_disk:
                await to_thread.run_sync(self._memory.accept_inboxes, marks)
            else:
                self._memory.accept_inboxes(marks)
        except VaultError as error:  # a disk that takes nothing: nobody is granted anything by a key that may be an old one
            for found in marked:
                self._refused(found.name, error.code)
            return
        for found in marked:
            self._take_one(found)
        self._outbox.wake()

    def _take_one(self, found: BelievedInbox) -> None:
        try:
            self._keyring.take_inbox(found)
        except VerificationError as error:
            self._refused(error.agent, error.reason)
        except LocalProtocolError:  # its name was revoked meanwhile, and counts anew
            self._coming.setdefault(found.name, found)
        else:
            self._outbox.topics.papers_changed(found.name)

    # ---- keys of our epochs ----------------------------------------------------------------------------------------------------

    def asked(self, id_: bytes, papers: bytes) -> None:
        """ASK, of somebody who holds an envelope of an agent here and no key for it."""
        if len(id_) != EPOCH_ID_BYTES:
            return
        answer = self._keyring.answer(id_, papers)
        if answer.grant:
            if not self._outbox.control(BY_ITS_TOPIC, answer.grant):
                self._send(encode(Frame.REFUSE, "busy", id_))
        elif answer.code == UNKNOWN_EPOCH and self._fetch(id_, papers):
            return
        else:
            self._send(encode(Frame.REFUSE, answer.word, id_))

    def _fetch(self, epoch: bytes, papers: bytes) -> bool:
        """An earlier process may have sealed it: then the grant to itself is kept. False if too many are being fetched, and for
        whoever shows papers that are none."""
        try:
            asker, outcomes = self._keyring.papers(papers)
        except (VerificationError, RemoteProtocolError):
            return False
        self._inbox.take(outcomes)
        askers = self._owed.get(epoch)
        if askers is None:
            if len(self._owed) >= MAX_OWED:
                return False
            askers = self._owed[epoch] = {}
            for session in self._sessions.held.values():
                self._send(encode(Frame.ASK, epoch, session.papers))
        if len(askers) < MAX_ASKERS:
            askers[asker.id] = papers
        return True

    def granted(self, epoch: bytes) -> None:
        """An epoch is known now: who asked for it while it was not is answered."""
        self._why.pop(epoch, None)
        for papers in self._owed.pop(epoch, {}).values():
            self.asked(epoch, papers)

    def not_granted(self, epoch: bytes, code: str) -> None:
        """Nobody has it, or nobody gives it."""
        self._why[epoch] = NO_GRANTER if code == BUSY else NOT_GRANTED
        if len(self._why) > MAX_REASONS:
            del self._why[next(iter(self._why))]
        if self._owed.pop(epoch, None) is not None:
            self._send(encode(Frame.REFUSE, "busy", epoch))
        self._keyring.refused("missing_key", epoch)

    def why_missing(self, epoch: bytes) -> str:
        """Why there is no key for it, as far as somebody said."""
        return self._why.get(epoch, "missing_key")

    def lost(self) -> None:
        self._owed.clear()
        self._due.clear()
        self._afterwards.clear()

    # ---- keys of others ------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """For what is due."""
        for agent, wanted in self._keyring.asks():
            session = self._sessions.held.get(agent)
            if session is not None:
                self._send(encode(Frame.ASK, wanted.id, session.papers))

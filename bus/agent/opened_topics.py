"""The topics that a host publishes on, as the broker answers for them: an alias each, who listens, and whether to go on.

    wanted     OPEN is sent; what is published waits in its lane
    answered   with whoever listens now; later changes are told in INTEREST, and stay true until the next one. How much of it there
               may be has a bound: nobody has so many readers, so a broker that tells of more is none
    stopped    somebody who must not lose anything is full: its lanes wait, other topics do not
    expected   who listened before the link was lost; after a broker was started anew they come back one by one, and what is said
               live waits for them, for two seconds

After a reconnect everything is opened again under the aliases that it had, so that frames which are sent again mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from bus.flow.trie import Trie
from bus.protocol.codec import malformed
from bus.protocol.frames import BY_ITS_TOPIC, DURABLE, FIRST_ALIAS, GONE, LISTENS, Frame, encode
from bus.protocol.names import MAX_TOKENS

if TYPE_CHECKING:
    from bus.agent.lane import Lane

MAX_OPEN: Final = 4_096
"""Idle topics beyond this are closed, the longest unused first."""
EXPECTED_SECONDS: Final = 2.0
"""After a reconnect: what nobody hears is sealed to nobody, and would be lost without a gap that shows."""
MAX_INTEREST: Final = 1 << 18
"""Tokens of all patterns that are known, and one more for each: what ten thousand agents need that listen to a few each."""


class Readers(NamedTuple):
    listening: tuple[str, ...]
    """By their sessions."""
    durable: tuple[str, ...]
    """By their inbox keys."""

    def __bool__(self) -> bool:
        return bool(self.listening or self.durable)


NOBODY: Final = Readers((), ())


class OpenTopic:
    __slots__ = ("alias", "answered", "expected", "flowing", "lanes", "readers", "record_units", "text")

    def __init__(self, text: str, alias: int) -> None:
        self.text, self.alias = text, alias
        self.answered = False
        self.flowing = True
        self.record_units = False
        """Whether each record travels alone, because a queue group or policy wants it so."""
        self.readers = NOBODY
        self.expected: frozenset[str] = frozenset()
        """Who is not back yet."""
        self.lanes: dict[Lane, None] = {}

    @property
    def may_send(self) -> bool:
        return self.answered and self.flowing


class OpenTopics:
    """`send` gives a frame to the link; `wake` is told of each topic whose lanes may have become able to go on. `in_use` gives
    those under whose alias something is on its way: it may have to be sent again.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        wake: Callable[[OpenTopic], None],
        in_use: Callable[[], Collection[OpenTopic | None]] = tuple,
    ) -> None:
        self._send, self._wake, self._in_use = send, wake, in_use
        self._by_text: dict[str, OpenTopic] = {}
        self._by_alias: dict[int, OpenTopic] = {}
        self._interest: Trie[tuple[str, int]] = Trie()
        self._told: set[tuple[str, str, int]] = set()
        self._told_tokens = 0
        self._next = FIRST_ALIAS
        self._expected_until: float | None = None

    def __len__(self) -> int:
        return len(self._by_text)

    def __iter__(self) -> Iterator[OpenTopic]:
        return iter(self._by_text.values())

    def get(self, text: str) -> OpenTopic:
        """The topic, opened if it was not."""
        topic = self._by_text.get(text)
        if topic is None:
            if len(self._by_text) >= MAX_OPEN:
                self._close_idle()
            topic = OpenTopic(text, self._next)
            self._next += 1
            self._by_text[text] = self._by_alias[topic.alias] = topic
            self._send(encode(Frame.OPEN, topic.alias, text))
        return topic

    def _close_idle(self) -> None:
        in_use = self._in_use()
        idle = (one for one in self if one not in in_use and not any(len(lane.waiting) or lane.signing for lane in one.lanes))
        for topic in [*islice(idle, MAX_OPEN // 8)]:
            del self._by_text[topic.text], self._by_alias[topic.alias]
            for lane in topic.lanes:
                lane.topic = None
            self._send(encode(Frame.OPEN, topic.alias, ""))

    # ---- told by the broker --------------------------------------------------------------------------------------------------

    def opened(self, alias: int, credit: int, unit: int) -> None:
        topic = self._by_alias.get(alias)
        if topic is None:
            return  # it was closed meanwhile
        if not topic.answered:
            self._listens(topic)
        topic.answered, topic.flowing, topic.record_units = True, bool(credit), bool(unit)
        if credit:
            self._wake(topic)

    def interest(self, changes: Sequence[tuple[str, str, int]]) -> None:
        """Who listens now, and who does no more. Raises RemoteProtocolError("malformed") for what can be no interest of anybody."""
        patterns: Trie[None] = Trie()
        for agent, pattern, how in changes:
            patterns.add(pattern, None)
            if how == GONE:
                for kind in (LISTENS, DURABLE):
                    self._forget(agent, pattern, kind)
            elif (agent, pattern, how) not in self._told:
                self._remember(agent, pattern, how)
        for topic in self:
            if topic.answered and patterns.match(topic.text):
                self._listens(topic)
                for lane in topic.lanes:
                    lane.sealing = None  # its grants have to be looked at again
                self._wake(topic)

    def papers_changed(self, agent: str) -> None:
        """A reader has another session: whoever it hears grants to it anew."""
        for topic in self:
            if agent in topic.readers.listening or agent in topic.readers.durable:
                for lane in topic.lanes:
                    lane.sealing = None

    def lost(self) -> None:
        """The link is gone. Nothing of what was told is true any more."""
        self._interest, self._told, self._told_tokens = Trie(), set(), 0
        self._expected_until = None
        for topic in self:
            topic.expected |= {*topic.readers.listening}
            topic.answered, topic.flowing, topic.readers = False, True, NOBODY
            for lane in topic.lanes:
                lane.sealing = None

    def open_again(self, now: float) -> None:
        self._expected_until = now + EXPECTED_SECONDS
        for topic in self:
            self._send(encode(Frame.OPEN, topic.alias, topic.text))

    def tick(self, now: float) -> None:
        """Whoever was expected and has not come back by now is not waited for any longer."""
        if self._expected_until is not None and now >= self._expected_until:
            self._expected_until = None
            for topic in self:
                if topic.expected:
                    topic.expected = frozenset()
                    self._wake(topic)

    def _remember(self, agent: str, pattern: str, how: int) -> None:
        tokens = pattern.count(".") + 2
        self._told_tokens += tokens
        if tokens > MAX_TOKENS + 1 or self._told_tokens > MAX_INTEREST:
            raise malformed("a pattern with too many tokens, or more readers than anybody has")
        self._told.add((agent, pattern, how))
        self._interest.add(pattern, (agent, how))

    def _forget(self, agent: str, pattern: str, kind: int) -> None:
        if (agent, pattern, kind) in self._told:
            self._told.remove((agent, pattern, kind))
            self._told_tokens -= pattern.count(".") + 2
            self._interest.remove(pattern, (agent, kind))

    def _listens(self, topic: OpenTopic) -> None:
        """Who does now."""
        topic.readers = self._readers(topic.text)
        topic.expected -= {*topic.readers.listening}

    def _readers(self, text: str) -> Readers:
        found = self._interest.match(text)
        return Readers(*(tuple(dict.fromkeys(name for name, how in found if how == kind)) for kind in (LISTENS, DURABLE)))


def private_topic(text: str, reader: str) -> OpenTopic:
    """Where a reply goes: nobody has to open it, and its one reader is known."""
    topic = OpenTopic(text, BY_ITS_TOPIC)
    topic.answered = True
    topic.readers = Readers((reader,), ())
    return topic

"""Who is live at which broker. Each tells its neighbours of its own agents, with their papers, and of none that it was told of.

number      of each seat: the time at which its agent proved itself there, and always later than the seat that the broker knew of.
            The larger one counts everywhere, so all brokers agree, whoever hears of what first: an agent has moved, or it joined at
            two brokers while these did not hear of each other
ahead       a number may be dated ahead, because clocks differ or because a broker lies. It counts when it is ahead of our clock by
            no more than clocks may differ; until then it waits. So what we say ourselves, later than what counts here, is at most
            twice as far ahead by another clock, and only beyond that is somebody cut: one who lies makes others wait for a minute,
            and never has two honest ones cut each other
papers      are verified here. That their host key was proven is the neighbour's word: one that lies may put an agent off, which
            its own log and that of the agent show; it cannot speak for the agent, whose envelopes it cannot sign
set aside   whom policy or trust do not allow here may be allowed a moment later, when this broker has heard what the other has
elsewhere   who is live by a larger number at another broker is back here when that one has it no more
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Final

from bus.broker.host_link import HostLink
from bus.broker.joining import Joining, is_of_session
from bus.broker.moment import Moment
from bus.broker.neighbour import MAX_AGENTS, Neighbour
from bus.broker.neighbour_interest import NeighbourInterest
from bus.broker.offences import Offences
from bus.broker.seats import Seats
from bus.errors import NotPermittedError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed
from bus.protocol.codec import malformed
from bus.protocol.neighbour_frames import ORDER_BITS, Between
from bus.protocol.papers import claimed
from bus.protocol.skew import SKEW_MS
from bus.transport.soon import soon

_ORDER_BYTES: Final = ORDER_BITS // 8
AHEAD_MS: Final = SKEW_MS
"""By our clock, of a number that counts."""
SAID_AHEAD_MS: Final = AHEAD_MS + 1_000
"""Of one that we say ourselves: one more than what counts; and a second for very many of these."""
MOST_AHEAD_MS: Final = SAID_AHEAD_MS + SKEW_MS
"""Of one that another one may say, whose clock is before ours."""
LOOK_AGAIN: Final = 512
"""Agents in each tick."""
AT_ONCE: Final = 16
"""Papers of those set aside that are verified in one turn of the loop: signatures cost tenths of a millisecond."""


class NeighbourSeats:
    """`links` are the neighbours that are open."""

    def __init__(
        self,
        seats: Seats,
        joining: Joining,
        offences: Offences,
        links: Collection[Neighbour],
        *,
        now_ms: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:
        self._seats, self._joining, self._offences, self._links = seats, joining, offences, links
        self._now_ms, self._random = now_ms, random
        self.listening: NeighbourInterest
        self._numbers: dict[str, int] = {}
        """Of the seats that count."""
        self._again: dict[str, None] = {}
        """Agents that may be live at a neighbour now, that says so since a while."""
        self._unjudged: dict[tuple[Neighbour, str], None] = {}
        """Who was set aside, and may be allowed since."""

    # ---- ours ----------------------------------------------------------------------------------------------------------------

    def taken(self, host: HostLink, believed: Believed, *, is_new: bool) -> None:
        """Somebody proved himself, here or at a neighbour."""
        if host.is_neighbour:
            return
        agent = believed.name
        if is_new:
            proved = self._now_ms() << ORDER_BITS | int.from_bytes(self._random(_ORDER_BYTES), "big")
            self._numbers[agent] = max(proved, self._numbers.get(agent, 0) + 1)
        for neighbour in self._links:
            neighbour.do(partial(self._tell, neighbour, agent))

    def left(self, host: HostLink, agent: str) -> None:
        if self._seats.host_of(agent) is None:
            self._numbers.pop(agent, None)
            self._again[agent] = None
        if not host.is_neighbour:
            for neighbour in self._links:
                neighbour.do(partial(neighbour.say, Between.UNSEATED, agent))

    def introduce(self, neighbour: Neighbour) -> None:
        """It has come: who is live here."""
        for agent, host in self._seats:
            if not host.is_neighbour:
                neighbour.do(partial(self._tell, neighbour, agent))

    def _tell(self, neighbour: Neighbour, agent: str) -> None:
        """If it is live here still."""
        host = self._seats.host_of(agent)
        if host is not None and not host.is_neighbour:
            believed = host.agents[agent]
            latest = (self._now_ms() + SAID_AHEAD_MS) << ORDER_BITS  # less than it was only if the clock was set back
            number = self._numbers[agent] = min(self._numbers[agent], latest)
            neighbour.say(Between.SEATED, number, believed.papers.encode())
            neighbour.is_told(believed.id)

    # ---- theirs --------------------------------------------------------------------------------------------------------------

    def seated(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """An agent is live there, or has new papers. Raises RemoteProtocolError("malformed")."""
        _, number, papers = fields
        if number >> ORDER_BITS > moment.now_ms + MOST_AHEAD_MS:
            raise malformed("a seat that was taken in the future")
        try:
            believed = self._joining.believed_afar(papers, moment)
        except (VerificationError, NotPermittedError) as error:
            why = error.reason if isinstance(error, VerificationError) else "not_permitted"
            what = f"papers that {neighbour.neighbour} shows refused as {why}"
            self._offences.note(neighbour.link.peer, what, str(error), now=moment.now)
            neighbour.set_agent_aside(claimed(papers).name, number, papers)
            return
        neighbour.knows(believed)
        neighbour.forget_aside(believed.name)
        self._take(neighbour, believed, number, moment)

    def _take(self, neighbour: Neighbour, believed: Believed, number: int, moment: Moment) -> None:
        """Raises RemoteProtocolError("malformed")."""
        agent = believed.name
        neighbour.elsewhere.pop(agent, None)
        if agent not in neighbour.agents and len(neighbour.agents) + len(neighbour.elsewhere) >= MAX_AGENTS:
            raise malformed("more agents than a broker can have")
        is_ahead = number >> ORDER_BITS > moment.now_ms + AHEAD_MS
        host = self._seats.host_of(agent)
        if is_ahead or (host not in (None, neighbour) and number <= self._numbers[agent]):
            neighbour.elsewhere[agent] = number, believed.id
            if is_ahead:
                self._again[agent] = None
            return
        if host is not None and not host.is_neighbour:  # it has moved, or that one lies
            what = f"{neighbour.neighbour} has agents that were live here"
            self._offences.note(neighbour.link.peer, what, agent, now=moment.now)
        self._numbers[agent] = number
        is_new = agent not in neighbour.agents
        self._joining.seat(neighbour, believed, moment)
        if is_new:
            self.listening.seated(neighbour, agent, moment)

    def tick(self, moment: Moment) -> None:
        """Who was live elsewhere and is not any more, or was ahead of our clock, may be live at a neighbour that says so."""
        for agent in [*itertools.islice(self._again, LOOK_AGAIN)]:
            del self._again[agent]
            for neighbour in self._links:
                number, session = neighbour.elsewhere.get(agent, (0, b""))
                believed = neighbour.known.get(session)
                if believed is not None:
                    self.seated(neighbour, [Between.SEATED, number, believed.papers.encode()], moment)

    def unseated(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        agent = fields[1]
        neighbour.forget_aside(agent)
        neighbour.elsewhere.pop(agent, None)
        self._joining.close(neighbour, agent, moment)

    def papers(self, neighbour: Neighbour, items: list[bytes], moment: Moment) -> None:
        """Of sessions under which something comes, though their agent may have left; and of inboxes.

        Raises RemoteProtocolError("malformed").
        """
        for data in items:
            try:
                if is_of_session(data):
                    neighbour.knows(self._joining.believed_afar(data, moment))
                else:
                    self._joining.inbox_afar(data, moment)
            except (VerificationError, NotPermittedError) as error:
                what = f"papers that {neighbour.neighbour} shows refused"
                self._offences.note(neighbour.link.peer, what, str(error), now=moment.now)

    def judge(self, neighbour: Neighbour, moment: Moment) -> None:
        """By another policy and trust: who counts no more goes, and who was set aside may come back, a few at a time."""
        before = {agent: (self._numbers[agent], one) for agent, one in neighbour.agents.items()}
        self._joining.judge(neighbour, moment)
        gone = {agent: seat for agent, seat in before.items() if agent not in neighbour.agents}
        is_idle = not self._unjudged
        self._unjudged |= dict.fromkeys((neighbour, agent) for agent in neighbour.agents_aside)
        for agent, (number, one) in gone.items():
            if agent not in neighbour.agents_aside:
                neighbour.set_agent_aside(agent, number, one.papers.encode())
        if is_idle and self._unjudged:
            self._judge_some(moment)

    def _judge_some(self, moment: Moment) -> None:
        for key in [*itertools.islice(self._unjudged, AT_ONCE)]:
            del self._unjudged[key]
            neighbour, agent = key
            if not neighbour.is_gone and agent in neighbour.agents_aside:
                number, papers = neighbour.agents_aside[agent]
                with suppress(RemoteProtocolError):  # it was let in by the same rules, and is no offence now
                    self.seated(neighbour, [Between.SEATED, number, papers], moment)
        if self._unjudged:
            soon(partial(self._judge_some, moment))

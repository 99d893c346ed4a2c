"""Another broker of the domain, played frame by frame: it has real papers, and says what a test wants it to."""

from __future__ import annotations

import os
from typing import Any

from played import Stage, broker_session, settle
from small_world import Agent

from bus.errors import BusError
from bus.identity.host.session import Session
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol import neighbour_frames
from bus.protocol.frames import Frame
from bus.protocol.frames import encode as encode_common
from bus.protocol.neighbour_frames import ORDER_BITS, Between, Greeting, greeting_tbs
from bus.transport.memory import memory_pair


class PlayedNeighbour:
    def __init__(self, stage: Stage, *, name: str = "GATE", session: Session | None = None) -> None:
        self.stage = stage
        self.link, far = memory_pair("memory:gate")
        self.session = session or broker_session(stage.world, name)
        self.boot = os.urandom(16)
        self.mine = self.theirs = b""
        """Greetings."""
        self.came: list[list[Any]] = []
        self.lost: list[BusError] = []
        self.agents: dict[str, Agent] = {}
        self.polite = True
        """Whether it answers what it is asked to see whether it lives."""
        self.link.start(self._frames, self.lost.append, lambda: None)
        stage.broker.attach_neighbour(far)

    def _frames(self, came: list[bytes]) -> None:
        for one in map(neighbour_frames.parse, came):
            if one[0] == Frame.PING and self.polite:
                self.send(Frame.PONG, one[1])
            else:
                self.came.append(one)

    def send(self, frame: Frame | Between, *fields: Any) -> None:
        if isinstance(frame, Between):
            self.link.send(neighbour_frames.encode(frame, *fields))
        else:
            self.link.send(encode_common(frame, *fields))

    async def say(self, frame: Frame | Between, *fields: Any) -> list[list[Any]]:
        """Send, and give what comes."""
        self.send(frame, *fields)
        return await self.hears()

    async def hears(self, *kinds: int) -> list[list[Any]]:
        await settle()
        taken = [one for one in self.came if not kinds or one[0] in kinds]
        self.came = [one for one in self.came if kinds and one[0] not in kinds]
        return taken

    # ---- meeting ---------------------------------------------------------------------------------------------------------------

    def greeting(self, **changes: Any) -> bytes:
        facts: dict[str, Any] = {
            "versions": (1,), "nonce": os.urandom(32), "boot": self.boot, "papers": self.session.papers,
            "time_ms": self.stage.world.now,
        }  # fmt: skip
        return Greeting(**(facts | changes)).encode()

    async def meet(self, **changes: Any) -> None:
        [[_, self.theirs]] = await self.hears(Between.GREET)
        self.mine = self.greeting(**changes)
        self.send(Between.GREET, self.mine)
        self.send(Frame.PROVE, self.session.keys.sign(greeting_tbs(self.mine, self.theirs)))
        await self.hears(Frame.PROVE)

    async def renews(self, session: Session, *, signs: Session | None = None, papers: bytes = b"") -> None:
        """Its identity was certified anew; `signs`: by another host key than that of these papers."""
        signature = (signs or session).keys.sign(greeting_tbs(self.mine, self.theirs))
        await self.say(Frame.PAPERS, [papers or session.papers], signature)

    # ---- what it has -------------------------------------------------------------------------------------------------------------

    async def seats(self, name: str, *, later: int = 0) -> Agent:
        """An agent is live there; `later` in milliseconds."""
        agent = self.agents[name] = self.stage.world.agent(name)
        self.send(Between.SEATED, self.number(later=later), agent.papers)
        await settle()
        return agent

    def number(self, *, later: int = 0) -> int:
        return (self.stage.world.now + later) << ORDER_BITS

    async def subscribe(
        self, number: int, name: str, pattern: str, *, group: str = "", overflow: str = "drop_newest"
    ) -> list[list[Any]]:
        return await self.say(Frame.SUBSCRIBE, number, name, pattern, group, "", "", 1, overflow)

    def envelope(self, name: str, topic: str, **changes: Any) -> bytes:
        """One of an agent that is live there."""
        world, agent = self.stage.world, self.agents[name]
        return world.send(agent, world.epoch(agent, topic), world.outgoing(agent, topic, (b"hello",), **changes))[0]

    @staticmethod
    def epoch_of(envelope: bytes) -> bytes:
        return headers.parse(envelopes.split(envelope)[0]).epoch

    async def deliver(self, number: int, envelope: bytes, *, chosen: bytes = b"") -> list[list[Any]]:
        return await self.say(Frame.DELIVER, number, chosen, 1, 0, envelope)

    @property
    def is_open(self) -> bool:
        found: Any = self.stage.broker.statistics()["neighbours"]
        return bool(found["open"])

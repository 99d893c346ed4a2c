"""Hosts with good papers that say well-formed things in any order: whatever comes of it has a name, and is never a fault of ours.

Most of what they say makes sense by itself (topics, aliases, turns and subscriptions that there are): nonsense is refused at the
door, and finds nothing.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from kept_stage import KeptStage
from played import Played, Stage, settle

from bus.broker import asking, groups, holding, intake, outbox, requests
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.codec import pack
from bus.protocol.frames import FIRST_ALIAS, MAX_WORD_BYTES, Frame, column, encode
from bus.protocol.handshake import REFUSE

pytestmark = pytest.mark.anyio
NAMES = ("DIRECTOR", "BUILDER", "MONITOR", "GUEST", "NOBODY")
TOPICS = (
    "tasks.a", "tasks.a", "tasks.hidden", "work.a", "work.a", "records.a", "short.a", "results.a", "ask.a",
    "_grant.BUILDER", "_audit.DIRECTOR", "_reply.DIRECTOR." + "00" * 16,
)  # fmt: skip
PATTERNS = (
    *TOPICS[:9], "tasks.>", "tasks.*", "work.>", "work.>", ">", "*", "_audit.*", "_audit.DIRECTOR", "_dead.work.>", "_dead.>",
    "_dead.", "_dead._dead.work.>", "", ".", "a" * 256, "tasks.>.a", "_audit.", "_grant.*", "results..a", "*.a", "_dead.*",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 4, 5, 6, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
LARGE = (*NUMBERS, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
STARTS = ("new", "all", "last", "position=1", "time=0", "position=9223372036854775807", "time=9223372036854775807", "", "time=-1")
GROUPS = ("builders", "testers")
OVERFLOWS = ("block", "block", "drop_oldest", "drop_newest", "disconnect")
LEAVING = ("closed GUEST", "closed NOBODY", "closed ", "closed TESTER")
WORDS = ("", "nonsense", "a" * MAX_WORD_BYTES)
OFTEN = (Frame.PUBLISH,) * 16 + (Frame.CREDIT, Frame.OPEN, Frame.SUBSCRIBE) * 3
SANE = 0.995
"""Of what is said. The rest mostly ends the link, as it should."""
FRAMES_OF_ONE = 150
NARROW = (
    (outbox, "MAX_WAITING", 6), (outbox, "MAX_WAITING_BYTES", 20_000), (outbox, "MAX_UNTAKEN", 12),
    (holding, "MAX_HELD_BYTES", 12_000),
    (outbox, "HALF_WINDOW", 3), (groups, "MAX_WAITING_BYTES", 12_000), (asking, "MAX_EPOCHS", 2), (requests, "MAX_OF_ONE", 2),
    (intake, "SLICE", 7),
)  # fmt: skip
"""Bounds that are reached soon."""


class Babbler:
    """One host, and what it may say next: mostly what keeps its link alive."""

    def __init__(self, random: Random, stage: Stage, host: Played) -> None:
        self.random, self.stage, self.host = random, stage, host
        self.epochs = [random.randbytes(32) for _ in range(3)]
        self.topics: dict[int, str] = {}
        self.turns = self.subscriptions = 0
        self.says = {
            Frame.OPEN: self.open,
            Frame.PUBLISH: self.turn,
            Frame.CREDIT: self.credit,
            Frame.SUBSCRIBE: self.subscribe,
            Frame.UNSUBSCRIBE: lambda: (self.number(),),
            Frame.INTEREST_SEEN: lambda: (self.one(LARGE),),
            Frame.ASK: self.ask,
            Frame.PAPERS: lambda: ([self.papers(), self.papers()], self.one((b"", b"", random.randbytes(64)))),
            Frame.SETTLE: self.settle,
            Frame.TRUST: lambda: (self.one((0, 1, 2)), 3, 0, b"abc"),
            Frame.PING: lambda: (self.one(LARGE),),
            Frame.PONG: lambda: (self.one(LARGE),),
            Frame.REFUSE: lambda: (self.one(REFUSE), self.one((b"", b"1234", random.randbytes(16), *self.epochs))),
            Frame.DRAIN: lambda: (self.one(LEAVING),),
        }

    def one(self, choices: Any) -> Any:
        return self.random.choice(choices)

    def is_sane(self) -> bool:
        return self.random.random() < SANE

    def number(self) -> int:
        return int(self.one(NUMBERS[:8] if self.is_sane() else NUMBERS))

    def session(self) -> bytes:
        return bytes(self.one([agent.session for agent in self.host.agents.values()]))

    def papers(self) -> bytes:
        if self.is_sane():
            return bytes(self.one([agent.papers for agent in self.host.agents.values()]))
        return bytes(self.one((b"x", pack([b"a", b"b"]), pack([b"a", b"b", b"c", b"d"]), pack([1, 2]))))

    def open(self) -> tuple[Any, ...]:
        if self.is_sane():
            alias, topic = FIRST_ALIAS + len(self.topics), self.one(TOPICS)
            self.topics[alias] = topic
            return alias, topic
        return self.number(), self.one((*TOPICS, "", ""))

    def subscribe(self) -> tuple[Any, ...]:
        self.subscriptions += 1
        number = self.subscriptions if self.is_sane() else self.number()
        agent = self.one([*self.host.agents] if self.is_sane() else NAMES)
        group, durable = self.one(("", "", *GROUPS)), self.one(("", "", "inbox", "other"))
        start = self.one(STARTS[:5] if self.is_sane() else STARTS)
        limit, overflow = max(self.number(), self.is_sane()), self.one(OVERFLOWS if self.is_sane() else WORDS)
        return (
            number,
            agent,
            self.one(PATTERNS[:13] if self.is_sane() and self.random.random() < 0.7 else PATTERNS),
            group,
            durable,
            start,
            limit,
            overflow,
        )

    def credit(self) -> tuple[Any, ...]:
        taken = len([one for one in self.host.came if one[0] == Frame.DELIVER])
        self.host.came.clear()
        return (0, taken) if self.is_sane() else (self.number(), self.number())

    def ask(self) -> tuple[Any, ...]:
        return self.one((*self.epochs, self.random.randbytes(16), self.session())), self.papers()

    def settle(self) -> tuple[Any, ...]:
        spans = [sorted((self.one(LARGE), self.one(LARGE))) for _ in range(self.random.randint(0, 3))]
        return self.number(), self.random.randint(1, 4), spans, self.one(LARGE), self.one(WORDS)

    def turn(self) -> tuple[Any, ...]:
        self.turns += 1
        rows = [self.row() for _ in range(self.random.randint(1, 3))]
        number = self.turns if self.is_sane() else self.number()
        return number, column(alias for alias, _ in rows), [envelope for _, envelope in rows]

    def row(self) -> tuple[int, bytes]:
        if not self.is_sane():
            return self.number(), self.random.randbytes(40)
        alias = self.one((0, 1, *self.topics))
        return alias, self.envelope(self.topics.get(alias) or self.one(TOPICS[-3:] if alias == 0 else TOPICS[-3:-2]))

    def envelope(self, topic: str) -> bytes:
        now_ms, grant, reply = self.stage.world.now, topic.startswith("_grant"), topic.startswith("_reply")
        agent = self.one([*self.host.agents.values()])
        changes: dict[str, Any] = {
            "kind": headers.GRANT if grant else headers.DATA, "flags": self.one((0, headers.REQUEST)), "seq": self.number(),
            "sender": agent.name, "sent_ms": now_ms, "expires_ms": now_ms + self.one((500, 900, 30_000, 60_000)),
            "priority": self.one((1, 2, 3, 3, 3, 4)), "records": self.one((1, 1, 1, 7)), "ref": b"",
            "id": self.random.randbytes(16),
        }  # fmt: skip
        if grant:
            changes |= {"flags": 0, "seq": 0, "priority": 0, "records": 1, "ref": self.random.randbytes(16)}
        if reply:
            changes |= {"flags": headers.REPLY, "records": 1, "ref": self.random.randbytes(16)}
        if not self.is_sane():
            changes["sender"], changes["sent_ms"] = self.one(NAMES), now_ms + self.one((-70_000, 70_000))
        fixed = {"version": 1, "topic": topic, "session": agent.session, "epoch": self.one(self.epochs), "before": 0}
        return envelopes.join(headers.Header(**fixed, **changes).encode(), self.random.randbytes(self.one((60, 200, 5_000))))

    def frame(self) -> bytes:
        kind = self.one((*self.says, *OFTEN))
        return encode(kind, *self.says[kind]())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kept", [False, True], ids=["live", "kept"])
async def test_what_hosts_say_in_any_order_ends_with_a_name(
    world: Any, seed: int, kept: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    random = Random(seed)
    for place, name, bound in NARROW:
        monkeypatch.setattr(place, name, bound)
    stage = KeptStage(world) if kept else Stage(world)
    async with stage.running():
        for _ in range(2):
            hosts = [await stage.host("DIRECTOR"), await stage.host("BUILDER"), await stage.host("MONITOR", "TESTER")]
            babblers = [Babbler(random, stage, host) for host in hosts]
            for _ in range(FRAMES_OF_ONE):
                for one in babblers:
                    one.host.link.send(one.frame())
                    if random.random() < 0.1:
                        (one.host.link.pause if random.random() < 0.6 else one.host.link.resume)()
                if random.random() < 0.3:
                    await settle()
            await stage.later(3, step=0.5)
            for host in hosts:
                host.link.close()
            await settle()
        counted = stage.counted
        assert [record.getMessage() for record in caplog.records if record.exc_info] == []
        assert "internal" not in counted["cut"], counted["cut"]
        assert counted["links_open"] == counted["agents"] == counted["subscriptions"] == 0

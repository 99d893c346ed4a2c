"""What one envelope costs a broker: its frame in, the header, a delivery out, what the reader says of it, the turn's credit.

    python tests/benchmarks/broker.py

Links here are lists, so that sockets do not count. Time is that on the processor; each figure is the best of several rounds.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
from targets import Row, show

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))
sys.path.insert(0, str(Path(__file__).parent.parent / "broker"))

from played import POLICY, Stage, settle
from small_world import SmallAuthority, World

from bus.identity.host.host_keys import HostKeys
from bus.protocol.frames import Frame, column, encode, parse
from bus.protocol.handshake import HelloA, agent_tbs, transcript
from bus.protocol.kem import HYBRID
from bus.transport.link import OnFrames, OnLost, OnWritable, Peer

ROUNDS = 5
TOPIC = "tasks.build"


class Listed:
    """A link whose other end reads at once."""

    peer, writable, buffered = Peer("memory", "memory:"), True, 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.says: OnFrames = lambda _: None

    def start(self, on_frames: OnFrames, _on_lost: OnLost, _on_writable: OnWritable) -> None:
        self.says = on_frames

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self, *, flush: bool = True) -> None: ...


class Host:
    def __init__(self, stage: Stage, name: str) -> None:
        self.link, self.keys = Listed(), HostKeys.make(HYBRID, os.urandom)
        self.agent = stage.world.agent(name, host=self.keys)
        stage.broker.attach(self.link)

    async def shake_hands(self) -> Host:
        hello_a = HelloA((1,), os.urandom(32), (self.agent.papers,)).encode()
        self.link.says([encode(Frame.HELLO_A, hello_a)])
        t = transcript(hello_a, parse(self.link.sent[0])[1])
        self.link.says([encode(Frame.PROVE, self.keys.sign(agent_tbs(t)))])
        await settle()
        self.link.sent.clear()
        return self


def best_us(work: Callable[[], None], loops: int) -> float:
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        begun = time.thread_time()
        work()
        rounds.append((time.thread_time() - begun) / loops * 1e6)
    return min(rounds)


async def measure() -> list[Row]:
    stage = Stage(World(SmallAuthority(), POLICY))
    publisher, reader = await Host(stage, "DIRECTOR").shake_hands(), await Host(stage, "MONITOR").shake_hands()
    reader.link.says([encode(Frame.SUBSCRIBE, 7, "MONITOR", "tasks.>", "", "", "new", (1 << 32) - 1, "block")])
    publisher.link.says([encode(Frame.OPEN, 2, TOPIC)])
    epoch = stage.world.epoch(publisher.agent, TOPIC)
    taken_in = [encode(Frame.CREDIT, 0, 1)]

    def cost(records: int, loops: int) -> float:
        outgoing = [stage.world.outgoing(publisher.agent, TOPIC, [os.urandom(256)] * records) for _ in range(loops)]
        frames = [
            [encode(Frame.PUBLISH, turn, column([2]), [envelope])]
            for turn, envelope in enumerate(stage.world.send(publisher.agent, epoch, *outgoing))
        ]

        def work() -> None:
            for frame in frames:
                publisher.link.says(frame)
                reader.link.says(taken_in)
                publisher.link.sent.clear()
                reader.link.sent.clear()

        return best_us(work, loops)

    lone, large = cost(1, 2_000), cost(512, 100)
    return [Row("broker, a lone envelope", lone, "us", 15), Row("broker, a record of 512 in an envelope", large / 512, "us", 0.15)]


if __name__ == "__main__":
    show("What one envelope costs a broker", anyio.run(measure))

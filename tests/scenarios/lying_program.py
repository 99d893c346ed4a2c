"""The broker's process in the hand of an attacker: it has all that a broker has (its key, its sockets, its journal), and lies.

A hub starts it in place of `bus.hub.broker_program`, contained like it. What it is to do it is told over a desk of its own: each
method of `Orders` is a verb. Bytes come and go in hex.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import anyio
from random_frames import FIELDS
from seams import Liar, Seam, withheld
from troupe import LIAR

from bus.broker.broker import Broker
from bus.hub import broker_program
from bus.hub.admin import Desk
from bus.protocol import header as headers
from bus.protocol.frames import MAX_FRAME_BYTES, Frame
from bus.tpm.lines import LineReader
from bus.transport.link import Link
from bus.transport.unix import UnixStream

KINDS = {"data": headers.DATA, "grant": headers.GRANT}


class Orders:
    """What it can be told. Hosts go by the name of an agent that is there."""

    def __init__(self) -> None:
        self.liar: Any = None  # from the first link on
        self.words: dict[str, bytes] = {}
        """What it answers its hub, by verb, in place of the truth."""
        self._hub_hears: list[UnixStream] = []
        """Where its hub waits for what agents ask of the authority."""

    # ---- what it knows ---------------------------------------------------------------------------------------------------------

    def said(self, name: str, topic: str = "", kind: str = "data") -> list[str]:
        """Envelopes that this host published."""
        return [envelope.hex() for envelope in self._seam(name).envelopes(topic=topic, kind=KINDS[kind])]

    def told(self, name: str, topic: str = "") -> list[dict[str, Any]]:
        """The deliveries of data that this host got."""
        return [{"position": frame[4], "envelope": frame[5].hex()} for frame in self._seam(name).deliveries(topic=topic)]

    def frames_told(self, name: str, kind: str) -> list[list[Any]]:
        """All of this kind that this host got, as `tell` takes them."""
        return [[in_hex(field) for field in frame[1:]] for frame in self._seam(name).told if frame[0] == Frame[kind]]

    def seen(self, secrets: list[str]) -> list[str]:
        """Those that were in anything that any host sent."""
        return [secret.hex() for secret in self.liar.seen(*map(bytes.fromhex, secrets))]

    def papers(self, name: str = "") -> str:
        """Those that this agent showed, or its own."""
        if name:
            return self._shown(name).hex()
        own = self.liar.broker._links.own
        return "" if own is None else own.papers.hex()

    def links(self, name: str) -> int:
        """How often hosts with this agent came."""
        return sum(any(shown.body.name == name for _, shown in seam.papers_shown()) for seam in self.liar.seams)

    # ---- what it does ----------------------------------------------------------------------------------------------------------

    def deliver(self, name: str, envelopes: list[str], pattern: str = "", position: int = 0, times: int = 1) -> None:
        """To this host, and to its subscriptions of this pattern, one after the other."""
        seam = self._seam(name)
        subs = seam.subs(pattern) if pattern else []
        for envelope in [*map(bytes.fromhex, envelopes)] * times:
            seam.deliver(envelope, subs=subs, position=position)

    def tell(self, name: str, kind: str, fields: list[Any]) -> None:
        self._seam(name).tell(Frame[kind], *map(of_hex, fields))

    async def rave(self, name: str, seed: int, count: int) -> bool:
        """So many frames that make no sense. Whether the host ended the link over them; if so, it is back."""
        random, seam, kinds = Random(seed), self._seam(name), sorted(FIELDS)
        for _ in range(count):
            kind = Frame(random.choice(kinds))
            seam.tell(kind, *FIELDS[kind](random))
        seam.tell(Frame.PING, seed)
        await _until(lambda: seam.is_over or [Frame.PONG, seed] in seam.said)
        await _until(lambda: self._reads(name))
        return seam.is_over

    async def rave_endlessly(self, name: str) -> None:
        """One frame that claims to be longer than any may be; return when the host has ended the link and come back."""
        seam = self._seam(name)
        seam.outside._transport.write((MAX_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(100))
        await _until(lambda: seam.is_over and self._reads(name))

    def withhold(self, kinds: list[str]) -> None:
        self.liar.down = withheld(*(Frame[kind] for kind in kinds))

    def pass_nothing_on(self, name: str) -> None:
        """Of what this host publishes."""
        seam = self._seam(name)
        self.liar.up = lambda one, frame: [] if one is seam and frame[0] == Frame.PUBLISH else None

    def be_honest(self) -> None:
        self.liar.be_honest()

    async def cut(self, name: str) -> None:
        """End its link; return when it is back."""
        seam = self._seam(name)
        seam.outside.close(flush=False)
        await _until(lambda: seam.is_over and self._reads(name))

    def answer_the_hub(self, verbs: list[str], line: str | None) -> None:
        """To these verbs: this, whatever it is; or the truth again."""
        for verb in verbs:
            self.words.pop(verb, None)
            if line is not None:
                self.words[verb] = line.encode() + b"\n"

    async def ask_the_hub(self, line: str) -> None:
        """As if an agent asked something of the authority, as soon as the hub hears."""
        await _until(lambda: bool(self._hub_hears))
        await self._hub_hears[-1].send(line.encode() + b"\n")

    async def _petition(self, stream: UnixStream, reader: LineReader) -> None:
        self._hub_hears.append(stream)
        try:
            await reader.receive()
        finally:
            self._hub_hears.remove(stream)

    def pose(self, how: str) -> None:
        self.liar.pose(how)

    def posed_to(self) -> list[str]:
        """What it was told where it posed: the kinds of frames."""
        return sorted({Frame(frame[0]).name for frame in self.liar.posed_to})

    def _seam(self, name: str) -> Seam:
        return self.liar.seam_to(lambda shown: shown.body.name == name)

    def _reads(self, name: str) -> bool:
        """It is there, and all that it subscribes to is known."""
        try:
            seam = self._seam(name)
        except LookupError:
            return False
        return 0 < len(seam.of(Frame.SUBSCRIBE)) <= sum(frame[0] == Frame.SUBSCRIBED for frame in seam.told)

    def _shown(self, name: str) -> bytes:
        for seam in reversed(self.liar.seams):
            for papers, shown in seam.papers_shown():
                if shown.body.name == name:
                    return papers
        raise LookupError(name)


async def _until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not is_so():  # noqa: ASYNC110  frames tell nobody that they came
            await anyio.sleep(0.001)


def in_hex(field: Any) -> Any:
    return {"hex": field.hex()} if isinstance(field, bytes) else [*map(in_hex, field)] if isinstance(field, list) else field


def of_hex(field: Any) -> Any:
    if isinstance(field, dict):
        return bytes.fromhex(field["hex"])
    return [*map(of_hex, field)] if isinstance(field, list) else field


class LyingProgram(broker_program.Program):
    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        attach, answer, orders, desk = Broker.attach, Desk._answer, Orders(), Desk()

        def through_a_seam(broker: Broker, link: Link) -> None:
            orders.liar = orders.liar or Liar(broker, partial(attach, broker))
            orders.liar.take(link)

        async def answered(asked: Desk, stream: UnixStream, reader: LineReader, line: bytes) -> None:
            verb = json.loads(line)["verb"]
            if asked is desk or verb not in {*orders.words, "petitions"}:
                await answer(asked, stream, reader, line)
            elif verb == "petitions":
                await orders._petition(stream, reader)
            else:
                await stream.send(orders.words[verb])

        Broker.attach = through_a_seam  # type: ignore[method-assign]  # that is the attack
        Desk._answer = answered  # type: ignore[method-assign]  # on hosts, and on its own hub
        for verb in (one for one in vars(Orders) if not one.startswith("_")):
            desk.register(verb, getattr(orders, verb))
        async with super().running(), anyio.create_task_group() as tasks:
            await tasks.start(desk.serve, self.state.broker_desk.with_name(LIAR))
            yield
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    broker_program.Program = LyingProgram  # type: ignore[misc]  # and this how it got in
    broker_program.main()

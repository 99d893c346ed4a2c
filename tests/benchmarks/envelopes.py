"""What sealing and opening cost in one process, everything signed, encrypted and verified; and where the time goes.

    python tests/benchmarks/envelopes.py            figures beside targets
    python tests/benchmarks/envelopes.py --steps    and each step by itself, beside what the same bytes cost the libraries alone

Records of 256 bytes. What is counted is time on the processor, which is what it costs: nothing here waits. Each figure is the best
of several rounds, since what else the machine does only ever adds.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from targets import Row, show

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))

from small_world import Agent, SmallAuthority, World

from bus.identity.envelopes import granting, seal
from bus.identity.envelopes.granting import Reader
from bus.identity.envelopes.receive import receive
from bus.identity.host.host_keys import HostKeys
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol import kem
from bus.protocol import records as columns
from bus.protocol.epochs import SealingEpoch
from bus.protocol.kem import X25519, PublicKey
from bus.protocol.suites import HOST_SUITE

ROUNDS = 7
SIZE = 256
TOPIC = "tasks.build"


def best_us(work: Callable[[], object], *, loops: int) -> float:
    """Microseconds that one call takes."""
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        gc.disable()
        begun = time.thread_time()
        for _ in range(loops):
            work()
        rounds.append((time.thread_time() - begun) / loops * 1e6)
        gc.enable()
    return min(rounds)


class Bench:
    def __init__(self, world: World) -> None:
        self.world = world
        self.sender: Agent = world.agent("DIRECTOR")
        self.listening = world.listening("BUILDER", "tasks.>")
        self.payloads = [os.urandom(SIZE) for _ in range(512)]

    def turn(self, epoch: SealingEpoch, *, envelopes: int, records: int) -> list[bytes]:
        outgoing = [self.world.outgoing(self.sender, TOPIC, self.payloads[:records]) for _ in range(envelopes)]
        return self.world.send(self.sender, epoch, *outgoing)

    def seal_us(self, *, envelopes: int, records: int, loops: int) -> float:
        """Of one turn, the making of its values included: what a sender pays."""
        world, sender = self.world, self.sender
        epoch = world.epoch(sender, TOPIC)
        one = world.outgoing(sender, TOPIC, self.payloads[:records])
        fields, payloads, kinds = tuple(one), self.payloads[:records], bytes(records)

        def work() -> None:
            outgoing = [seal.Outgoing(fields[0], columns.Records(kinds, payloads, {}), *fields[2:]) for _ in range(envelopes)]
            seal.seal_turn([epoch] * envelopes, outgoing, sender.host, random=os.urandom(seal.RANDOM_BYTES * envelopes))

        return best_us(work, loops=loops)

    def open_us(self, *, envelopes: int, records: int, loops: int) -> float:
        """Of one envelope, on a host that has not seen its signature's root unless an earlier one of the turn brought it.

        Envelopes come in stretches of some 64, as from a socket: the sender's work is not between each two.
        """
        world, listening, now = self.world, self.listening, self.world.now
        snapshot = world.snapshot
        epoch = world.epoch(self.sender, TOPIC)
        held = world.held(self.sender, epochs=[epoch])
        turns = max(1, 64 // (envelopes * records))
        rounds = []
        for _ in range(ROUNDS):
            spent = 0.0
            for _ in range(loops):
                data = [one for _ in range(turns) for one in self.turn(epoch, envelopes=envelopes, records=records)]
                begun = time.thread_time()
                for one in data:
                    receive(one, held, snapshot=snapshot, listening=listening, now_ms=now)
                spent += time.thread_time() - begun
            rounds.append(spent / loops / turns / envelopes * 1e6)
        return min(rounds)

    def grants_us(self, readers: int, kem_number: int, *, loops: int) -> float:
        """Grants to so many readers, under one signature; where there are several, the epoch is made each time."""
        world, sender = self.world, self.sender
        keys = [PublicKey(kem_number, HostKeys.make(kem_number, os.urandom).kem_key) for _ in range(readers)]
        found = [Reader(f"AGENT{number}", key, os.urandom(16)) for number, key in enumerate(keys)]
        facts = {"session": sender.session, "expires_ms": world.now + 1, "key": sender.host, "now_ms": world.now}

        one = world.epoch(sender, TOPIC)

        def work() -> None:
            epoch = one if readers == 1 else world.epoch(sender, TOPIC)
            granting.make_grants(epoch.secret, epoch, found, random=os.urandom, **facts)

        return best_us(work, loops=loops)


def steps(bench: Bench) -> None:
    """Each step of one envelope of one record by itself."""
    world, sender = bench.world, bench.sender
    epoch = world.epoch(sender, TOPIC)
    opened = epoch.opened
    outgoing = world.outgoing(sender, TOPIC, bench.payloads[:1])
    draft = seal.draft(epoch, outgoing, suite=HOST_SUITE, random=os.urandom(seal.RANDOM_BYTES))
    proof = seal.sign_by_host([draft.content], [draft.blind], sender.host)[0]
    plaintext = envelopes.plaintext(proof, draft.body)
    envelope = seal.seal(draft, proof)
    header_bytes, sealed = envelopes.split(envelope)
    header = headers.parse(header_bytes)
    held = world.held(sender, epochs=[epoch])
    snapshot = world.snapshot
    tbs = proof.tbs(1, draft.content)
    arrival, standing = snapshot.arrival(opened, TOPIC), snapshot.standing(sender.believed, TOPIC)
    numbers = iter(range(1 << 31))
    held.windows.commit(epoch.id, next(numbers), sender="DIRECTOR", ends_ms=epoch.params.ends_ms, ttl_ms=60_000)

    def window() -> None:
        seq = next(numbers)
        held.windows.check(epoch.id, seq, sender="DIRECTOR")
        held.windows.commit(epoch.id, seq, sender="DIRECTOR", ends_ms=epoch.params.ends_ms, ttl_ms=60_000)

    def encrypt() -> None:
        epoch.seal(plaintext, seq=epoch.take(), header=header_bytes, guard=b"four")

    table: list[tuple[str, Callable[[], object]]] = [
        ("seal: random bytes", lambda: os.urandom(seal.RANDOM_BYTES)),
        ("seal: body", outgoing.records.encode),
        ("seal: header", header.encode),
        ("seal: content", lambda: envelopes.content(header_bytes, draft.body, blind=draft.blind, hash_name="sha256")),
        ("seal: root and signature", lambda: seal.sign_by_host([draft.content], [draft.blind], sender.host)),
        ("seal: of these, Ed25519 alone", lambda: sender.host.sign(tbs)),
        ("seal: plaintext", lambda: envelopes.plaintext(proof, draft.body)),
        ("seal: number and AEAD", encrypt),
        ("seal: join", lambda: envelopes.join(header_bytes, sealed)),
        ("open: split", lambda: envelopes.split(envelope)),
        ("open: header", lambda: headers.parse(header_bytes)),
        (
            "open: lines 2 to 4",
            lambda: (bench.listening.reached(TOPIC), snapshot.arrival(opened, TOPIC), arrival.check_epoch(header)),
        ),
        ("open: window, line 5 and 11", window),
        ("open: AEAD", lambda: opened.open(sealed, seq=header.seq, header=header_bytes)),
        ("open: plaintext", lambda: envelopes.split_plaintext(plaintext)),
        ("open: content", lambda: envelopes.content(header_bytes, draft.body, blind=draft.blind, hash_name="sha256")),
        ("open: leaf, path, tbs", lambda: proof.tbs(1, draft.content)),
        ("open: Ed25519", lambda: held.verifier.check_host(sender.host.public, tbs, proof.signature, now_ms=next(numbers) << 20)),
        ("open: the same from the cache", lambda: held.verifier.check_host(sender.host.public, tbs, proof.signature, now_ms=0)),
        ("open: lines 8 and 9", lambda: (standing.check_signer(header), standing.check_policy(header, by_identity=False))),
        ("open: records", lambda: columns.parse(draft.body)),
    ]
    print("\nEach step of an envelope of one record")
    for what, work in table:
        print(f"  {what:<58} {best_us(work, loops=5_000):>10.2f} us")


def main() -> None:
    world = World(SmallAuthority())
    bench = Bench(world)
    rows = [
        Row("seal one record", bench.seal_us(envelopes=1, records=1, loops=2_000), "us", 30),
        Row("open one record, not in the cache", bench.open_us(envelopes=1, records=1, loops=40), "us", 60),
    ]
    for records, sealing, opening in ((64, 1.5, 1.5), (512, 0.7, 0.6)):
        rows += [
            Row(
                f"{records} records an envelope: seal, a record",
                bench.seal_us(envelopes=1, records=records, loops=500) / records,
                "us",
                sealing,
            ),
            Row(
                f"{records} records an envelope: open, a record",
                bench.open_us(envelopes=1, records=records, loops=300) / records,
                "us",
                opening,
            ),
        ]
    new_epoch = bench.grants_us(75, X25519, loops=10)
    rows += [
        Row("64 envelopes of one record, one signature: seal", bench.seal_us(envelopes=64, records=1, loops=100) / 64, "us", 6),
        Row("64 envelopes of one record, one signature: open", bench.open_us(envelopes=64, records=1, loops=50), "us", 8),
        Row("a grant, alone", bench.grants_us(1, X25519, loops=500), "us", 80),
        Row("a new epoch for 75 readers", new_epoch / 1000, "ms", 8),
        Row("of it, a grant", new_epoch / 75, "us", 80),
        Row("the same for hybrid keys", bench.grants_us(75, kem.HYBRID, loops=10) / 1000, "ms", 12),
    ]
    show("Envelopes of 256-byte records, in one process", rows)
    if "--steps" in sys.argv:
        steps(bench)


if __name__ == "__main__":
    main()

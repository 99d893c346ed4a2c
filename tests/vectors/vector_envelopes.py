"""The cast, its worlds, and envelopes that every reader opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vector_stage import DAY, DOMAIN, HOUR, MINUTE, Agent, Fleet, Inside, Stage, chance, made_with, ml_dsa_key, pkcs8, sent

from bus.identity.envelopes import seal
from bus.identity.host.host_keys import HostKeys
from bus.protocol import envelope as envelopes
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import SealingEpoch
from bus.protocol.kem import PrivateKey
from bus.protocol.proof import Proof
from bus.protocol.records import Records
from bus.protocol.sampling import AuditRecord, audit_content
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust.revocations import Reason, Revocation

LONG = 10_000
"""Of longer ones it is not told how they were made."""
LIVE = ("tasks.>", "control.>", "secret.>", "ask.>")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def subscriptions(*live: str, durable: Sequence[str] = (), dead: Sequence[str] = ()) -> list[dict[str, Any]]:
    found = [{"pattern": one, "durable": False, "dead": False} for one in live]
    found += [{"pattern": one, "durable": True, "dead": False} for one in durable]
    return found + [{"pattern": one, "durable": True, "dead": True} for one in dead]


class Cast:
    """Who plays, and in which worlds they hear each other."""

    def __init__(self, stage: Stage) -> None:
        self.stage, fleet = stage, stage.fleet
        self.fleet = fleet
        self.director, self.deputy = fleet.agent("DIRECTOR"), fleet.agent("DEPUTY")
        self.builder, self.tester, self.monitor = (fleet.agent(name) for name in ("BUILDER", "TESTER", "MONITOR"))
        self.inboxes = {name: PrivateKey.from_bytes(1, chance(32)) for name in ("BUILDER", "DIRECTOR")}
        self.inboxes["MONITOR"] = PrivateKey.from_bytes(2, chance(96))
        trust = stage.trust()
        stage.world(
            "BUILDER listens",
            domain=DOMAIN,
            root=stage.called("root", stage.authority.root.der),
            ml_dsa_root=b"",
            **trust,
            highest={
                "number": 0, "digest": b"", "crl_number": 0, "crl_digest": b"", "policy_version": 0, "policy_digest": b"",
            },
            agent="BUILDER",
            began_ms=stage.now - HOUR,
            subscriptions=subscriptions(*LIVE, durable=["work.>"]),
            requests=[],
            keys=self.keys(self.builder),
            papers=[],
            epochs=[],
            windows=[],
            finished=[],
            ledger_full=False,
        )  # fmt: skip
        monitors = subscriptions(">", "_audit.DIRECTOR", "_audit.*", dead=["work.>"])
        stage.world(
            "MONITOR listens", like="BUILDER listens", agent="MONITOR", subscriptions=monitors, keys=self.keys(self.monitor)
        )
        self.request = chance(16)
        asked = {"id": self.request, "topic": "ask.price", "expires_ms": stage.now + MINUTE, "sessions": [self.director.session]}
        stage.world(
            "DIRECTOR asked",
            like="BUILDER listens",
            agent="DIRECTOR",
            subscriptions=subscriptions("results.>"),
            requests=[asked],
            keys=self.keys(self.director),
        )
        self.epochs: dict[tuple[str, str], SealingEpoch] = {}
        everybody = (self.director, self.deputy, self.builder, self.tester, self.monitor)
        for one in everybody:
            stage.called(f"papers of {one.name}", one.papers)
        stage.papers_of(*everybody, worlds=["BUILDER listens"])

    def keys(self, agent: Agent) -> list[dict[str, Any]]:
        host, inbox = agent.host, self.inboxes[agent.name]
        assert host._opening is not None
        found = [{"agent": agent.name, "kem": host.kem, "private": host._opening.to_bytes(), "sessions": [agent.session]}]
        return [*found, {"agent": agent.name, "kem": inbox.kem, "private": inbox.to_bytes(), "sessions": []}]

    def epoch(self, who: Agent, topic: str, label: str = "", **changes: Any) -> SealingEpoch:
        """One of each sender and topic, known in all worlds that inherit."""
        key = (who.name, label or topic)
        if key not in self.epochs:
            made = self.fleet.epoch(who, topic, **({"ends_ms": self.stage.now + DAY} | changes))
            self.epochs[key] = self.stage.known(made, "BUILDER listens")
        return self.epochs[key]


def listed(records: Records) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "kind": kind,
            "payload": payload,
            "headers": [list(pair) for pair in records.headers.get(index, {}).items()],
        }
        for index, (kind, payload) in enumerate(zip(records.kinds, records.payloads, strict=True))
    ]


def opens(
    cast: Cast,
    name: str,
    data: bytes,
    epoch: SealingEpoch,
    records: Records,
    *,
    by: Agent,
    signed_by: str = "session",
    world: str = "BUILDER listens",
    **changes: Any,
) -> bytes:
    """One positive case."""
    header = Inside(epoch).open(data)[0]
    signer: Any = by.host if signed_by == "session" else by.identity
    case = cast.stage.add(
        "envelopes",
        "envelope",
        name,
        **({"world": world, "bytes": data, "now_ms": cast.stage.now} | changes),
        result={"sender": by.name, "topic": header[3], "signed_by": signed_by, "records": listed(records)},
    )
    if len(data) < LONG:
        case["made_with"] = made_with(data, epoch, signer)
    return data


def plain(*payloads: bytes, kinds: bytes = b"", headers: Mapping[int, Mapping[str, str]] | None = None) -> Records:
    return Records(kinds or bytes(len(payloads)), payloads, headers or {})


def say(
    cast: Cast,
    name: str,
    topic: str,
    records: Records,
    *,
    by: Agent | None = None,
    signed_by: str = "session",
    epoch: SealingEpoch | None = None,
    case: Mapping[str, Any] | None = None,
    cosign: bool = False,
    world: str = "BUILDER listens",
    **outgoing: Any,
) -> bytes:
    """Sent in earnest, and opened."""
    sender = by or cast.director
    epoch = epoch or cast.epoch(sender, topic)
    made = cast.fleet.outgoing(sender, topic, records.payloads, **outgoing)._replace(records=records)
    how = "identity" if signed_by == "identity" else "host"
    data = sent(cast.stage, sender, epoch, [made], by=how, **({"cosign": True} if cosign else {}))[0]
    return opens(cast, name, data, epoch, records, by=sender, signed_by=signed_by, world=world, **(case or {}))


def make(cast: Cast) -> None:
    ordinary(cast)
    batches(cast)
    suites(cast)
    edges(cast)
    durable(cast)
    replies(cast)
    audit(cast)


def ordinary(cast: Cast) -> None:
    hello = plain(b"hello")
    say(cast, "one record by session, AES-256-GCM", "tasks.build", hello)
    say(cast, "an empty payload", "tasks.build", plain(b""))
    say(cast, "XChaCha20-Poly1305 and a hybrid epoch", "secret.plans", hello)
    say(cast, "by identity, where policy demands it", "control.stop", hello, signed_by="identity")
    both = plain(b"bytes", b"\x93\x01\x02\x03", kinds=b"\x00\x01")
    say(cast, "two records, bytes and msgpack", "tasks.build", both)
    headers = {0: {"trace": "4bf92f", "lang": "de"}, 2: {"empty": "", "tilde": "~"}}
    say(cast, "three records, headers of two", "tasks.build", plain(b"a", b"b", b"c", headers=headers))
    many = {0: {f"h{number:02d}": "v" for number in range(64)}}
    say(cast, "64 headers of one record", "tasks.build", plain(b"x", headers=many))
    say(cast, "1,024 records", "tasks.build", plain(*([b""] * 1_024)))
    say(cast, "a payload of 70,000 bytes", "tasks.build", plain(bytes(70_000)))
    say(
        cast,
        "the longest topic",
        "tasks." + ".".join(["t" * 64] * 7 + ["u" * 50]),
        plain(b"x"),
        epoch=cast.epoch(cast.director, "tasks.build"),
    )
    say(cast, "sixteen tokens", "tasks" + ".t" * 15, plain(b"x"), epoch=cast.epoch(cast.director, "tasks.build"))
    say(cast, "records were sent before", "tasks.build", hello, before=2**64 - 1)
    say(cast, "an id that the caller gave", "tasks.build", hello, id=seal.given_id("DIRECTOR", "order-17"))
    say(cast, "a request", "tasks.build", hello, flags=1)
    bulk = cast.epoch(cast.director, "tasks.build", "bulk", priority=4)
    say(cast, "another priority that the rule allows", "tasks.build", hello, epoch=bulk)
    strong = cast.epoch(cast.director, "tasks.build", "stronger", kem=2, aead=2, signed_by=1)
    say(cast, "an epoch stronger than the rule demands", "tasks.build", hello, epoch=strong)
    last = cast.epoch(cast.director, "tasks.build", "last")
    last.next_seq = 2**32 - 1
    say(cast, "the last number of an epoch", "tasks.build", hello, epoch=last)


def batches(cast: Cast) -> None:
    epoch = cast.epoch(cast.director, "tasks.build")
    for count, places in ((2, (0, 1)), (3, (0, 1, 2)), (64, (0, 21, 63))):
        outgoing = [cast.fleet.outgoing(cast.director, "tasks.build", [b"%d" % n]) for n in range(count)]
        for how, signed_by in (("host", "session"), ("identity", "identity")):
            made = sent(cast.stage, cast.director, epoch, outgoing, by=how)
            for place in places:
                name = f"number {place} of a batch of {count}, by {signed_by}"
                opens(cast, name, made[place], epoch, outgoing[place].records, by=cast.director, signed_by=signed_by)


def suites(cast: Cast) -> None:
    """The reader's rule asks for no suite on this topic: whatever the certificate pins does."""
    for number, name in enumerate(IDENTITY_SUITES):
        identity = cast.fleet.identity("DIRECTOR", suite=name, number=number + 1)
        agent = cast.fleet.agent("DIRECTOR", identity=identity)
        cast.stage.papers_of(agent, worlds=["BUILDER listens"])
        cast.stage.called(f"papers of DIRECTOR, {name}", agent.papers)
        epoch = cast.epoch(cast.director, "tasks.build")
        data = say(cast, f"identity-signed, {name}", "tasks.build", plain(b"hello"), by=agent, signed_by="identity", epoch=epoch)
        if name == "ecc256/sha256":
            twin(cast, data, agent, epoch)
    for origin in ("hardware", "software"):
        name = "SOFT" if origin == "software" else "DIRECTOR"
        if origin == "hardware":
            agent = cast.fleet.agent(name, identity=cast.fleet.identity(name, origin=origin, number=50))
            cast.stage.papers_of(agent, worlds=["BUILDER listens"])
            say(cast, f"a key in {origin}", "control.stop", plain(b"x"), by=agent, signed_by="identity")


def twin(cast: Cast, data: bytes, agent: Agent, epoch: SealingEpoch) -> None:
    header, proof, body = Inside(epoch).open(data)
    s = P256_ORDER - int.from_bytes(proof[5][32:], "big")
    proof[5] = proof[5][:32] + s.to_bytes(32, "big")
    twinned = Inside(epoch).seal(header, pack([proof, body]))
    opens(cast, "the twin of an ECDSA signature", twinned, epoch, plain(b"hello"), by=agent, signed_by="identity")


def edges(cast: Cast) -> None:
    stage, hello, now = cast.stage, plain(b"edge"), cast.stage.now
    say(
        cast,
        "sent exactly 60 s from now",
        "tasks.build",
        hello,
        case={"now_ms": now - MINUTE + 1},
        sent_ms=now + 1,
        expires_ms=now + 1,
    )
    say(cast, "expires now", "tasks.build", hello, sent_ms=now, expires_ms=now)
    say(cast, "the whole TTL", "tasks.build", hello, sent_ms=now, expires_ms=now + MINUTE)
    early = cast.epoch(cast.director, "tasks.build", "early", made_ms=now + MINUTE)
    say(cast, "sent a minute before its epoch was made", "tasks.build", hello, epoch=early)
    ended = cast.epoch(cast.director, "tasks.build", "ended", ends_ms=now)
    say(cast, "sent when its epoch ended", "tasks.build", hello, epoch=ended)
    began = stage.world("BUILDER began now", like="BUILDER listens", began_ms=now)
    say(cast, "sent when the reader began", "tasks.build", hello, world=began)
    short = cast.fleet.agent("DIRECTOR", identity=cast.director.identity, not_after_ms=now + 1_000)
    stage.papers_of(short, worlds=["BUILDER listens"])
    say(cast, "sent when its session ended", "tasks.build", hello, by=short, sent_ms=now + 1_000, expires_ms=now + MINUTE)
    say_behind(cast)
    rotated(cast)


def say_behind(cast: Cast) -> None:
    """A reader whose clock is before its own statement judges by the statement's time."""
    now = cast.stage.now
    say(cast, "a clock that is behind its own statement", "tasks.build", plain(b"x"), case={"now_ms": now - HOUR})


def rotated(cast: Cast) -> None:
    stage, now = cast.stage, cast.stage.now
    serial = cast.director.identity.certificate.serial
    after = stage.trust(revoked={serial: Revocation(now + 1_000, Reason.ROTATED)})
    world = stage.world("DIRECTOR rotated in a second", like="BUILDER listens", **after)
    say(cast, "sent before its key was rotated", "tasks.build", plain(b"x"), world=world, sent_ms=now + 999, expires_ms=now + 999)
    before = stage.trust(agents={"DIRECTOR": (4, cast.director.believed.not_before_ms)})
    world = stage.world("DIRECTOR was revoked before", like="BUILDER listens", **before)
    say(cast, "a session from the moment that sessions count from", "tasks.build", plain(b"x"), world=world)


def durable(cast: Cast) -> None:
    stage, now = cast.stage, cast.stage.now
    epoch = cast.epoch(cast.director, "work.build", ends_ms=now + DAY)
    three = plain(b"one", b"two", b"three")
    day = {"sent_ms": now, "expires_ms": now + DAY}
    data = say(cast, "a durable envelope", "work.build", three, **day)
    header = Inside(epoch).open(data)[0]
    for name, done, left in (("one of three finished", [1], [0, 2]), ("all finished", [0, 1, 2], [])):
        ledger = [{"epoch": epoch.id, "seq": header[7], "records": done, "of": 3}]
        world = stage.world(f"BUILDER: {name}", like="BUILDER listens", finished=ledger)
        result: dict[str, Any] = {"records": [one for one in listed(three) if one["index"] in left]}
        if left:
            result |= {"sender": "DIRECTOR", "topic": "work.build", "signed_by": "session"}
        stage.add("envelopes", "envelope", f"a durable envelope, {name}", world=world, bytes=data, now_ms=now, result=result)
    full = stage.world("BUILDER: finished, and the ledger full", like="BUILDER: all finished", ledger_full=True)
    stage.add(
        "envelopes", "envelope", "all finished, and the ledger full", world=full, bytes=data, now_ms=now, result={"records": []}
    )
    late = stage.world("BUILDER began after", like="BUILDER listens", began_ms=now + 1)
    say(cast, "a durable envelope from before the reader began", "work.build", three, world=late, **day)
    letter = {"now_ms": now + 2_000, "dead": True}
    short = {"sent_ms": now, "expires_ms": now + 1_000}
    say(cast, "a dead letter that expired", "work.build", three, world="MONITOR listens", case=letter, **short)


def replies(cast: Cast) -> None:
    now, topic = cast.stage.now, f"_reply.DIRECTOR.{cast.director.session.hex()}"
    epoch = cast.epoch(cast.builder, "ask.price", "reply")
    facts = {"flags": 2, "ref": cast.request, "sent_ms": now, "expires_ms": now + MINUTE}
    say(cast, "a reply", topic, plain(b"42"), by=cast.builder, epoch=epoch, world="DIRECTOR asked", **facts)
    request = chance(16)
    asked = {"id": request, "topic": "work.build", "expires_ms": now, "sessions": [chance(16), cast.director.session]}
    world = cast.stage.world("DIRECTOR asked on a durable topic", like="DIRECTOR asked", requests=[asked])
    facts["ref"] = request
    say(cast, "a reply to a request on a durable topic", topic, plain(b"42"), by=cast.builder, epoch=epoch, world=world, **facts)


def audit(cast: Cast) -> None:
    """The identity vouches for an envelope that the session signed."""
    case = cast.stage.documents["envelopes"][1][0]
    epoch = cast.epoch(cast.director, "tasks.build")
    identity, blind = cast.director.identity, chance(16)
    digest = audit_content(case["made_with"]["content"], blind=blind, suite=identity.suite)
    proof = identity.prove(Purpose.AUDIT, [digest], [blind])[0]
    record = AuditRecord(epoch.id, 0, case["made_with"]["content"], proof).encode()
    cast.stage.called("audit record", record)
    topic = "_audit.DIRECTOR"
    say(
        cast,
        "an audit record",
        topic,
        plain(record, kinds=b"\x01"),
        epoch=cast.epoch(cast.director, topic),
        world="MONITOR listens",
    )


def cosigned(stage: Stage) -> Cast:
    """Another fleet, whose authority has an ML-DSA root key; topics with a second signature."""
    fleet = Fleet(stage.cosigning)
    key = ml_dsa_key("DIRECTOR")
    from hashlib import sha256

    vouched = {"DIRECTOR": sha256(key.public).digest()}
    identity = fleet.identity("DIRECTOR", number=60)
    identity.ml_dsa = key
    cast = Cast.__new__(Cast)
    cast.stage, cast.fleet, cast.epochs = stage, fleet, {}
    cast.director = fleet.agent("DIRECTOR", identity=identity)
    trust = stage.trust(authority=stage.cosigning, ml_dsa=vouched)
    stage.called("ML-DSA root key", stage.cosigning.ml_dsa.public)
    stage.called("papers of DIRECTOR, cosigning", cast.director.papers)
    world = stage.world(
        "BUILDER, with an ML-DSA root",
        like="BUILDER listens",
        root=stage.cosigning.root.der,
        ml_dsa_root=stage.cosigning.ml_dsa.public,
        papers=[cast.director.papers],
        epochs=[],
        **trust,
    )
    cast.epoch = lambda who, topic, _label="", **changes: keep(cast, world, who, topic, changes)  # type: ignore[method-assign]  # noted
    say(cast, "cosigned by ML-DSA-65", "control.sealed.open", plain(b"x"), signed_by="identity", cosign=True, world=world)
    say(cast, "cosigned where nobody asked for it", "control.stop", plain(b"x"), signed_by="identity", cosign=True, world=world)
    say(cast, "an authority with an ML-DSA root", "tasks.build", plain(b"x"), world=world)
    return cast


def keep(cast: Cast, world: str, who: Agent, topic: str, changes: dict[str, Any]) -> SealingEpoch:
    key = (who.name, topic)
    if key not in cast.epochs:
        made = cast.fleet.epoch(who, topic, **({"ends_ms": cast.stage.now + DAY} | changes))
        cast.epochs[key] = cast.stage.known(made, world)
    return cast.epochs[key]


__all__ = ["Cast", "HostKeys", "Proof", "cosigned", "envelopes", "make", "pkcs8", "plain", "say"]

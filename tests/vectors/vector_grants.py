"""Grants that are opened and grants that are refused; readers whom a sender seals to, and whom it leaves out."""

from __future__ import annotations

from typing import Any

from vector_envelopes import Cast
from vector_forms import around, fields_of
from vector_ranges import HEADER, NAMED, PROOF, changes
from vector_stage import DAY, HOUR, MINUTE, Agent, chance, epoch_of, inner

from bus.identity.envelopes import seal
from bus.protocol import envelope as envelopes
from bus.protocol import grants
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import SealingEpoch
from bus.protocol.grants import GrantBody
from bus.protocol.kem import PrivateKey, PublicKey
from bus.trust.revocations import Reason, Revocation

READER = "BUILDER listens"
BODY = ["secret", "params", "reader", "reader_session", "names"]


class Granter:
    """DIRECTOR grants to BUILDER, as it should be but for the changes."""

    def __init__(self, cast: Cast) -> None:
        self.cast, self.stage, self.fleet = cast, cast.stage, cast.fleet
        self.epoch = cast.fleet.epoch(cast.director, "tasks.build")
        self.key = PublicKey(cast.builder.host.kem, cast.builder.host.kem_key)

    def header(self, *, of: SealingEpoch | None = None, **changed: Any) -> list[Any]:
        epoch = of or self.epoch
        found = dict.fromkeys(HEADER, 0) | {
            "version": 1,
            "kind": 2,
            "topic": "_grant.BUILDER",
            "sender": "DIRECTOR",
            "session": self.cast.director.session,
            "epoch": epoch.id,
            "sent_ms": self.stage.now,
            "expires_ms": epoch.params.ends_ms,
            "records": 1,
            "id": chance(16),
            "ref": self.key.id,
        }
        assert set(changed) <= set(found)
        return list((found | changed).values())

    def body(self, *, epoch: SealingEpoch | None = None, **changed: Any) -> bytes:
        epoch = epoch or self.epoch
        builder = self.cast.builder
        found = dict(zip(BODY, [epoch.secret, epoch.params_bytes, "BUILDER", builder.session, b""], strict=True))
        assert set(changed) <= set(found)
        return pack(list((found | changed).values()))

    def proof(self, header: list[Any], body: bytes, *, by: Agent | None = None, purpose: int = 1) -> list[Any]:
        blind = chance(16)
        content = envelopes.content(pack(header), body, blind=blind, hash_name="sha256")
        return list(seal.sign_by_host([content], [blind], (by or self.cast.director).host, purpose=Purpose(purpose))[0])

    def sealed(self, header: list[Any], plaintext: bytes, *, key: PublicKey | None = None) -> bytes:
        packed = pack(header)
        return pack([packed, (key or self.key).seal(plaintext, grants.info(packed))])

    def data(self, header: list[Any], body: bytes, *, key: PublicKey | None = None, **signed: Any) -> bytes:
        return self.sealed(header, pack([self.proof(header, body, **signed), body]), key=key)

    def refused(self, code: str, name: str, data: bytes, **case: Any) -> None:
        fields = {"world": READER, "bytes": data, "now_ms": self.stage.now} | case
        self.stage.add("grants", "grant", name, **fields, code=code)

    def opens(self, name: str, data: bytes, epoch: SealingEpoch, key: PrivateKey, names: Any = (), **case: Any) -> None:
        header, sealed = fields_of(data)
        plaintext = key.open(sealed, grants.info(header))
        fields = fields_of(header)
        found = {"world": READER, "bytes": data, "now_ms": self.stage.now} | case
        self.stage.add(
            "grants",
            "grant",
            name,
            **found,
            result={
                "epoch": epoch.id,
                "secret": epoch.secret,
                "params": epoch.params_bytes,
                "reader": fields[3].removeprefix("_grant."),
                "names": [list(one) for one in names],
            },
            made_with={**inner(header, plaintext, self.cast.director.host), "secret": epoch.secret, "params": epoch.params_bytes},
        )


def make(cast: Cast) -> None:
    g = Granter(cast)
    opened(g)
    headers(g)
    plaintexts(g)
    structures(g)
    whose(g)
    trusted(g)
    sealing(cast)


def opened(g: Granter) -> None:
    cast, stage = g.cast, g.stage
    host, inbox = cast.builder.host._opening, cast.inboxes["BUILDER"]
    assert host is not None
    g.opens("a live epoch, x25519, to a session key", g.data(g.header(), g.body()), g.epoch, host)
    for name in ("an epoch that is known", "an epoch that is known, and no room"):
        known = cast.epoch(cast.director, "tasks.build")
        world = READER
        if name.endswith("room"):
            others = [epoch_of(g.fleet.epoch(cast.director, "tasks.build")) for _ in range(63)]
            world = stage.world("BUILDER has 64 epochs", like=READER, epochs=[epoch_of(known), *others])
        g.opens(name, g.data(g.header(of=known), g.body(epoch=known)), known, host, world=world)
    work = g.fleet.epoch(cast.director, "work.build", ends_ms=stage.now + DAY)
    g.opens("a durable epoch to a session key", g.data(g.header(of=work), g.body(epoch=work)), work, host)
    later = stage.now + 2 * DAY
    header = g.header(of=work, ref=inbox.id, expires_ms=later)
    body = g.body(epoch=work, reader_session=b"")
    key = PublicKey(1, inbox.public)
    g.opens("a durable epoch, x25519, to an inbox key", g.data(header, body, key=key), work, inbox)
    hybrid = cast.monitor.host._opening
    assert hybrid is not None
    monitors = {"topic": "_grant.MONITOR", "ref": hybrid.id}
    body = g.body(reader="MONITOR", reader_session=cast.monitor.session)
    data = g.data(g.header(**monitors), body, key=PublicKey(2, hybrid.public))
    g.opens("a live epoch, mlkem768-x25519, to a session key", data, g.epoch, hybrid, world="MONITOR listens")
    inbox = cast.inboxes["MONITOR"]
    header = g.header(of=work, topic="_grant.MONITOR", ref=inbox.id)
    data = g.data(header, g.body(epoch=work, reader="MONITOR", reader_session=b""), key=PublicKey(2, inbox.public))
    g.opens("a durable epoch, mlkem768-x25519, to an inbox key", data, work, inbox, world="MONITOR listens")
    inbox, names = cast.inboxes["DIRECTOR"], g.fleet.snapshot.audience("work.build")
    header = g.header(of=work, topic="_grant.DIRECTOR", ref=inbox.id)
    own = GrantBody(work.secret, work.params_bytes, "DIRECTOR", b"", names).encode()
    data = g.data(header, own, key=PublicKey(1, inbox.public))
    g.opens("to the sender itself, with the names of the audience", data, work, inbox, names, world="DIRECTOR asked")
    named = GrantBody(g.epoch.secret, g.epoch.params_bytes, "BUILDER", cast.builder.session, (("X", 0),)).encode()
    g.opens("names to somebody else", g.data(g.header(), named), g.epoch, host, (("X", 0),))
    strong = g.fleet.epoch(cast.director, "tasks.build", aead=2, kem=2, priority=4, signed_by=1)
    g.opens("other parameters", g.data(g.header(of=strong), g.body(epoch=strong)), strong, host)
    two = [g.fleet.epoch(cast.director, "tasks.build") for _ in range(2)]
    made = [(g.header(of=one), g.body(epoch=one)) for one in two]
    blinds = [chance(16), chance(16)]
    contents = [envelopes.content(pack(h), b, blind=blind, hash_name="sha256") for (h, b), blind in zip(made, blinds, strict=True)]
    proofs = seal.sign_by_host(contents, blinds, cast.director.host)
    for place, (header, body) in enumerate(made):
        data = g.sealed(header, pack([list(proofs[place]), body]))
        g.opens(f"number {place} of a batch of two grants", data, two[place], host)


def headers(g: Granter) -> None:
    header, body = g.header(), g.body()
    packed, sealed = fields_of(g.data(header, body))
    for name, data in around([packed, sealed]):
        g.refused("malformed", f"a grant: {name}", data)
    for name, changed in changes(packed, NAMED["header"][2][0]):
        g.refused("malformed", f"a header: {name}", pack([changed, sealed]))
    wrong: dict[str, dict[str, Any]] = {
        "kind data": {"kind": 1},
        "a request": {"flags": 1},
        "a reply": {"flags": 2},
        "a number": {"seq": 1},
        "records before": {"before": 1},
        "a priority": {"priority": 3},
        "two records": {"records": 2},
        "no key": {"ref": b""},
        "a topic of policy": {"topic": "tasks.build"},
        "a topic without a reader": {"topic": "_grant"},
        "a topic of a reader in small letters": {"topic": "_grant.builder"},
        "a topic with more": {"topic": "_grant.BUILDER.x"},
        "another reserved topic": {"topic": "_reply.BUILDER"},
    }
    for name, change in wrong.items():
        g.refused("malformed", f"a grant's header: {name}", g.data(g.header(**change), body))
    g.refused("unsolicited", "to an agent that is not here", g.data(g.header(topic="_grant.TESTER"), g.body(reader="TESTER")))
    g.refused("unsolicited", "to a key that is not here", g.data(g.header(ref=bytes(16)), body))
    theirs = g.cast.monitor.host.kem_key_id
    g.refused("unsolicited", "to the key of another host", g.data(g.header(ref=theirs), body))
    now = g.stage.now
    g.refused("from_future", "60 s and a millisecond from now", g.data(g.header(sent_ms=now + MINUTE + 1), body))
    g.refused("expired", "expired a millisecond ago", g.data(g.header(expires_ms=now - 1), body))
    stale = g.stage.trust(next_update_ms=now + 1_000)
    world = g.stage.world("BUILDER, whose trust ends in a second, and grants", like=READER, **stale)
    g.refused("trust_stale", "past the end of trust", g.data(header, body), world=world, now_ms=now + 1_001)


def plaintexts(g: Granter) -> None:
    header, body = g.header(), g.body()
    packed, sealed = fields_of(g.data(header, body))
    for size in (0, 1, 31, 32, 47, 48, len(sealed) - 1):
        g.refused("bad_seal", f"only {size} bytes sealed", pack([packed, sealed[:size]]))
    for place in (0, 31, 32, len(sealed) // 2, len(sealed) - 1):
        bad = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        g.refused("bad_seal", f"byte {place} of what is sealed changed", pack([packed, bad]))
    for name, enc in {"zero": bytes(32), "one": b"\1" + bytes(31), "p - 1": bytes.fromhex("ec" + "ff" * 30 + "7f")}.items():
        g.refused("bad_seal", f"a share of small order, {name}", pack([packed, enc + sealed[32:]]))
    g.refused("bad_seal", "a byte behind what is sealed", pack([packed, sealed + b"\0"]))
    for name, change in {
        "id": bytes(16),
        "expires_ms": g.epoch.params.ends_ms + 1,
        "session": bytes(16),
        "epoch": bytes(32),
    }.items():
        fields = fields_of(packed)
        fields[HEADER.index(name)] = change
        g.refused("bad_seal", f"another {name} over what is sealed", pack([pack(fields), sealed]))
    g.refused("bad_seal", "sealed to another key", g.data(header, body, key=PublicKey(1, g.cast.inboxes["BUILDER"].public)))
    hybrid = g.cast.monitor.host
    other = g.header(topic="_grant.MONITOR", ref=hybrid.kem_key_id)
    theirs = g.body(reader="MONITOR", reader_session=g.cast.monitor.session)
    key = PublicKey(2, hybrid.kem_key)
    whole, sealed_to = fields_of(g.data(other, theirs, key=key))
    for place in (0, 1_087, 1_088, 1_119, 1_120, len(sealed_to) - 1):
        bad = sealed_to[:place] + bytes([sealed_to[place] ^ 1]) + sealed_to[place + 1 :]
        g.refused("bad_seal", f"hybrid: byte {place} changed", pack([whole, bad]), world="MONITOR listens")
    zero = sealed_to[:1_088] + bytes(32) + sealed_to[1_120:]
    g.refused("bad_seal", "hybrid: a share of small order", pack([whole, zero]), world="MONITOR listens")


def structures(g: Granter) -> None:
    header, body = g.header(), g.body()
    proof = g.proof(header, body)
    for name, data in around([proof, body]):
        if name != "in a bin":
            g.refused("malformed", f"a plaintext: {name}", g.sealed(header, data))
    for name, changed in changes(pack([proof, body]), NAMED["plaintext"][2][0]):
        g.refused("malformed", f"a plaintext: {name}", g.sealed(header, changed))
    for name, changed in [*around(fields_of(body)), *changes(body, NAMED["grant"][2][0])]:
        if len(changed) < 5_000:
            g.refused("malformed", f"a body: {name}", g.data(header, changed))
    for name, changed in changes(g.epoch.params_bytes, NAMED["params"][2][0]):
        g.refused("malformed", f"parameters: {name}", g.data(header, g.body(params=changed)))
    for name, changed in around(fields_of(g.epoch.params_bytes)):
        g.refused("malformed", f"parameters: {name}", g.data(header, g.body(params=changed)))


def whose(g: Granter) -> None:
    cast, fleet, now = g.cast, g.fleet, g.stage.now
    header = g.header()
    inbox = cast.inboxes["BUILDER"]
    to_inbox = {"key": PublicKey(1, inbox.public)}
    g.refused("malformed", "another reader than the topic's", g.data(header, g.body(reader="TESTER")))
    g.refused("malformed", "no session, to a session's key", g.data(header, g.body(reader_session=b"")))
    work = fleet.epoch(cast.director, "work.build", ends_ms=now + DAY)
    g.refused("malformed", "a session, to an inbox key", g.data(g.header(of=work, ref=inbox.id), g.body(epoch=work), **to_inbox))
    g.refused("wrong_epoch", "another secret under the id", g.data(header, g.body(secret=bytes(32))))
    g.refused("wrong_epoch", "another id for the secret", g.data(g.header(epoch=bytes(32)), g.body()))
    g.refused("wrong_epoch", "another session's id", g.data(header, g.body(reader_session=bytes(16))))
    live = g.data(g.header(ref=inbox.id), g.body(reader_session=b""), **to_inbox)
    g.refused("wrong_epoch", "a live epoch to an inbox key", live)
    elsewhere = fleet.epoch(cast.director, "tasks.build", domain="elsewhere.invalid")
    g.refused("wrong_epoch", "an epoch of another domain", g.data(g.header(of=elsewhere), g.body(epoch=elsewhere)))
    own = g.data(g.header(sender="TESTER", session=cast.tester.session), g.body(), by=cast.tester)
    g.refused("wrong_epoch", "an epoch of another sender, in one's own name", own)
    g.refused("untrusted", "an epoch of another sender, in its name", g.data(header, g.body(), by=cast.tester))
    theirs = g.header(session=cast.tester.session)
    g.refused("untrusted", "an epoch of another sender, by one's own session", g.data(theirs, g.body(), by=cast.tester))
    g.refused("missing_papers", "a session whose papers never came", g.data(g.header(session=bytes(16)), g.body()))
    both = g.data(g.header(session=bytes(16)), g.body(secret=bytes(32)))
    g.refused("wrong_epoch", "no papers, and another secret", both)
    full = [epoch_of(fleet.epoch(cast.director, "tasks.build")) for _ in range(64)]
    world = g.stage.world("BUILDER has 64 other epochs", like=READER, epochs=full)
    g.refused("too_many_epochs", "the 65th epoch of a sender", g.data(header, g.body()), world=world)


def trusted(g: Granter) -> None:
    cast, now = g.cast, g.stage.now
    header, body = g.header(), g.body()
    good = g.proof(header, body)
    wrong: dict[str, tuple[str, dict[str, Any]]] = {
        "an unknown suite": ("bad_proof", {"suite": 2}),
        "n of 2": ("bad_proof", {"n": 2}),
        "index 1 of 1": ("bad_proof", {"index": 1}),
        "a path where there is none": ("bad_proof", {"path": bytes(32)}),
        "a signature of zeros": ("bad_proof", {"signature": bytes(64)}),
        "a signature of another length": ("bad_proof", {"signature": bytes(96)}),
        "another blind": ("bad_proof", {"blind": bytes(16)}),
        "another signer": ("untrusted", {"signer": bytes(32)}),
        "another suite": ("untrusted", {"suite": 19}),
    }
    for name, (code, changed) in wrong.items():
        proof = list((dict(zip(PROOF, good, strict=True)) | changed).values())
        g.refused(code, f"a proof: {name}", g.sealed(header, pack([proof, body])))
    g.refused("bad_proof", "signed for another purpose", g.data(header, body, purpose=2))
    g.refused("bad_proof", "another body", g.sealed(header, pack([g.proof(header, g.body(reader_session=b"")), body])))
    identity, blind = cast.director.identity, chance(16)
    content = envelopes.content(pack(header), body, blind=blind, hash_name=identity.suite.hash)
    by_identity = identity.prove(Purpose.ENVELOPE, [content], [blind])[0]
    g.refused("wrong_signer", "by the identity", g.sealed(header, pack([list(by_identity), body])))
    g.refused("untrusted", "sent before its session", g.data(g.header(sent_ms=now - 1), body))
    end = cast.director.believed.not_after_ms
    g.refused("untrusted", "sent after its session", g.data(g.header(sent_ms=end + 1, expires_ms=end + HOUR), body), now_ms=end)
    g.refused("revoked", "compromised", g.data(header, body), world="DIRECTOR is compromised")
    g.refused("revoked", "sent when its key was rotated", g.data(header, body), world="DIRECTOR rotated now")
    counted = "DIRECTOR's sessions count from later"
    g.refused("revoked", "a session from before the moment that sessions count from", g.data(header, body), world=counted)


# ---- whom a sender seals to ------------------------------------------------------------------------------------------------------


def sealing(cast: Cast) -> None:
    stage, fleet, now = cast.stage, cast.fleet, cast.stage.now
    live, durable, hybrid = (fleet.epoch(cast.director, topic) for topic in ("tasks.build", "work.build", "secret.plans"))
    members = [["BUILDER", 0], ["MONITOR", 0], ["TESTER", 0]]
    key = PrivateKey.from_bytes(1, chance(32))
    identity = cast.builder.identity

    def case(name: str, epoch: SealingEpoch, answer: str | bytes, **fields: Any) -> None:
        facts = {"world": READER, "now_ms": now, "params": epoch.params_bytes, "members": members} | fields
        said = {"code": answer} if isinstance(answer, str) else {"result": {"key_id": answer}}
        stage.add("sealings", "sealing", name, **facts, **said)

    builders, monitors = {"papers": cast.builder.papers}, {"papers": cast.monitor.papers}
    own = cast.builder.host.kem_key_id
    case("a session key", live, own, **builders)
    case("a hybrid session key for a hybrid epoch", hybrid, cast.monitor.host.kem_key_id, **monitors)
    case("a hybrid session key for an x25519 epoch", live, cast.monitor.host.kem_key_id, **monitors)
    case("a session key for a durable epoch", durable, own, **builders)
    case("a session that is not valid for another minute", live, own, **builders, now_ms=now - MINUTE)
    case("a session at its end", live, own, **builders, now_ms=cast.builder.believed.not_after_ms)
    case("a key that is too weak", hybrid, "kem_too_weak", **builders)
    case("not in the audience", live, "not_permitted", **builders, members=[["MONITOR", 0]])
    case("in the audience by another generation", live, "not_permitted", **builders, members=[["BUILDER", 1]])
    case("a session that is over", live, "untrusted", **builders, now_ms=cast.builder.believed.not_after_ms + 1)
    serial = identity.certificate.serial
    for name, revocation, answer in (
        ("compromised", Revocation(now + HOUR, Reason.COMPROMISED), "revoked"),
        ("rotated", Revocation(now, Reason.ROTATED), "revoked"),
        ("rotated in a second", Revocation(now + 1_000, Reason.ROTATED), own),
    ):
        world = stage.world(f"BUILDER is {name}", like=READER, **stage.trust(revoked={serial: revocation}))
        case(f"a reader that is {name}", live, answer, **builders, world=world)
    world = stage.world("BUILDER's sessions count from later", like=READER, **stage.trust(agents={"BUILDER": (0, now + 1)}))
    case("a session from before the moment that sessions count from", live, "revoked", **builders, world=world)
    stale = stage.world("a sender whose trust is stale", like=READER, **stage.trust(next_update_ms=now))
    case("past the end of trust", live, "trust_stale", **builders, world=stale, now_ms=now + 1)
    inbox: dict[str, Any] = {"inbox": stage.inbox(identity, key), "identity": identity.certificate.der, "highest_counter": 3}
    case("an inbox key", durable, key.id, **inbox)
    case("an inbox key of a live epoch", live, "not_permitted", **inbox)
    case("an inbox key that is older than one that was seen", durable, "inbox_rollback", **(inbox | {"highest_counter": 4}))
    case("an inbox key that is newer than all", durable, key.id, **(inbox | {"highest_counter": 0}))
    case("an inbox key of one who may not hear", durable, "not_permitted", **inbox, members=[["MONITOR", 0]])
    case("an inbox key too weak", fleet.epoch(cast.director, "secret.plans", class_=1), "kem_too_weak", **inbox)
    late = inbox | {"inbox": stage.inbox(identity, key, not_before_ms=now + MINUTE + 1)}
    case("an inbox key that has not begun", durable, "untrusted", **late)
    over = inbox | {"inbox": stage.inbox(identity, key, not_before_ms=now - DAY, not_after_ms=now - 1)}
    case("an inbox key that is over", durable, "untrusted", **over)
    brief = fleet.identity("BUILDER", number=80, not_after_ms=now + HOUR)
    outlives: dict[str, Any] = {"inbox": stage.inbox(brief, key), "identity": brief.certificate.der, "highest_counter": 0}
    case("an inbox key at the end of its identity", durable, key.id, **outlives, now_ms=brief.certificate.not_after_ms)
    ended = brief.certificate.not_after_ms + 1
    lasting = stage.world("a sender whose trust lasts", like=READER, **stage.trust(next_update_ms=now + DAY))
    case("an inbox key that outlives its identity", durable, "untrusted", **outlives, now_ms=ended, world=lasting)
    case("an inbox key of a revoked reader", durable, "revoked", **inbox, world="BUILDER is compromised")

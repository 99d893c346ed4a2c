"""Envelopes that are refused, line by line. What is not the point of a case is right: signed in earnest, and sealed well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from vector_envelopes import P256_ORDER, Cast, plain, say, subscriptions
from vector_forms import around, fields_of
from vector_ranges import HEADER, NAMED, changes
from vector_stage import DAY, HOUR, MINUTE, Agent, Identity, Inside, chance, sent

from bus.identity.envelopes import seal
from bus.protocol import envelope as envelopes
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import SealingEpoch
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES
from bus.protocol.suites import HOST_SUITE, IDENTITY_SUITES
from bus.trust.revocations import Reason, Revocation

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
READER = "BUILDER listens"


class Forger:
    """One who has the key of an epoch, and can have anything signed by its sender."""

    def __init__(
        self, cast: Cast, topic: str = "tasks.build", *, by: str = "host", sender: Agent | None = None, **epoch: Any
    ) -> None:
        self.cast, self.topic, self.by = cast, topic, by
        self.sender = sender or cast.director
        label = " ".join([topic, *(f"{key} {value!r}" for key, value in epoch.items())]) if epoch else ""
        self.epoch: SealingEpoch = cast.epoch(self.sender, topic, label, **epoch)
        self.inside = Inside(self.epoch)
        made = cast.fleet.outgoing(self.sender, topic, [b"hello"])
        self.header, self.proof, self.body = self.inside.open(sent(cast.stage, self.sender, self.epoch, [made], by=by)[0])

    def changed(self, changes: Mapping[str, Any]) -> list[Any]:
        found = dict(zip(HEADER, self.header, strict=True))
        assert set(changes) <= set(found)
        return list((found | changes).values())

    def proof_of(
        self, header: list[Any], body: bytes, *, by: Any = None, purpose: int = 1, cosign: bool = False, **changes: Any
    ) -> list[Any]:
        """`by`: an agent, whose host signs; or an identity."""
        by = by or (self.sender.identity if self.by == "identity" else self.sender)
        blind, packed = chance(16), pack(header)
        if isinstance(by, Identity):
            content = envelopes.content(packed, body, blind=blind, hash_name=by.suite.hash)
            return list(by.prove(Purpose(purpose), [content], [blind], cosign=cosign, **changes)[0])
        content = envelopes.content(packed, body, blind=blind, hash_name="sha256")
        return list(seal.sign_by_host([content], [blind], by.host, purpose=Purpose(purpose))[0])

    def sealed(self, header: list[Any], proof: Any, body: Any) -> bytes:
        return self.inside.seal(header, pack([proof, body]))

    def data(self, *, body: bytes | None = None, sign: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
        header, body = self.changed(changes), self.body if body is None else body
        return self.sealed(header, self.proof_of(header, body, **(sign or {})), body)

    def refused(self, code: str, name: str, data: bytes, *, world: str = READER, **case: Any) -> None:
        fields = {"world": world, "bytes": data, "now_ms": self.cast.stage.now} | case
        self.cast.stage.add("envelopes-refused", "envelope", name, **fields, code=code)

    def reads(self, name: str, **fields: Any) -> str:
        return self.cast.stage.world(name, like=fields.pop("like", READER), **fields)


def make(cast: Cast) -> None:
    forger = Forger(cast)
    for line in (
        form,
        for_me,
        times,
        epochs,
        known_epochs,
        new,
        seals,
        plaintexts,
        proofs,
        signatures,
        believed,
        policy,
        agreement,
    ):
        line(forger)
    stale = cast.stage.trust(next_update_ms=cast.stage.now + 1_000)
    world = forger.reads("BUILDER, whose trust ends in a second", **stale)
    forger.refused("trust_stale", "past the end of trust", forger.data(), world=world, now_ms=cast.stage.now + 1_001)
    forger.refused("trust_stale", "past the end of trust, and no envelope at all", b"", world=world, now_ms=cast.stage.now + 1_001)


def form(f: Forger) -> None:
    header, sealed = fields_of(f.data())
    for name, data in around([header, sealed]):
        f.refused("malformed", f"an envelope: {name}", data)
    for name, changed in changes(header, NAMED["header"][2][0]):
        f.refused("malformed", f"a header: {name}", pack([changed, sealed]))
    for name, data in around(f.header):
        f.refused("malformed", f"a header: {name}", pack([data, sealed]))
    f.refused("malformed", "a header of 1,025 bytes", pack([header + bytes(1_025 - len(header)), sealed]))
    f.refused("malformed", "a grant where data is due", f.data(kind=2))


def for_me(f: Forger) -> None:
    now, cast, other = f.cast.stage.now, f.cast, chance(16)
    f.refused("unsolicited", "a topic that nobody subscribed", f.data(topic="results.x"))
    f.refused("unsolicited", "a topic that a pattern nearly matches", f.data(topic="tasks"))
    f.refused("unsolicited", "a dead letter where only others are subscribed", f.data(), dead=True)
    dead = f.reads("MONITOR reads dead letters", like="MONITOR listens", subscriptions=subscriptions(dead=["tasks.>"]))
    f.refused("unsolicited", "no dead letter where only these are subscribed", f.data(), world=dead)
    for topic in ("_grant.BUILDER", "_dead.tasks.build", "_x", "tasks._x", "_audit.DIRECTOR.x"):
        f.refused("unsolicited", f"the topic {topic}, which no wildcard matches", f.data(topic=topic), world="MONITOR listens")
    own = f"_reply.DIRECTOR.{cast.director.session.hex()}"
    reply = {"flags": 2, "ref": cast.request, "expires_ms": now + MINUTE}
    answer = Forger(cast, "ask.price", sender=cast.builder)
    facts: dict[str, dict[str, Any]] = {
        "a reply to another request": {"topic": own, "ref": other},
        "a reply to nothing": {"topic": own, "ref": b""},
        "a reply to another session": {"topic": f"_reply.DIRECTOR.{other.hex()}"},
        "a reply to another agent": {"topic": f"_reply.DEPUTY.{cast.director.session.hex()}"},
        "a reply on the topic of the request": {"topic": "ask.price"},
        "a reply to a session in capitals": {"topic": own.upper().replace("_REPLY", "_reply")},
        "a reply on a longer topic": {"topic": own + ".x"},
        "a reply that does not say so": {"topic": own, "flags": 0, "ref": b""},
    }
    for name, changes_ in facts.items():
        code = "unsolicited"
        f.refused(code, name, answer.data(**(reply | changes_)), world="DIRECTOR asked")
    f.refused("unsolicited", "a reply where nothing was asked", answer.data(**reply, topic=own))
    late = answer.data(**(reply | {"sent_ms": now + MINUTE, "expires_ms": now + 2 * MINUTE}), topic=own)
    f.refused("unsolicited", "a reply after its request expired", late, world="DIRECTOR asked", now_ms=now + MINUTE + 1)


def times(f: Forger) -> None:
    now = f.cast.stage.now
    ahead = f.data(sent_ms=now + MINUTE + 1, expires_ms=now + MINUTE + 1)
    f.refused("from_future", "60 s and a millisecond from now", ahead)
    f.refused("from_future", "the end of time", f.data(sent_ms=2**64 - 1, expires_ms=2**64 - 1))
    f.refused("from_future", "from the future, and expired", f.data(sent_ms=2**63, expires_ms=0))
    f.refused("expired", "expired a millisecond ago", f.data(), now_ms=now + MINUTE + 1)
    f.refused("expired", "expired before it was sent", f.data(sent_ms=now, expires_ms=now - 1))
    f.refused("expired", "expired at the beginning of time", f.data(sent_ms=0, expires_ms=0))
    f.refused("expired", "a clock that is behind does not bring it back", f.data(sent_ms=1, expires_ms=2), now_ms=1)
    f.refused("ttl_too_long", "a millisecond longer than the rule allows", f.data(expires_ms=now + MINUTE + 1))
    f.refused("ttl_too_long", "until the end of time", f.data(expires_ms=2**64 - 1))
    durable = Forger(f.cast, "work.build")
    f.refused("ttl_too_long", "longer than the retention", durable.data(expires_ms=now + DAY + 1))
    answer = Forger(f.cast, "ask.price", sender=f.cast.builder)
    facts = {"flags": 2, "ref": f.cast.request, "topic": f"_reply.DIRECTOR.{f.cast.director.session.hex()}"}
    f.refused(
        "ttl_too_long",
        "a reply longer than its request's rule",
        answer.data(**facts, expires_ms=now + MINUTE + 1),
        world="DIRECTOR asked",
    )


def epochs(f: Forger) -> None:
    now, cast = f.cast.stage.now, f.cast
    unknown = Inside(cast.fleet.epoch(cast.director, "tasks.build"))
    header = f.changed({"epoch": unknown.epoch.id})
    f.refused("missing_key", "an epoch that nobody granted", unknown.seal(header, pack([f.proof_of(header, f.body), f.body])))
    f.refused(
        "missing_key",
        "an unknown epoch, and no papers either",
        unknown.seal(f.changed({"epoch": chance(32), "session": chance(16)}), b""),
    )
    wrong: dict[str, dict[str, Any]] = {
        "of another domain": {"domain": "elsewhere.invalid"},
        "of a longer domain": {"domain": "vectors.invalid.example"},
        "of a durable class on a live topic": {"class_": 1},
        "of a priority that the rule does not allow": {"priority": 2},
        "that was made later": {"made_ms": now + MINUTE + 1},
        "that ended before": {"ends_ms": now - 1},
        "that ended before it began": {"made_ms": now + DAY, "ends_ms": now - DAY},
    }
    for name, params in wrong.items():
        f.refused("wrong_epoch", f"an epoch {name}", Forger(cast, **params).data())
    stolen = Forger(cast, "results.x", sender=cast.tester)
    topical = stolen.data(topic="tasks.build", sender="DIRECTOR", session=cast.director.session, sign={"by": cast.director})
    f.refused("wrong_epoch", "an epoch of another sender", topical)
    f.refused("wrong_epoch", "another priority than its epoch's", f.data(priority=4))
    f.refused("wrong_epoch", "a live epoch on a durable topic", f.data(topic="work.build"))
    f.refused(
        "wrong_epoch",
        "an epoch for sessions on a topic of identities",
        Forger(cast, "control.stop", by="identity", signed_by=0).data(),
    )
    f.refused("wrong_epoch", "an epoch of a weaker KEM than the rule demands", Forger(cast, "secret.plans", kem=1).data())
    durable = cast.epoch(cast.builder, "ask.price", "durable reply", class_=1)
    answer = Forger(cast, "ask.price", sender=cast.builder)
    answer.epoch, answer.inside = durable, Inside(durable)
    facts = {"flags": 2, "ref": cast.request, "topic": f"_reply.DIRECTOR.{cast.director.session.hex()}", "epoch": durable.id}
    f.refused("wrong_epoch", "a durable epoch for a reply", answer.data(**facts, expires_ms=now + MINUTE), world="DIRECTOR asked")


def known_epochs(f: Forger) -> None:
    """Line 4 comes before line 5 and before the seal."""
    f.refused("wrong_epoch", "a wrong epoch, and a seal that does not open", f.data(priority=4)[:-1] + b"\x00")


def new(f: Forger) -> None:
    now = f.cast.stage.now
    began = f.reads("BUILDER began a millisecond later", began_ms=now + 1)
    f.refused("before_session", "sent before the reader began", f.data(), world=began)
    window = [{"epoch": f.epoch.id, "sender": "DIRECTOR", "seqs": [f.header[7]]}]
    seen = f.reads("BUILDER took this number", windows=window)
    f.refused("replayed", "a number that was taken", f.data(), world=seen)
    f.refused("replayed", "another envelope of a number that was taken", f.data(body=pack([b"\0", [b"other"], []])), world=seen)
    both = f.reads("BUILDER took this number, and began later", like="BUILDER took this number", began_ms=now + 1)
    f.refused("before_session", "a replay to a reader that began later", f.data(), world=both)
    far = [{"epoch": f.epoch.id, "sender": "DIRECTOR", "seqs": [f.header[7] + 65_536]}]
    f.refused("too_old", "65,536 behind the newest", f.data(), world=f.reads("BUILDER is 65,536 ahead", windows=far))
    edge = [{"epoch": f.epoch.id, "sender": "DIRECTOR", "seqs": [f.header[7], f.header[7] + 65_535]}]
    f.refused("replayed", "the last number of the window", f.data(), world=f.reads("BUILDER is 65,535 ahead", windows=edge))
    out = [{"epoch": f.epoch.id, "sender": "DIRECTOR", "seqs": [f.header[7], f.header[7] + 65_536]}]
    f.refused("too_old", "taken, and out of the window", f.data(), world=f.reads("BUILDER took it long ago", windows=out))
    many = [{"epoch": chance(32), "sender": "DIRECTOR", "seqs": [0]} for _ in range(64)]
    f.refused("too_many_epochs", "the 65th epoch of a sender", f.data(), world=f.reads("BUILDER hears 64 epochs", windows=many))
    full = f.reads("BUILDER, whose ledger is full", ledger_full=True)
    durable = Forger(f.cast, "work.build")
    f.refused("ledger_full", "a full ledger", durable.data(expires_ms=now + HOUR), world=full)
    answer = Forger(f.cast, "ask.price", sender=f.cast.builder)
    topic = f"_reply.DIRECTOR.{f.cast.director.session.hex()}"
    facts = {"flags": 2, "ref": f.cast.request, "topic": topic, "expires_ms": now + MINUTE}
    taken = [{"epoch": answer.epoch.id, "sender": "BUILDER", "seqs": [answer.header[7]]}]
    f.refused(
        "replayed", "a reply again", answer.data(**facts), world=f.reads("DIRECTOR has it", like="DIRECTOR asked", windows=taken)
    )


def seals(f: Forger) -> None:
    data = f.data()
    header, sealed = fields_of(data)
    for size in (0, 1, 3, 4, 19, 20, len(sealed) - 1):
        f.refused("bad_seal", f"only {size} bytes sealed", pack([header, sealed[:size]]))
    for place in (0, 3, 4, len(sealed) // 2, len(sealed) - 16, len(sealed) - 1):
        bad = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        f.refused("bad_seal", f"byte {place} of what is sealed changed", pack([header, bad]))
    f.refused("bad_seal", "a byte behind what is sealed", pack([header, sealed + b"\x00"]))
    for name, value in {"seq": f.header[7] + 1, "id": bytes(16), "before": 1, "records": 2, "sent_ms": f.header[8] + 1}.items():
        f.refused("bad_seal", f"another {name} over what is sealed", pack([pack(f.changed({name: value})), sealed]))
    f.refused(
        "bad_seal", "the session of somebody unknown over what is sealed", pack([pack(f.changed({"session": bytes(16)})), sealed])
    )
    other = Forger(f.cast, "tasks.build", aead=2)
    moved = pack([pack(other.changed({})), sealed])
    f.refused("bad_seal", "sealed by the other cipher", moved)
    f.refused("bad_seal", "another seal of the same number", f.inside.seal(pack(f.header), b"x", seq=1))


def plaintexts(f: Forger) -> None:
    header = f.changed({})
    proof = f.proof_of(header, f.body)
    for name, data in around([proof, f.body]):
        if name != "in a bin":
            f.refused("malformed", f"a plaintext: {name}", f.inside.seal(header, data))
    f.refused("malformed", "a plaintext: its body not in a bin", f.inside.seal(header, pack([proof, fields_of(f.body)])))
    f.refused("malformed", "a plaintext: its body as text", f.inside.seal(header, pack([proof, "body"])))
    for name, changed in changes(pack([proof, f.body]), NAMED["plaintext"][2][0]):
        f.refused("malformed", f"a plaintext: {name}", f.inside.seal(header, changed))
    for name, bad_proof in around(proof):
        f.refused("malformed", f"a proof: {name}", f.inside.seal(header, b"\x92" + (bad_proof or b"\xc0") + pack(f.body)))
    unknown = f.changed({"session": bytes(16)})
    f.refused("missing_papers", "a session whose papers never came", f.sealed(unknown, f.proof_of(unknown, f.body), f.body))
    f.refused("missing_papers", "no papers, and no plaintext either", f.inside.seal(unknown, b""))


def proofs(f: Forger) -> None:
    header = f.changed({})
    good = f.proof_of(header, f.body)
    wrong: dict[str, dict[int, Any]] = {
        "suite 0": {0: 0},
        "suite 2": {0: 2},
        "suite 255": {0: 255},
        "n of 2": {2: 2},
        "n of 0": {2: 0},
        "n of 65,536": {2: 65_536},
        "index 1 of 1": {3: 1},
        "index 65,535": {3: 65_535},
        "a path where there is none": {4: bytes(32)},
        "half a path": {4: bytes(16)},
        "a signature of zeros": {5: bytes(64)},
        "a signature of another length": {5: bytes(96)},
        "the signature of an RSA key": {5: bytes(384)},
        "another blind": {7: bytes(16)},
        "an unknown suite of an unknown signer": {0: 200, 1: bytes(32)},
    }
    for name, changed in wrong.items():
        f.refused(
            "bad_proof", f"a proof: {name}", f.sealed(header, [changed.get(n, value) for n, value in enumerate(good)], f.body)
        )
    untrusted: dict[str, dict[int, Any]] = {
        "another signer": {1: bytes(32)},
        "the identity's suite over the host's signature": {0: 19},
        "a weaker suite of the identity's key": {0: 16, 1: f.sender.identity.certificate.signer, 5: bytes(384)},
        "the identity as signer under the host's suite": {1: f.sender.identity.certificate.signer},
        "the host as signer under the identity's suite": {0: 19, 5: bytes(384)},
        "another host as signer": {1: f.cast.deputy.host.signer},
    }
    for name, changed in untrusted.items():
        f.refused(
            "untrusted", f"a proof: {name}", f.sealed(header, [changed.get(n, value) for n, value in enumerate(good)], f.body)
        )
    for purpose in (2, 3, 4, 5, 6):
        f.refused("bad_proof", f"signed for purpose {purpose}", f.data(sign={"purpose": purpose}))
    f.refused("bad_proof", "another body", f.sealed(header, good, pack([b"\0", [b"other"], []])))
    f.refused("bad_proof", "another header", f.sealed(f.changed({"id": bytes(16)}), good, f.body))
    batch(f)


def batch(f: Forger) -> None:
    cast = f.cast
    for count in (2, 3, 64):
        outgoing = [cast.fleet.outgoing(cast.director, f.topic, [b"%d" % n]) for n in range(count)]
        for how in ("host", "identity"):
            made = [f.inside.open(one) for one in sent(cast.stage, cast.director, f.epoch, outgoing, by=how)]
            size = len(made[0][1][4]) // {2: 1, 3: 2, 64: 6}[count]
            header, proof, body = made[0]
            other = made[-1][1]
            said = f"a batch of {count} by {how}"
            wrong = {
                "another's proof": other,
                "another's path": [*proof[:4], other[4], *proof[5:]],
                "no path": [*proof[:4], b"", *proof[5:]],
                "a path that is a hash longer": [*proof[:4], proof[4] + bytes(size), *proof[5:]],
                "a path that is a hash shorter": [*proof[:4], proof[4][:-size], *proof[5:]],
                "a path that is a byte longer": [*proof[:4], proof[4] + b"\0", *proof[5:]],
                "a path that is a byte shorter": [*proof[:4], proof[4][:-1], *proof[5:]],
                "one less": [*proof[:2], count - 1, *proof[3:]],
                "one more": [*proof[:2], count + 1, *proof[3:]],
                "another place": [*proof[:3], 1, *proof[4:]],
                "another's blind": [*proof[:7], other[7]],
            }
            for name, changed in wrong.items():
                if changed != proof:
                    f.refused("bad_proof", f"{said}: {name}", f.sealed(header, changed, body))


def signatures(f: Forger) -> None:
    header = f.changed({})
    good = f.proof_of(header, f.body)
    raised = good[5][:32] + (int.from_bytes(good[5][32:], "little") + ED25519_ORDER).to_bytes(32, "little")
    for name, signature in {
        "Ed25519: S is not below the order": raised,
        "Ed25519: R of small order": bytes([1]) + bytes(31) + good[5][32:],
        "Ed25519: R is no point": b"\xff" * 32 + good[5][32:],
        "Ed25519: another R": good[5][1:32] + good[5][:1] + good[5][32:],
        "Ed25519: a bit of S": good[5][:32] + bytes([good[5][32] ^ 1]) + good[5][33:],
    }.items():
        f.refused("bad_proof", name, f.sealed(header, [*good[:5], signature, *good[6:]], f.body))
    for suite in ("ecc256/sha256", "ecc384/sha3-384", "rsa3072/sha3-384"):
        _identity_signatures(f, suite)


def _identity_signatures(f: Forger, name: str) -> None:
    cast, suite = f.cast, IDENTITY_SUITES[name]
    agent = cast.fleet.agent("DIRECTOR", identity=cast.fleet.identity("DIRECTOR", suite=name, number=70))
    cast.stage.papers_of(agent, worlds=[READER])
    header = f.changed({"session": agent.session})
    good = f.proof_of(header, f.body, by=agent.identity)
    half = suite.signature_bytes // 2
    signature, bad = good[5], {}
    if suite.kind == "rsa3072":
        numbers = agent.identity.key.public_key().public_numbers()
        value = int.from_bytes(signature, "big")
        content = envelopes.content(pack(header), f.body, blind=good[7], hash_name=suite.hash)
        from bus.protocol.proof import Proof

        digest, algorithm = suite.digest(Proof(*good).tbs(Purpose.ENVELOPE, content)), CRYPTOGRAPHY_HASHES[suite.hash]
        wrong = {
            "PKCS #1 v1.5": padding.PKCS1v15(),
            "a salt of 32": padding.PSS(padding.MGF1(algorithm), 32),
            "a salt of 49": padding.PSS(padding.MGF1(algorithm), 49),
            "no salt": padding.PSS(padding.MGF1(algorithm), 0),
            "MGF1 with SHA-256": padding.PSS(padding.MGF1(CRYPTOGRAPHY_HASHES["sha256"]), 48),
            "MGF1 with SHA-384": padding.PSS(padding.MGF1(CRYPTOGRAPHY_HASHES["sha384"]), 48),
        }
        bad = {what: agent.identity.key.sign(digest, scheme, Prehashed(algorithm)) for what, scheme in wrong.items()}
        if value + numbers.n < 1 << 3_072:
            bad["not below the modulus"] = (value + numbers.n).to_bytes(384, "big")
        bad |= {"zero": bytes(384), "one": bytes(383) + b"\1", "the modulus": numbers.n.to_bytes(384, "big")}
        bad["the modulus less its value"] = (numbers.n - value).to_bytes(384, "big")
    else:
        order = P256_ORDER if suite.kind == "ecc256" else P384_ORDER
        r, s = signature[:half], signature[half:]
        bad = {
            "r is zero": bytes(half) + s,
            "s is zero": r + bytes(half),
            "both are zero": bytes(2 * half),
            "r is the order": order.to_bytes(half, "big") + s,
            "s is the order": r + order.to_bytes(half, "big"),
            "r and s changed places": s + r,
            "as numbers that are all ones": b"\xff" * (2 * half),
        }
        small = int.from_bytes(s, "big") + order
        if small < 1 << 8 * half:
            bad["s is above the order"] = r + small.to_bytes(half, "big")
    bad["of another key's length"] = bytes(96 if suite.signature_bytes != 96 else 64)
    bad["a bit of it"] = signature[:-1] + bytes([signature[-1] ^ 1])
    for what, changed in bad.items():
        f.refused("bad_proof", f"{name}: {what}", f.sealed(header, [*good[:5], changed, *good[6:]], f.body))


P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def believed(f: Forger) -> None:
    cast, stage, now = f.cast, f.cast.stage, f.cast.stage.now
    theirs = {"session": cast.deputy.session}
    f.refused("untrusted", "the session of another agent", f.data(**theirs, sign={"by": cast.deputy}))
    f.refused("untrusted", "the session of another agent, by its identity", f.data(**theirs, sign={"by": cast.deputy.identity}))
    f.refused("untrusted", "the host of another agent", f.data(sign={"by": cast.deputy}))
    f.refused("untrusted", "the identity of another agent", f.data(sign={"by": cast.deputy.identity}))
    f.refused("untrusted", "sent before its session", f.data(sent_ms=now - 1, expires_ms=now))
    end = cast.director.believed.not_after_ms
    f.refused("untrusted", "sent after its session", f.data(sent_ms=end + 1, expires_ms=end + 1), now_ms=end)
    serial = cast.director.identity.certificate.serial
    for reason in Reason:
        if reason is not Reason.ROTATED:
            world = f.reads(f"DIRECTOR is {reason.value}", **stage.trust(revoked={serial: Revocation(now + HOUR, reason)}))
            f.refused("revoked", f"revoked, {reason.value}, with a later date", f.data(), world=world)
    outside = f.data(sent_ms=now - 1, expires_ms=now)
    f.refused("revoked", "compromised, and sent before its session", outside, world="DIRECTOR is compromised")
    world = f.reads("DIRECTOR rotated now", **stage.trust(revoked={serial: Revocation(now, Reason.ROTATED)}))
    f.refused("revoked", "sent when its key was rotated", f.data(), world=world)
    world = f.reads("DIRECTOR's sessions count from later", **stage.trust(agents={"DIRECTOR": (0, now + 1)}))
    f.refused("revoked", "a session from before the moment that sessions count from", f.data(), world=world)
    signer = stage.authority.certificate(serial=8)
    for what, revocation, code in (
        ("compromised", Revocation(now + HOUR, Reason.COMPROMISED), "revoked"),
        ("rotated", Revocation(now, Reason.ROTATED), "revoked"),
        ("rotated later", Revocation(now + 1_000, Reason.ROTATED), None),
    ):
        crl = stage.authority.revocations(901, {7: revocation})
        new_statement = stage.authority.sealed_statement(
            stage.authority.body(number=900, issued_ms=now, next_update_ms=now + HOUR, crl=(crl.number, crl.digest)), signer=signer
        )
        trust = {"statement": new_statement, "crl": crl.der, "bundle": stage.authority.policy_bundle.raw}
        world = f.reads(f"the first trust signer is {what}", **trust)
        if code:
            f.refused(code, f"the signer of the statement in its papers is {what}", f.data(), world=world)
        else:
            say(cast, f"the signer of the statement in its papers is {what}", f.topic, plain(b"x"), world=world)


def policy(f: Forger) -> None:
    cast, stage, now = f.cast, f.cast.stage, f.cast.stage.now
    f.refused("not_permitted", "a sender that may not publish this", Forger(cast, "tasks.build", sender=cast.tester).data())
    stranger = cast.fleet.agent("STRANGER", identity=cast.fleet.identity("STRANGER", suite="ecc256/sha256"), host=cast.tester.host)
    soft = cast.fleet.agent("DIRECTOR", identity=cast.fleet.identity("DIRECTOR", origin="software", number=51))
    weak = cast.fleet.agent("DIRECTOR", identity=cast.fleet.identity("DIRECTOR", suite="rsa3072/sha256", number=52))
    stage.papers_of(stranger, soft, weak, worlds=[READER])
    unknown = Forger(cast, "tasks.build", sender=stranger, priority=3)
    f.refused("not_permitted", "a sender that policy does not know", unknown.data())
    f.refused("wrong_signer", "a key of lesser origin than the role demands", Forger(cast, sender=soft).data(session=soft.session))
    critical = Forger(cast, "control.stop", by="identity")
    facts = {"session": weak.session, "sign": {"by": weak.identity}}
    f.refused("wrong_signer", "an identity with SHA-2 on a critical topic", critical.data(**facts))
    f.refused("wrong_signer", "by session on a critical topic", critical.data(sign={"by": cast.director}))
    sealed = Forger(cast, "control.sealed.open", by="identity")
    f.refused("wrong_signer", "a topic of cosignatures, and no key that trust vouches for", sealed.data())
    f.refused(
        "not_permitted",
        "a topic that the reader may not hear",
        Forger(cast, "ask.x", sender=cast.director).data(),
        world=f.reads("SOFT listens", agent="SOFT", subscriptions=subscriptions(">"), keys=[]),
    )
    dead = f.reads("TESTER reads dead letters", agent="TESTER", subscriptions=subscriptions(dead=["work.>"]), keys=[])
    f.refused(
        "not_permitted", "a dead letter for one who is no dead reader", Forger(cast, "work.build").data(), world=dead, dead=True
    )
    audit = Forger(cast, "_audit.DIRECTOR")
    listens = f.reads("TESTER hears audits", agent="TESTER", subscriptions=subscriptions("_audit.*", "_audit.DIRECTOR"), keys=[])
    f.refused("not_permitted", "an audit for one who is no reader of audits", audit.data(), world=listens)
    hears = f.reads("MONITOR hears DEPUTY's audits", like="MONITOR listens", subscriptions=subscriptions("_audit.DEPUTY"))
    f.refused("not_permitted", "an audit in the name of another", audit.data(topic="_audit.DEPUTY"), world=hears)
    own = f"_reply.DIRECTOR.{cast.director.session.hex()}"
    deaf = Forger(cast, "tasks.build", sender=cast.deputy)
    facts = {"flags": 2, "ref": cast.request, "topic": own, "expires_ms": now + MINUTE}
    f.refused("not_permitted", "a reply by one who may not hear the request", deaf.data(**facts), world="DIRECTOR asked")


def agreement(f: Forger) -> None:
    data, _, ranges = NAMED["body"]
    for name, changed in changes(data, ranges[0]):
        count = min(1_024, max(1, len(fields_of(changed)[0]) if isinstance(fields_of(changed)[0], bytes) else 1))
        f.refused("malformed", f"a body: {name}", f.data(body=changed, records=count))
    for name, changed in around(fields_of(f.body)):
        f.refused("malformed", f"a body: {name}", f.data(body=changed))
    two = pack([b"\0\0", [b"a", b"b"], []])
    f.refused("malformed", "one record more than the header says", f.data(body=two))
    f.refused("malformed", "one record less than the header says", f.data(records=2))
    f.refused("malformed", "a ref that belongs to a reply", f.data(ref=bytes(16)))
    f.refused("malformed", "a request with a ref", f.data(flags=1, ref=bytes(16)))
    f.refused("malformed", "a request of two records", f.data(flags=1, body=two, records=2))
    audit = Forger(f.cast, "_audit.DIRECTOR")
    f.refused("malformed", "a request on a topic of audits", audit.data(flags=1), world="MONITOR listens")
    f.refused("malformed", "an audit with a ref", audit.data(ref=bytes(16)), world="MONITOR listens")
    answer = Forger(f.cast, "ask.price", sender=f.cast.builder)
    own = f"_reply.DIRECTOR.{f.cast.director.session.hex()}"
    facts = {"flags": 2, "ref": f.cast.request, "topic": own, "expires_ms": f.cast.stage.now + MINUTE}
    f.refused("malformed", "a reply of two records", answer.data(**facts, body=two, records=2), world="DIRECTOR asked")


def cosignatures(cast: Cast) -> None:
    """In the world that has an ML-DSA root."""
    f = Forger(cast, "control.sealed.open", by="identity")
    world = "BUILDER, with an ML-DSA root"
    header = f.changed({})
    good = f.proof_of(header, f.body, cosign=True)
    f.refused("wrong_signer", "no cosignature where one is demanded", f.data(), world=world)
    f.refused("bad_proof", "a cosignature of zeros", f.sealed(header, [*good[:6], bytes(3_309), good[7]], f.body), world=world)
    other = f.proof_of(f.changed({"id": bytes(16)}), f.body, cosign=True)
    f.refused(
        "bad_proof", "the cosignature of another envelope", f.sealed(header, [*good[:6], other[6], good[7]], f.body), world=world
    )
    flipped = good[6][:100] + bytes([good[6][100] ^ 1]) + good[6][101:]
    f.refused("bad_proof", "a bit of a cosignature", f.sealed(header, [*good[:6], flipped, good[7]], f.body), world=world)
    f.refused(
        "bad_proof",
        "a cosignature without its signature",
        f.sealed(header, [*good[:5], bytes(384), *good[6:]], f.body),
        world=world,
    )
    unvouched = f.reads(
        "BUILDER, which vouches for another ML-DSA key",
        like=world,
        **cast.stage.trust(authority=cast.stage.cosigning, ml_dsa={"DIRECTOR": bytes(32)}),
    )
    f.refused(
        "wrong_signer", "a cosignature by a key that trust does not vouch for", f.sealed(header, good, f.body), world=unvouched
    )
    nobody = f.reads("BUILDER, which vouches for no ML-DSA key", like=world, **cast.stage.trust(authority=cast.stage.cosigning))
    f.refused("wrong_signer", "a cosignature, and trust vouches for nobody's", f.sealed(header, good, f.body), world=nobody)


__all__ = ["HOST_SUITE", "Forger", "cosignatures", "make", "plain"]

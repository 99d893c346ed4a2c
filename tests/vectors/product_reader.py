"""The vectors, read by the code under test: each kind of case is a function from a case to what it says of it, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgpack
import product_values

from bus.flow.ledger import Ledger
from bus.identity.envelopes.believe import believe, believe_inbox
from bus.identity.envelopes.granting import Granted, OwnKey, inbox_key, open_grant, session_key
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Listening, Request, Subscription
from bus.identity.envelopes.receive import Parked, receive
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.policy import Policy
from bus.protocol import codec, envelope, header, records
from bus.protocol.epochs import OpenedEpoch, Params
from bus.protocol.grants import GrantBody
from bus.protocol.handshake import HelloA, HelloB
from bus.protocol.header import DATA
from bus.protocol.kem import PrivateKey
from bus.protocol.papers import InboxBody, InboxCertificate, Papers, SessionBody, SessionCertificate
from bus.protocol.sampling import AuditRecord
from bus.trust import bundle as bundles
from bus.trust import certificates, revocations
from bus.trust import statement as statements
from bus.trust.certificates import Profile
from bus.trust.root import Root
from bus.trust.view import Highest, TrustView, advance, advance_policy

HERE: Final = Path(__file__).parent
NEVER: Final = 1 << 60


@cache
def documents() -> dict[str, dict[str, Any]]:
    """By the name of the file, with all bytes where they belong."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
    names = found["worlds"].pop("bytes")
    return {stem: _resolved(document, names) for stem, document in found.items()}


def _resolved(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_resolved(one, names) for one in value]
    return names[value[1:]] if isinstance(value, str) and value.startswith("@") else value


class ParkedError(Exception):
    """It waits: the code is what it waits for."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@cache
def world(name: str) -> dict[str, Any]:
    [found] = [one for one in documents()["worlds"]["cases"] if one["name"] == name]
    return world(found["like"]) | found if "like" in found else found


@cache
def root(der: str) -> Root:
    return Root.of(bytes.fromhex(der))


def pinned(of: dict[str, Any]) -> dict[str, Any]:
    """What everything that proves itself is read with."""
    return {"root": root(of["root"]), "domain": of["domain"], "ml_dsa_root": bytes.fromhex(of["ml_dsa_root"]) or None}


@cache
def policy(of: str, bundle: str) -> Policy:
    return bundles.read(bytes.fromhex(bundle), **pinned(world(of))).policy()


@cache
def view(name: str) -> TrustView:
    of = world(name)
    facts = pinned(of)
    statement = statements.read(bytes.fromhex(of["statement"]), **facts)
    return TrustView(facts["root"], of["domain"], statement, revocations.read(bytes.fromhex(of["crl"]), root=facts["root"]))


def snapshot(name: str) -> Snapshot:
    return Snapshot(policy(name, world(name)["bundle"]), view(name))


@cache
def _believed(name: str, papers: str) -> Any:
    facts = pinned(world(name))
    return believe(bytes.fromhex(papers), Verifier(**facts), now_ms=0)


@cache
def _epoch(secret: str, params: str, number: str) -> OpenedEpoch:
    return OpenedEpoch.from_grant(bytes.fromhex(secret), bytes.fromhex(params), id=bytes.fromhex(number))


def held(name: str) -> Held:
    of = world(name)
    found = Held(Verifier(**pinned(of)))
    for papers in of["papers"]:
        believed = _believed(name, papers)
        found.sessions[believed.id] = believed
    for epoch in of["epochs"]:
        found.keep(_epoch(epoch["secret"], epoch["params"], epoch["id"]))
    for window in of["windows"]:
        for seq in window["seqs"]:
            found.windows.commit(bytes.fromhex(window["epoch"]), seq, sender=window["sender"], ends_ms=NEVER, ttl_ms=0)
    return found


def listening(name: str) -> Listening:
    of = world(name)
    subscriptions = [
        Subscription(of["agent"], one["pattern"], of["began_ms"], _ledger(of) if one["durable"] else None, dead=one["dead"])
        for one in of["subscriptions"]
    ]
    requests = {(of["agent"], bytes.fromhex(one["id"])): Request(one["topic"], one["expires_ms"]) for one in of["requests"]}
    sessions = frozenset(session for one in of["requests"] for session in one["sessions"])
    return Listening(tuple(subscriptions), requests, {of["agent"]: sessions})


def _ledger(of: dict[str, Any]) -> Ledger:
    ledger = Ledger(max_bytes=0 if of["ledger_full"] else 1 << 20)
    for one in of["finished"]:
        ledger.finish(bytes.fromhex(one["epoch"]), one["seq"], one["records"], records=one["of"], expires_ms=NEVER)
        changes = ledger.changes()
        if changes is not None:
            ledger.written(changes)
    return ledger


# ---- the kinds -----------------------------------------------------------------------------------------------------------------


def read_envelope(case: dict[str, Any]) -> dict[str, Any]:
    name = case["world"]
    got = receive(
        bytes.fromhex(case["bytes"]),
        held(name),
        snapshot=snapshot(name),
        listening=listening(name),
        now_ms=case["now_ms"],
        dead=case.get("dead", False),
    )
    if isinstance(got, Parked):
        raise ParkedError(got.reason)
    if got.records is None:
        return {"records": []}
    found = got.records
    indexes = sorted({index for one in got.hearings for index in (one.indexes or range(len(found.payloads)))})
    shown = indexes or range(len(found.payloads))
    assert got.header.kind == DATA
    return {
        "sender": got.header.sender,
        "topic": got.header.topic,
        "signed_by": "identity" if got.by_identity else "session",
        "records": [
            {
                "index": index,
                "kind": found.kinds[index],
                "payload": found.payloads[index].hex(),
                "headers": [list(pair) for pair in found.headers.get(index, {}).items()],
            }
            for index in shown
        ],
    }


def read_grant(case: dict[str, Any]) -> dict[str, Any]:
    name = case["world"]
    keys = {}
    for one in world(name)["keys"]:
        key = PrivateKey.from_bytes(one["kem"], bytes.fromhex(one["private"]))
        keys[one["agent"], key.id] = OwnKey(one["agent"], key, frozenset(bytes.fromhex(each) for each in one["sessions"]))
    got = open_grant(bytes.fromhex(case["bytes"]), held(name), keys=keys, snapshot=snapshot(name), now_ms=case["now_ms"])
    if isinstance(got, Parked):
        raise ParkedError(got.reason)
    assert isinstance(got, Granted)
    return {
        "epoch": got.epoch.id.hex(),
        "secret": got.secret.hex(),
        "params": got.epoch.params_bytes.hex(),
        "reader": got.reader,
        "names": [list(one) for one in got.names],
    }


def _any_array(data: bytes) -> Any:
    """Of any structure: the codec looks at the form, and whoever calls it at the types."""
    return [_any_field(one) for one in codec.unpack(data, longest=1_024)]


def _any_field(value: Any) -> Any:
    if type(value) is list:
        return [_any_field(one) for one in value]
    if value is None or type(value) in (bool, bytes):
        return value
    return codec.ascii_text(value) if type(value) is str else codec.unsigned(value)


STRUCTURES: Final[dict[str, Callable[[bytes], Any]]] = {
    "array": _any_array,
    "header": header.parse,
    "envelope": envelope.split,
    "plaintext": envelope.split_plaintext,
    "body": records.parse,
    "params": Params.parse,
    "grant": GrantBody.parse,
    "session": SessionBody.parse,
    "inbox": InboxBody.parse,
    "session_certificate": SessionCertificate.parse,
    "inbox_certificate": InboxCertificate.parse,
    "papers": Papers.parse,
    "statement_body": lambda data: statements.parse_body(data, signer=None, raw=data),  # type: ignore[arg-type]  # nobody asks for it
    "bundle_body": lambda data: bundles.parse_body(data, raw=data),
    "hello_a": HelloA.parse,
    "hello_b": HelloB.parse,
    "audit": AuditRecord.parse,
}


def read_encoding(case: dict[str, Any]) -> Any:
    """What parses is shown field by field: the parser's own value is compared with these bytes elsewhere (tests/fuzz)."""
    data = bytes.fromhex(case["bytes"])
    STRUCTURES[case["structure"]](data)
    return _shown(msgpack.unpackb(data))


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return {"text": value}
    return [_shown(one) for one in value] if isinstance(value, list) else value


def read_sealing(case: dict[str, Any]) -> dict[str, Any]:
    name = case["world"]
    facts: dict[str, Any] = {"snapshot": snapshot(name), "now_ms": case["now_ms"]}
    params, members = Params.parse(bytes.fromhex(case["params"])), {(who, generation) for who, generation in case["members"]}
    if "papers" in case:
        return {"key_id": session_key(_believed(name, case["papers"]), params, members, **facts).id.hex()}
    verifier = Verifier(**pinned(world(name)))
    found = believe_inbox(bytes.fromhex(case["inbox"]), bytes.fromhex(case["identity"]), verifier, now_ms=0)
    return {"key_id": inbox_key(found, params, members, highest=case["highest_counter"], **facts).id.hex()}


def read_root(case: dict[str, Any]) -> dict[str, Any]:
    found = Root.of(bytes.fromhex(case["bytes"]))
    return {"subject": found.subject.hex(), "key_id": found.ski.hex()}


def read_certificate(case: dict[str, Any]) -> dict[str, Any]:
    facts = pinned(world(case["world"]))
    found = certificates.read(
        bytes.fromhex(case["bytes"]), root=facts["root"], domain=facts["domain"], profile=Profile[case["profile"].upper()]
    )
    shown = {name: getattr(found, name) for name in ("name", "origin", "level", "not_before_ms", "not_after_ms")}
    return {**shown, "suite": found.suite.number, "serial": f"{found.serial:x}", "signer": found.signer.hex()}


def read_crl(case: dict[str, Any]) -> dict[str, Any]:
    found = revocations.read(bytes.fromhex(case["bytes"]), root=pinned(world(case["world"]))["root"])
    return {
        "number": found.number,
        "this_update_ms": found.this_update_ms,
        "next_update_ms": found.next_update_ms,
        "revoked": [
            {"serial": f"{serial:x}", "date_ms": one.date_ms, "reason": one.reason.value} for serial, one in found.revoked.items()
        ],
    }


def highest(of: dict[str, Any]) -> Highest:
    return Highest(
        *(bytes.fromhex(value) if isinstance(value, str) else value for value in map(of["highest"].get, Highest._fields))
    )


def read_statement(case: dict[str, Any]) -> dict[str, Any]:
    of = world(case["world"])
    facts = pinned(of)
    found = statements.read(bytes.fromhex(case["bytes"]), **facts)
    advance(highest(of), found)
    crl = revocations.read(bytes.fromhex(case.get("crl", of["crl"])), root=facts["root"])
    TrustView(facts["root"], of["domain"], found, crl)
    numbers = ("number", "issued_ms", "next_update_ms", "policy_version", "crl_number")
    digests = ("policy_digest", "crl_digest", "digest", "body_digest")
    return {
        **{name: getattr(found, name) for name in numbers},
        **{name: getattr(found, name).hex() for name in digests},
        "agents": [[name, *standing] for name, standing in found.agents.items()],
        "ml_dsa": [[name, digest.hex()] for name, digest in found.ml_dsa.items()],
    }


def read_bundle(case: dict[str, Any]) -> dict[str, Any]:
    of = world(case["world"])
    found = bundles.read(bytes.fromhex(case["bytes"]), **pinned(of))
    advance_policy(highest(of), found)
    files = [[path, data.hex()] for path, data in found.files.items()]
    return {"version": found.version, "made_ms": found.made_ms, "files": files, "digest": found.digest.hex()}


def read_papers(case: dict[str, Any]) -> dict[str, Any]:
    found = believe(bytes.fromhex(case["bytes"]), Verifier(**pinned(world(case["world"]))), now_ms=0)
    return {"session": found.id.hex(), "name": found.name}


def read_inbox(case: dict[str, Any]) -> dict[str, Any]:
    verifier = Verifier(**pinned(world(case["world"])))
    found = believe_inbox(bytes.fromhex(case["bytes"]), bytes.fromhex(case["identity"]), verifier, now_ms=0).inbox.body
    return {"name": found.name, "counter": found.counter, "key_id": found.key_id.hex()}


READERS: Final = {
    "encoding": read_encoding,
    "envelope": read_envelope,
    "grant": read_grant,
    "sealing": read_sealing,
    "root": read_root,
    "certificate": read_certificate,
    "crl": read_crl,
    "statement": read_statement,
    "bundle": read_bundle,
    "papers": read_papers,
    "inbox": read_inbox,
    **product_values.READERS,
}

"""Part 11: what this reader makes of one case, as `result`; a refusal goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import (
    bundle,
    crl,
    derivations,
    digests,
    grant,
    kem_keys,
    papers,
    receive,
    root,
    sealing,
    statement,
    structures,
    suites,
    tree,
)
from .identity import read_certificate
from .refusal import demand
from .vectors import Vectors

Case = dict[str, Any]
ORIGINS = ("software", "software-tpm", "hardware")


def _encoding(v: Vectors, case: Case) -> Any:
    return structures.meaning(case["structure"], v.bytes(case["bytes"]))


def _derivation(v: Vectors, case: Case) -> Any:
    return derivations.derived(case["what"], case["inputs"], v.bytes)


def _signature(v: Vectors, case: Case) -> bool:
    key, tbs, signature = (v.bytes(case[name]) for name in ("key", "tbs", "signature"))
    if case["suite"] == 0:
        demand(suites.ml_dsa(key, tbs, signature), "bad_proof")
    else:
        suites.verify(case["suite"], key, tbs, signature)
    return True


def _tree(v: Vectors, case: Case) -> Any:
    top, paths = tree.grow(case["suite"], list(map(v.bytes, case["leaves"])))
    return {"root": top.hex(), "paths": [path.hex() for path in paths]}


def _path(v: Vectors, case: Case) -> str:
    return tree.climb(case["suite"], v.bytes(case["leaf"]), case["n"], case["index"], v.bytes(case["path"])).hex()


def _hpke(v: Vectors, case: Case) -> str:
    kem, private = case["kem"], v.bytes(case["private"])
    public = kem_keys.check_public(kem, kem_keys.public_of(kem, private))
    demand(public == v.bytes(case["public"]), "another public key")
    demand(digests.key_id(kem, public) == v.bytes(case["key_id"]), "another key id")
    return kem_keys.open_sealed(kem, private, v.bytes(case["sealed"]), v.bytes(case["info"])).hex()


def _root(v: Vectors, case: Case) -> Any:
    read = root.read_root(v.bytes(case["bytes"]))
    return {"subject": read.subject.hex(), "key_id": read.key_id.hex()}


def serial(number: int) -> str:
    return f"{number:x}"


def _certificate(v: Vectors, case: Case) -> Any:
    world = v.world(case["world"])
    read = read_certificate(v.bytes(case["bytes"]), case["profile"], world.root, world.domain)
    same = ("name", "suite", "level", "not_before_ms", "not_after_ms")
    said = {name: getattr(read, name) for name in same}
    return said | {"origin": ORIGINS[read.origin], "serial": serial(read.serial), "signer": read.signer.hex()}


def _crl(v: Vectors, case: Case) -> Any:
    read = crl.read_crl(v.bytes(case["bytes"]), v.world(case["world"]).root)
    entries = [{"serial": serial(one.serial), "date_ms": one.date_ms, "reason": one.reason} for one in read.entries]
    same = ("number", "this_update_ms", "next_update_ms")
    return {name: getattr(read, name) for name in same} | {"revoked": entries}


def _statement(v: Vectors, case: Case) -> Any:
    world = v.world(case["world"])
    read = statement.verified(v.bytes(case["bytes"]), world.root, world.domain, world.ml_dsa_root)
    in_hand = v.bytes(case["crl"]) if "crl" in case else world.crl_bytes
    statement.accept(read, world.highest, crl.read_crl(in_hand, world.root), digests.sha256(in_hand))
    body = read.body
    same = ("number", "issued_ms", "next_update_ms", "policy_version", "crl_number", "agents")
    return {name: getattr(body, name) for name in same} | {
        "policy_digest": body.policy_digest.hex(),
        "crl_digest": body.crl_digest.hex(),
        "ml_dsa": [[name, digest.hex()] for name, digest in body.ml_dsa],
        "digest": read.digest.hex(),
        "body_digest": read.body_digest.hex(),
    }


def _bundle(v: Vectors, case: Case) -> Any:
    world = v.world(case["world"])
    read = bundle.verified(v.bytes(case["bytes"]), world.root, world.domain, world.ml_dsa_root)
    bundle.accept(read, world.highest)
    files = [[path, content.hex()] for path, content in read.files]
    return {"version": read.version, "made_ms": read.made_ms, "files": files, "digest": read.digest.hex()}


def _papers(v: Vectors, case: Case) -> Any:
    world = v.world(case["world"])
    read = papers.believed(v.bytes(case["bytes"]), world.root, world.domain)
    return {"session": read.session.id.hex(), "name": read.session.name}


def _inbox(v: Vectors, case: Case) -> Any:
    world = v.world(case["world"])
    read = papers.believed_inbox(v.bytes(case["bytes"]), v.bytes(case["identity"]), world.root, world.domain).body
    return {"name": read.name, "counter": read.counter, "key_id": digests.key_id(read.kem, read.kem_key).hex()}


def granted(v: Vectors, case: Case) -> grant.Granted:
    return grant.open_grant(v.world(case["world"]), v.bytes(case["bytes"]), case["now_ms"])


def _grant(v: Vectors, case: Case) -> Any:
    read = granted(v, case)
    body = read.body
    same = {"reader": body.reader, "names": body.names}
    return same | {"epoch": read.header.epoch.hex(), "secret": body.secret.hex(), "params": body.params.hex()}


def opened(v: Vectors, case: Case) -> receive.Opened:
    return receive.open_envelope(v.world(case["world"]), v.bytes(case["bytes"]), case["now_ms"], dead=case.get("dead", False))


def _envelope(v: Vectors, case: Case) -> Any:
    read = opened(v, case)
    if read.all_finished or read.proof is None:
        return {"records": []}
    records = [{"index": one.index, "kind": one.kind, "payload": one.payload.hex(), "headers": one.headers} for one in read.records]
    by = "session" if read.proof.suite == 1 else "identity"
    return {"sender": read.header.sender, "topic": read.header.topic, "signed_by": by, "records": records}


def _sealing(v: Vectors, case: Case) -> Any:
    world = v.world(case["world"])
    reader: papers.Papers | papers.Inbox
    if "papers" in case:
        reader = papers.believed(v.bytes(case["papers"]), world.root, world.domain)
    else:
        reader = papers.believed_inbox(v.bytes(case["inbox"]), v.bytes(case["identity"]), world.root, world.domain)
    counter = case.get("highest_counter", 0)
    params, members = v.bytes(case["params"]), case["members"]
    key = sealing.key_for(world, case["now_ms"], params, reader, members=members, highest_counter=counter)
    return {"key_id": key.hex()}


JUDGE: dict[str, Callable[[Vectors, Case], Any]] = {
    "encoding": _encoding,
    "derivation": _derivation,
    "signature": _signature,
    "tree": _tree,
    "path": _path,
    "hpke": _hpke,
    "root": _root,
    "certificate": _certificate,
    "crl": _crl,
    "statement": _statement,
    "bundle": _bundle,
    "papers": _papers,
    "inbox": _inbox,
    "grant": _grant,
    "envelope": _envelope,
    "sealing": _sealing,
}

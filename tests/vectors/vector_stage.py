"""What the vectors play on: an authority, a fleet, and the worlds that readers have; bytes stay bytes until all is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent / "trust"))
sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))

import small_world
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from small_authority import DAY, HOUR, NOW, SmallAuthority
from small_world import MINUTE, Agent, Identity, World
from vector_keys import Chance, ec_key, identity_key, rsa_key

from bus.identity.envelopes.seal import Outgoing
from bus.identity.host.host_keys import HostKeys
from bus.identity.ml_dsa import CosigningKey
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import SealingEpoch
from bus.protocol.kem import PrivateKey
from bus.protocol.papers import InboxBody, InboxCertificate, content
from bus.protocol.proof import leaf
from bus.protocol.suites import BY_NUMBER, Suite
from bus.trust import bundle as bundles
from bus.trust.revocations import Revocation

DOMAIN: Final = "vectors.invalid"
chance = Chance("fleet")
small_world.os = chance  # its random bytes
small_world.key_of = lambda name, suite, number=0: identity_key(f"{name} {suite} {number}", suite.kind)

POLICY: Final = """\
version: 1
domain: vectors.invalid
agents: {DIRECTOR: command, DEPUTY: command, BUILDER: worker, TESTER: worker, MONITOR: monitor, GUEST: guest, SOFT: guest}
roles:
  command:
    key: rsa3072/sha3-384
    inbox: hybrid
    publish: ["control.>", "tasks.>", "work.>", "secret.>", "ask.>"]
    subscribe: ["results.>", "answers.>", "tasks.>"]
  worker:
    key: ecc384/sha3-256
    publish: ["results.>", "answers.>"]
    subscribe: ["control.>", "tasks.>", "work.>", "ask.>", "secret.>"]
  monitor:
    key: ecc256/sha256
    inbox: hybrid
    publish: ["results.>"]
    subscribe: [">"]
  guest:
    key: ecc256/sha256
    key_origin: software
    subscribe: ["tasks.>"]
topics:
  - {match: control.>, signed_by: identity, priority: critical}
  - {match: control.sealed.>, signed_by: identity, priority: critical, cosign: ml-dsa-65}
  - {match: secret.>, kem: hybrid, aead: xchacha20-poly1305}
  - {match: tasks.>, priority: normal, priorities: [normal, bulk]}
  - {match: work.>, class: durable, retention: 1d, dead_readers: [MONITOR]}
audit_readers: [MONITOR]
"""
Document = list[dict[str, Any]]


def ml_dsa_key(seed: str) -> CosigningKey:
    return CosigningKey.from_seed(Chance(f"ml-dsa {seed}")(32))


@dataclass(eq=False)
class Authority(SmallAuthority):
    """`cosigned`: it has an ML-DSA root key too."""

    cosigned: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        body = bundles.body_bytes(domain=self.domain, version=2, made_ms=NOW - DAY, files={"policy.yaml": POLICY.encode()})
        self.policy_bundle = self.read_bundle(self.sealed_bundle(body))

    def body(self, **changes: Any) -> bytes:
        found = self.policy_bundle
        return super().body(**({"policy": (found.version, found.digest), "agents": {}, "ml_dsa": {}} | changes))

    def sealed_statement(self, body: bytes, **changes: bytes) -> bytes:
        return super().sealed_statement(body, **(self._plain() | changes))

    def sealed_bundle(self, body: bytes, **changes: bytes) -> bytes:
        return super().sealed_bundle(body, **(self._plain() | changes))

    def read(self, data: bytes, **changes: Any) -> Any:
        return super().read(data, **(self._pinned() | changes))

    def read_bundle(self, data: bytes, **changes: Any) -> Any:
        return super().read_bundle(data, **(self._pinned() | changes))

    def _plain(self) -> dict[str, bytes]:
        return {} if self.cosigned else {"cosignature": b""}

    def _pinned(self) -> dict[str, Any]:
        return {"ml_dsa_root": self.ml_dsa.public if self.cosigned else None}


class Fleet(World):
    """Who sends. `trust` makes the statement that the papers of sessions opened afterwards hold."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority, POLICY)
        self.verifier.ml_dsa_root = authority.ml_dsa.public if authority.cosigned else None


class Stage:
    """Where documents are gathered."""

    def __init__(self) -> None:
        keys = {"domain": DOMAIN, "root_key": rsa_key("root", 4_096), "trust_key": ec_key("trust", "ecc384")}
        self.authority = Authority(**keys, ml_dsa=ml_dsa_key("root"))
        self.fleet = Fleet(self.authority)
        self.cosigning = Authority(**keys, ml_dsa=ml_dsa_key("root"), cosigned=True)
        self.documents: dict[str, tuple[str, Document]] = {}
        self.worlds: dict[str, dict[str, Any]] = {}
        self.names: dict[bytes, str] = {}
        self._numbers = 100
        self.now = self.fleet.now

    # ---- documents ---------------------------------------------------------------------------------------------------------

    def add(self, document: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        cases = self.documents.setdefault(document, (kind, []))[1]
        if any(case["name"] == name for case in cases):
            raise ValueError(f"{document} has {name!r} already")
        case = {"name": name, **fields}
        cases.append(case)
        return case

    def called(self, name: str, data: bytes) -> bytes:
        """The same bytes, which are written once, by this name."""
        self.names[data] = name
        return data

    # ---- worlds ------------------------------------------------------------------------------------------------------------

    def world(self, name: str, *, like: str | None = None, **fields: Any) -> str:
        self.worlds[name] = {"name": name, **({"like": like} if like else {}), **fields}
        return name

    def trust(
        self,
        *,
        authority: Authority | None = None,
        revoked: Mapping[int, Revocation] | None = None,
        agents: Mapping[str, tuple[int, int]] | None = None,
        ml_dsa: Mapping[str, bytes] | None = None,
        **changes: Any,
    ) -> dict[str, bytes]:
        """A statement, CRL and bundle of a reader."""
        authority = authority or self.authority
        self._numbers += 1
        crl = authority.revocations(self._numbers, revoked)
        facts = {
            "number": self._numbers,
            "issued_ms": self.now,
            "next_update_ms": self.now + HOUR,
            "crl": (crl.number, crl.digest),
            "agents": agents or {},
            "ml_dsa": ml_dsa or {},
        }
        statement = authority.statement_bytes(**(facts | changes))
        return {"statement": statement, "crl": crl.der, "bundle": authority.policy_bundle.raw}

    def known(self, epoch: SealingEpoch, *worlds: str) -> SealingEpoch:
        """These readers have this epoch."""
        for world in worlds:
            self.worlds[world].setdefault("epochs", []).append(epoch_of(epoch))
        return epoch

    def papers_of(self, *agents: Agent, worlds: Sequence[str]) -> None:
        for agent in agents:
            for world in worlds:
                found = self.worlds[world].setdefault("papers", [])
                if agent.papers not in found:
                    found.append(agent.papers)

    def inbox(self, by: Identity, key: PrivateKey, **changes: Any) -> bytes:
        facts = {
            "domain": DOMAIN,
            "name": by.name,
            "identity": by.certificate.signer,
            "counter": 3,
            "kem": key.kem,
            "kem_key": key.public,
            "not_before_ms": self.now,
            "not_after_ms": self.now + 30 * DAY,
        }
        purpose = changes.pop("purpose", Purpose.INBOX)
        proved = changes.pop("proof", {})
        body, blind = InboxBody(**(facts | changes)).encode(), chance(16)
        digest = content(purpose, body, blind=blind, suite=by.suite)
        return InboxCertificate(body, by.prove(purpose, [digest], [blind], **proved)[0]).encode()


def epoch_of(epoch: SealingEpoch) -> dict[str, bytes]:
    return {"secret": epoch.secret, "params": epoch.params_bytes, "id": epoch.id}


def pkcs8(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def seed_of(host: HostKeys) -> bytes:
    return bytes(host._signing[:32])


def made_with(data: bytes, epoch: SealingEpoch, signer: Any, purpose: int = 1) -> dict[str, Any]:
    """Everything between the plaintext and the bytes. `signer`: host keys or an identity."""
    header_bytes, sealed = envelopes.split(data)
    plaintext = epoch.opened.open(sealed, seq=headers.parse(header_bytes).seq, header=header_bytes)
    found = inner(header_bytes, plaintext, signer, purpose)
    return {"secret": epoch.secret, "params": epoch.params_bytes, "guard": sealed[: epoch.guard_bytes], **found}


def inner(header_bytes: bytes, plaintext: bytes, signer: Any, purpose: int = 1) -> dict[str, Any]:
    proof, body = envelopes.split_plaintext(plaintext)
    suite = BY_NUMBER[proof.suite]
    digest = envelopes.content(header_bytes, body, blind=proof.blind, hash_name=suite.hash)
    tbs = proof.tbs(Purpose(purpose), digest)
    return {
        "header": header_bytes,
        "body": body,
        "blind": proof.blind,
        "content": digest,
        "leaf": leaf(Purpose(purpose), digest, hash_name=suite.hash),
        "root": tbs[-suite.digest_bytes :],
        "tbs": tbs,
        "plaintext": plaintext,
        "signing_key": seed_of(signer) if isinstance(signer, HostKeys) else pkcs8(signer.key),
    }


class Inside:
    """A reader of an epoch: it has the key, and so seals whatever it likes under it."""

    def __init__(self, epoch: SealingEpoch) -> None:
        self.epoch = epoch

    def open(self, data: bytes) -> tuple[list[Any], list[Any], bytes]:
        """The fields of header and proof, and the body."""
        header_bytes, sealed = envelopes.split(data)
        header = headers.parse(header_bytes)
        proof, body = envelopes.split_plaintext(self.epoch.opened.open(sealed, seq=header.seq, header=header_bytes))
        return list(header), list(proof), body

    def seal(self, header: list[Any] | bytes, plaintext: bytes, *, seq: int = 0) -> bytes:
        packed = header if isinstance(header, bytes) else pack(header)
        number = seq if isinstance(header, bytes) else header[7]
        guard = chance(self.epoch.guard_bytes)
        nonce = guard + number.to_bytes(8, "big")
        return pack([packed, guard + self.epoch._cipher.encrypt(nonce, plaintext, packed)])


def sent(stage: Stage, sender: Agent, epoch: SealingEpoch, outgoing: Iterable[Outgoing], *, by: str, **changes: Any) -> list[bytes]:
    """`by` host or identity, as if policy did not care."""
    outgoing = list(outgoing)
    if by == "identity":
        return stage.fleet.send_by_identity(sender, epoch, *outgoing, **changes)
    from bus.identity.envelopes import seal

    return seal.seal_turn([epoch] * len(outgoing), outgoing, sender.host, random=chance(seal.RANDOM_BYTES * len(outgoing)))


__all__ = ["DAY", "DOMAIN", "HOUR", "MINUTE", "NOW", "Agent", "Fleet", "Identity", "Inside", "Stage", "Suite", "chance"]

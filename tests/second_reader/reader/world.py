"""What a reader has in its hands (part 11), made from the document of a world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import bundle, digests, kem_keys, papers, policy, root, statement
from .body import Params, read_params
from .crl import Crl, read_crl
from .replay import Ledger, Window

Bytes = Callable[[str], bytes]


@dataclass(frozen=True)
class Subscription:
    pattern: str
    durable: bool
    dead: bool


@dataclass(frozen=True)
class Request:
    id: bytes
    topic: str
    expires_ms: int
    sessions: list[bytes]


@dataclass(frozen=True)
class PrivateKey:
    agent: str
    kem: int
    private: bytes
    sessions: list[bytes]

    @property
    def id(self) -> bytes:
        return digests.key_id(self.kem, kem_keys.public_of(self.kem, self.private))


@dataclass(frozen=True)
class Epoch:
    secret: bytes
    params: Params
    params_bytes: bytes


@dataclass
class World:
    domain: str
    root: root.Root
    ml_dsa_root: bytes
    statement: statement.Statement
    crl: Crl
    crl_bytes: bytes
    policy: policy.Policy
    highest: statement.Highest
    agent: str
    began_ms: int
    subscriptions: list[Subscription]
    requests: list[Request]
    keys: list[PrivateKey]
    papers: dict[bytes, papers.Papers]
    epochs: dict[bytes, Epoch]
    windows: dict[bytes, tuple[str, Window]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def now(self, clock_ms: int) -> int:
        """Never before an instant that is known to have passed."""
        return max(clock_ms, self.statement.body.issued_ms)

    def takes_another(self, sender: str, kept: list[tuple[str, bool]], *, durable: bool) -> bool:
        """An epoch, or a window, of that class; `kept` has (sender, durable) of each that there is."""
        most = max(4_096, 16 * len(self.policy.agents)) * (4 if durable else 1)
        of_class = [who for who, class_ in kept if class_ == durable]
        return of_class.count(sender) < (1_024 if durable else 64) and len(of_class) < most


def build(said: dict[str, Any], to_bytes: Bytes) -> World:
    """`said` has every field; what it takes from another world was put in before."""
    b = to_bytes
    pinned, domain, ml_dsa_root = root.read_root(b(said["root"])), said["domain"], b(said["ml_dsa_root"])
    believed = [papers.believed(b(one), pinned, domain) for one in said["papers"]]
    ledger = Ledger(said["ledger_full"])
    for one in said["finished"]:
        ledger.finish(b(one["epoch"]), one["seq"], one["records"], one["of"])
    return World(
        domain,
        pinned,
        ml_dsa_root,
        statement.verified(b(said["statement"]), pinned, domain, ml_dsa_root),
        read_crl(b(said["crl"]), pinned),
        b(said["crl"]),
        policy.read_policy(bundle.verified(b(said["bundle"]), pinned, domain, ml_dsa_root).files),
        statement.Highest(**{name: b(value) if isinstance(value, str) else value for name, value in said["highest"].items()}),
        said["agent"],
        said["began_ms"],
        [Subscription(**one) for one in said["subscriptions"]],
        [Request(b(r["id"]), r["topic"], r["expires_ms"], list(map(b, r["sessions"]))) for r in said["requests"]],
        [PrivateKey(k["agent"], k["kem"], b(k["private"]), list(map(b, k["sessions"]))) for k in said["keys"]],
        {one.session.id: one for one in believed},
        {b(e["id"]): Epoch(b(e["secret"]), read_params(b(e["params"])), b(e["params"])) for e in said["epochs"]},
        {b(w["epoch"]): (w["sender"], Window.of(w["seqs"])) for w in said["windows"]},
        ledger,
    )

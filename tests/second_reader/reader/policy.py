"""Part 7, "What policy says": the files of a bundle, and the questions that a reader asks them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from .names import AGENT, matches, rank

ORIGINS = {"software": 0, "software-tpm": 1, "hardware": 2}
PRIORITIES = {"critical": 1, "high": 2, "normal": 3, "bulk": 4}
KEMS = {"x25519": 1, "hybrid": 2}
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    number, unit = re.fullmatch(r"([0-9]+)(ms|s|m|h|d)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS_MS[unit]


@dataclass(frozen=True)
class Rule:
    durable: bool = False
    priorities: frozenset[int] = frozenset({3})
    ttl_ms: int = 60_000
    identity: bool = False
    kem: int = 1
    cosign: bool = False
    dead_readers: tuple[str, ...] = ()


def _rule(said: dict[str, Any]) -> Rule:
    durable = said.get("class") == "durable"
    names = said.get("priorities") or [said.get("priority", "normal")]
    ttl = said.get("retention", "7d") if durable else said.get("ttl", "60s")
    return Rule(
        durable,
        frozenset(PRIORITIES[name] for name in names),
        duration_ms(ttl),
        said.get("signed_by") == "identity",
        KEMS[said.get("kem", "x25519")],
        "cosign" in said,
        tuple(said.get("dead_readers") or ()),
    )


@dataclass
class Policy:
    agents: dict[str, str] = field(default_factory=dict)
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    topics: list[dict[str, Any]] = field(default_factory=list)
    audit_readers: list[str] = field(default_factory=list)
    domain: str = "tpmbus.local"
    sample_rate: str = "0.01"

    def role(self, name: str) -> dict[str, Any] | None:
        role = self.agents.get(name) or (self.agents.get("*") if AGENT.fullmatch(name) else None)
        return self.roles.get(role) if role else None

    def may(self, name: str, action: str, topic: str) -> bool:
        """`action` is publish or subscribe."""
        role = self.role(name)
        if role is None or any(token.startswith("_") for token in topic.split(".")):
            return False
        denied = (role.get("deny") or {}).get(action) or ()
        if any(matches(pattern, topic) for pattern in denied):
            return False
        return any(matches(pattern, topic) for pattern in role.get(action) or ())

    def rule(self, topic: str) -> Rule:
        found = [said for said in self.topics if matches(said["match"], topic)]
        return _rule(min(found, key=lambda said: rank(said["match"]))) if found else Rule()

    def stands_for(self, words: Iterable[str], name: str) -> bool:
        """Whether a list of readers holds this agent, itself or by its role."""
        return name in self.agents and any(word in {name, self.agents[name]} for word in words)

    def demanded_origin(self, name: str) -> int:
        return ORIGINS[(self.role(name) or {}).get("key_origin", "software-tpm")]


def read_policy(files: list[list[Any]]) -> Policy:
    """Every *.yaml file adds up; a file that another names as its roster, and tests, are not read as policy."""
    read = {path: yaml.load(content, yaml.BaseLoader) for path, content in files if path.endswith(".yaml")}
    rosters = {_beside(path, said["agents"]) for path, said in read.items() if isinstance(said.get("agents"), str)}
    policy = Policy()
    for path, said in read.items():
        if path not in rosters and not path.endswith(".test.yaml"):
            _add(policy, said, path, read)
    return policy


def _beside(path: str, other: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), other))


def _add(policy: Policy, said: dict[str, Any], path: str, files: dict[str, Any]) -> None:
    agents = said.get("agents") or {}
    if isinstance(agents, str):
        roster = files[_beside(path, agents)]
        agents = roster.get("agents", roster)
    policy.agents.update(agents)
    policy.roles.update(said.get("roles") or {})
    policy.topics += said.get("topics") or []
    policy.audit_readers += said.get("audit_readers") or []
    policy.domain = said.get("domain", policy.domain)
    policy.sample_rate = (said.get("rollout") or {}).get("sample_rate", policy.sample_rate)

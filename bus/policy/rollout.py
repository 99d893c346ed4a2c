"""Which agents use the TPM, while a fleet moves to it step by step.

- A role whose `key_origin` is above `software` always uses the TPM, whatever percentage anybody names.
- Of the others, an agent uses it iff u32be(SHA-256(context, name)[:4]) * 100 < percent * 2^32: the same for ever for one name, and
  who is on at 30 is on at 60.
- The percentage is the signed policy's. The environment may only lower it, and only for roles that say `environment: allow`:
  whoever sets a process's environment cannot take a critical agent off the TPM, nor load the TPM with what policy keeps away.
- The sample rate is the signed policy's; the environment may only raise it.
- What the environment says wrongly is an error, also where it would decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from bus.errors import PolicyError, Problem
from bus.policy.model import SOFTWARE
from bus.policy.policy import Policy
from bus.protocol.contexts import ROLLOUT

PERCENT: Final = "TPM_ENABLE_PERCENT"
ENABLED: Final = "TPM_ENABLED"
SAMPLE_RATE: Final = "TPM_SAMPLE_RATE"

_SWITCH: Final = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the environment would like; None where it says nothing."""

    percent: int | None = None
    """With TPM_ENABLED=false, 0."""
    sample_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an agent uses the TPM, and what decided that."""

    agent: str
    uses_tpm: bool
    place: int
    """The percentage from which on this agent uses the TPM, 1 to 100."""
    policy_percent: int
    environment_wish: int | None
    decided_by: str
    """`key_origin`, `policy` or `environment`."""


def rollout(policy: Policy, agent: str, environ: Mapping[str, str]) -> Verdict:
    """The verdict on one agent. Raises NotPermittedError for an unknown agent, PolicyError for a malformed environment."""
    role = policy.role_of(agent)
    wish = wished(environ).percent
    settings = policy.rollout
    percent = settings.tpm_percent if settings.enabled else 0
    decided_by, effective = "policy", percent
    if role.key_origin != SOFTWARE:
        decided_by, effective = "key_origin", 100
    elif role.environment == "allow" and wish is not None and wish < percent:
        decided_by, effective = "environment", wish
    return Verdict(agent, is_on(agent, effective), place(agent), percent, wish, decided_by)


def sample_rate(policy: Policy, environ: Mapping[str, str]) -> float:
    """The part of messages that the identity key vouches for. Raises PolicyError for a malformed environment."""
    wish = wished(environ).sample_rate
    return max(policy.rollout.sample_rate, wish or 0.0)


def is_on(agent: str, percent: int) -> bool:
    return _number(agent) * 100 < percent << 32


def place(agent: str) -> int:
    """The smallest percentage at which the agent is on."""
    return (_number(agent) * 100 >> 32) + 1


def wished(environ: Mapping[str, str]) -> Wish:
    """Raises PolicyError with everything that is malformed."""
    problems: list[Problem] = []
    enabled, percent, rate = environ.get(ENABLED), environ.get(PERCENT), environ.get(SAMPLE_RATE)
    wish = None
    if percent is not None:
        if re.fullmatch(r"[0-9]{1,3}", percent, re.ASCII) and int(percent) <= 100:
            wish = int(percent)
        else:
            problems.append(_malformed(PERCENT, percent, "a whole number from 0 to 100"))
    if enabled is not None:
        if enabled.lower() not in _SWITCH:
            problems.append(_malformed(ENABLED, enabled, "true or false"))
        elif not _SWITCH[enabled.lower()]:
            wish = 0
    sampled = None
    if rate is not None:
        if re.fullmatch(r"0|1|[01]?\.[0-9]{1,18}|[01]\.", rate, re.ASCII) and float(rate) <= 1:
            sampled = float(rate)
        else:
            problems.append(_malformed(SAMPLE_RATE, rate, "a number from 0 to 1, such as 0.05"))
    if problems:
        raise PolicyError(problems)
    return Wish(wish, sampled)


def _number(agent: str) -> int:
    return int.from_bytes(sha256(ROLLOUT + agent.encode()).digest()[:4], "big")


def _malformed(name: str, value: str, expected: str) -> Problem:
    return Problem("environment", 1, 1, f"{name} is {value[:60]!r}; expected {expected}, or unset it")

"""Policy: texts -> Policy -> Decision. Pure but for `files`, which reads them."""

from __future__ import annotations

from bus.policy.decide import Decision
from bus.policy.files import open_policy
from bus.policy.loader import load
from bus.policy.model import Role, TopicRule, UidGrant
from bus.policy.policy import Policy
from bus.policy.rollout import Verdict, rollout

__all__ = ["Decision", "Policy", "Role", "TopicRule", "UidGrant", "Verdict", "load", "open_policy", "rollout"]

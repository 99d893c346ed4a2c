"""A draft -> Policy. Total: agents whose role is missing are left out, and the checks have said so."""

from __future__ import annotations

from bus.policy.draft import Draft, Entry
from bus.policy.kinds import OTHERS
from bus.policy.model import BUILT_IN, GroupGrant, Pattern, Role, RolloutSettings, UidGrant, topic_rule
from bus.policy.policy import Policy
from bus.policy.words import RoleWords
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES


def build(draft: Draft) -> Policy:
    roles = {name: _role(name, entry) for name, entry in draft.roles.items()}
    agents = {name: entry.words for name, entry in draft.agents.items() if entry.words in roles}
    rollout = draft.setting("rollout")
    place = draft.settings["rollout"].place if "rollout" in draft.settings else BUILT_IN
    return Policy(
        domain=draft.setting("domain"),
        others=agents.pop(OTHERS, None),
        agents=agents,
        roles=roles,
        topics=tuple(topic_rule(entry.words, entry.at("match")) for entry in draft.topics.values()),
        rollout=RolloutSettings(rollout.tpm_percent, rollout.enabled, float(rollout.sample_rate), place),
        trust_max_age_ms=draft.setting("trust").max_age,
        primary_handle=draft.setting("tpm").handle,
        audit_readers=tuple(draft.setting("audit_readers")),
        files=tuple(draft.files),
    )


def _role(name: str, entry: Entry[RoleWords]) -> Role:
    words = entry.words
    return Role(
        name=name,
        suite=IDENTITY_SUITES[words.key],
        publish=_patterns(entry, words.publish, "publish"),
        subscribe=_patterns(entry, words.subscribe, "subscribe"),
        deny_publish=_patterns(entry, words.deny.publish, "deny", "publish"),
        deny_subscribe=_patterns(entry, words.deny.subscribe, "deny", "subscribe"),
        groups=tuple(
            GroupGrant(grant.group, _patterns(entry, grant.topics, "groups", number, "topics"))
            for number, grant in enumerate(words.groups)
        ),
        uids=tuple(UidGrant(grant.uid, frozenset(Purpose[purpose.upper()] for purpose in grant.purposes)) for grant in words.uids),
        key_origin=words.key_origin,
        session_ms=words.session,
        inbox=words.inbox,
        environment=words.environment,
        may=frozenset(words.may),
        pcrs=tuple(words.pcrs),
        place=entry.place,
    )


def _patterns(entry: Entry[RoleWords], texts: list[str], *path: str | int) -> tuple[Pattern, ...]:
    return tuple(Pattern(text, entry.at(*path, number)) for number, text in enumerate(texts))

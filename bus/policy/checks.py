"""What one part of a policy says about another: names that exist, and words that cannot stand together.

Each check takes the draft and gives the mistakes that it finds; a new one is a new function in `ERRORS` or `WARNINGS`. What
needs decisions (who could publish there?) is in `reach.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from bus.errors import Problem
from bus.policy.draft import Draft, Entry
from bus.policy.kinds import OTHERS
from bus.policy.model import SOFTWARE
from bus.policy.near import Hints
from bus.policy.words import RoleWords, TopicWords

_DURABLE_ONLY: Final = ("retention", "history", "dead_readers", "ack_wait", "max_deliver")


def errors(draft: Draft) -> list[Problem]:
    return list(chain.from_iterable(check(draft) for check in ERRORS))


def warnings(draft: Draft) -> list[Problem]:
    return list(chain.from_iterable(check(draft) for check in WARNINGS))


def agents_have_roles(draft: Draft) -> Iterator[Problem]:
    hint = Hints(draft.role_names)
    for name, entry in draft.agents.items():
        if draft.is_whole and entry.words not in draft.role_names:
            yield entry.at().problem(f"{name}: there is no role {entry.words!r}{hint(entry.words)}")


def readers_exist(draft: Draft) -> Iterator[Problem]:
    known = draft.role_names | set(draft.agents)
    hint = Hints(known)
    readers = [
        (entry.at("dead_readers", n), name) for entry in draft.topics.values() for n, name in enumerate(entry.words.dead_readers)
    ]
    audit = draft.settings.get("audit_readers")
    if audit is not None:
        readers += [(audit.at(number), name) for number, name in enumerate(audit.words)]
    for place, name in readers:
        if draft.is_whole and name not in known:
            yield place.problem(f"there is no role or agent {name!r}{hint(name)}")


def environment_needs_software_keys(draft: Draft) -> Iterator[Problem]:
    """Whoever sets a process's environment must not take a role off the TPM that its key origin demands."""
    for name, entry in draft.roles.items():
        if entry.words.environment == "allow" and entry.words.key_origin != SOFTWARE:
            message = (
                f"role {name!r}: 'environment: allow' is impossible with key_origin {entry.words.key_origin!r}, "
                "which needs the TPM; write 'key_origin: software' or 'environment: forbid'"
            )
            yield entry.at("environment").problem(message)


def others_share_no_keys(draft: Draft) -> Iterator[Problem]:
    """Else a line that leaves `agents:` would leave the key of its agent, which is still in the TPM, to these users."""
    others = draft.agents.get(OTHERS)
    role = None if others is None else draft.roles.get(others.words)
    if others is not None and role is not None and role.words.uids:
        message = (
            f"role {others.words!r} has 'uids' and is the role of '*' ({others.place}), so these users could sign with the key of "
            "any agent that is not listed; list the agents that they may use, with a role of their own, and remove 'uids' here"
        )
        yield role.key("uids").problem(message)


def grants_are_distinct(draft: Draft) -> Iterator[Problem]:
    for name, entry in draft.roles.items():
        for number in _repeated([grant.group for grant in entry.words.groups]):
            yield entry.at("groups", number).problem(f"role {name!r} lists the group {entry.words.groups[number].group!r} twice")
        for number in _repeated([grant.uid for grant in entry.words.uids]):
            yield entry.at("uids", number).problem(f"role {name!r} lists uid {entry.words.uids[number].uid} twice")


def live_topics_keep_nothing(draft: Draft) -> Iterator[Problem]:
    for match, entry in draft.topics.items():
        words = entry.words
        wrong = ("ttl",) if words.class_ == "durable" else _DURABLE_ONLY
        for key in wrong:
            if key in words.model_fields_set:
                reason = "a durable message lives as long as its retention" if key == "ttl" else "only durable topics keep messages"
                advice = "remove it" if key == "ttl" else "remove it or write 'class: durable'"
                yield entry.key(key).problem(f"{key!r} on the {words.class_} topic {match!r}: {reason}; {advice}")


def cosignatures_need_identities(draft: Draft) -> Iterator[Problem]:
    for match, entry in draft.topics.items():
        if entry.words.cosign and entry.words.signed_by != "identity":
            yield entry.key("cosign").problem(f"'cosign' on {match!r} needs 'signed_by: identity': session keys are not co-signed")


def priorities_agree(draft: Draft) -> Iterator[Problem]:
    for match, entry in draft.topics.items():
        words = entry.words
        if words.priorities is not None and words.priority not in words.priorities:
            written = "priority" in words.model_fields_set
            place = entry.key("priority" if written else "priorities")
            name = f"{words.priority!r}{'' if written else ' (the default)'}"
            yield place.problem(f"priority {name} of {match!r} is not in priorities: {', '.join(words.priorities)}")


def retention_is_written(draft: Draft) -> Iterator[Problem]:
    for match, entry in draft.topics.items():
        if entry.words.class_ == "durable" and "retention" not in entry.words.model_fields_set:
            yield entry.key("class").problem(f"{match!r} is durable without 'retention', so messages are kept 7d; write how long")


def roles_have_agents(draft: Draft) -> Iterator[Problem]:
    used = {entry.words for entry in draft.agents.values()}
    for name, entry in draft.roles.items():
        if draft.is_whole and draft.agents and name not in used:
            yield entry.place.problem(f"no agent has the role {name!r}")


def nothing_is_listed_twice(draft: Draft) -> Iterator[Problem]:
    for name, role in draft.roles.items():
        for path in _LISTS:
            yield from _listed_twice(role, path, f"role {name!r}")
    for match, rule in draft.topics.items():
        for path in (("priorities",), ("dead_readers",)):
            yield from _listed_twice(rule, path, f"the rule for {match!r}")


_LISTS: Final = (("publish",), ("subscribe",), ("deny", "publish"), ("deny", "subscribe"), ("may",), ("pcrs",))


def _listed_twice(entry: Entry[RoleWords] | Entry[TopicWords], path: tuple[str, ...], owner: str) -> Iterator[Problem]:
    items: object = entry.words
    for step in path:
        items = getattr(items, step)
    if isinstance(items, list):
        for number in _repeated(items):
            yield entry.at(*path, number).problem(f"{owner} lists {items[number]!r} twice in {'.'.join(path)}")


def _repeated(items: Sequence[object]) -> list[int]:
    """The places of what has stood before."""
    seen: set[object] = set()
    return [number for number, item in enumerate(items) if item in seen or seen.add(item)]  # type: ignore[func-returns-value]  # it gives None, which is what is wanted


Check = Callable[[Draft], Iterator[Problem]]
ERRORS: Final[tuple[Check, ...]] = (
    agents_have_roles,
    readers_exist,
    environment_needs_software_keys,
    others_share_no_keys,
    grants_are_distinct,
    live_topics_keep_nothing,
    cosignatures_need_identities,
    priorities_agree,
)
WARNINGS: Final[tuple[Check, ...]] = (retention_is_written, roles_have_agents, nothing_is_listed_twice)

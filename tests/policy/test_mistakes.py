"""Every kind of mistake: the text, and exactly where and what lint says. Line and column count from 1."""

from __future__ import annotations

import pytest

from bus.errors import PolicyError
from bus.policy import load
from bus.policy.loader import lint

ROLES = """version: 1
agents: {A: x}
roles:
  x:
    key: ecc256/sha3-256
"""
"""Five lines without a mistake; cases add to them."""


def found(text: str | bytes | dict[str, str]) -> list[str]:
    report = lint(text if isinstance(text, dict) else {"p.yaml": text})
    return [str(problem) for problem in report.problems]


MISTAKES = {
    # -- not YAML, or YAML that is not part of the language
    "nothing": ("", "1:1", "expected a mapping that begins with 'version: 1'"),
    "a comment only": ("# nothing\n", "1:1", "expected a mapping that begins with 'version: 1'"),
    "a list": ("- a\n", "1:1", "expected a mapping that begins with 'version: 1'"),
    "half a flow": ("version: 1\nagents: {A: x\n", "3:1", "is not YAML: did not find expected ',' or '}'"),
    "a tab": ("version: 1\nroles:\n\tx: 1\n", "3:1", "is not YAML: found character that cannot start"),
    "a bare star": ("version: 1\nagents:\n  *: x\n", "3:4", "is not YAML: did not find expected alphabetic"),
    "NUL": (b"version: 1\n\x00", "2:1", "has the invisible character U+0000, which no"),
    "an escaped NUL": ('version: 1\ndomain: "\\0"\n', "2:9", "has the character U+0000; write it on one line,"),
    "writing turned around": ("version: 1\ndomain: a\u202eb\n", "2:10", "has the invisible character U+202E, which no"),
    "not UTF-8": (b"version: 1\n# caf\xe9\n", "2:6", "is not UTF-8: byte 0xe9"),
    "a hidden line": (
        ROLES + "    # nobody publishes\r    publish: ['>']\n",
        "6:23",
        "has a carriage return (U+000D) without a line",
    ),
    "a no-break space": (ROLES + "    publish: [a]\u00a0\n", "6:17", "has the invisible character U+00A0, which no"),
    "an escape": (ROLES + '    publish: [b, "\\x63ontrol.>"]\n', "6:18", "has the escape '\\x'; write the character"),
    "an escape in a key": (ROLES + '    "\\x70ublish": [a]\n', "6:5", "has the escape '\\x'; write the character"),
    "an escaped line end": (ROLES + '    publish: ["contr\\\n      ol.>"]\n', "6:15", "has an escaped line end or tab; write"),
    "a number with zeros in front": (ROLES + "    uids: [0010]\n", "6:12", "is written '0010'; write a number"),
    "a number with a plus": (ROLES + "    uids: [{uid: +1001}]\n", "6:18", "is written '+1001'; write a number"),
    "a zero with a minus": (ROLES + "    uids: [-0]\n", "6:12", "is written '-0'; write a number"),
    "a decimal with zeros in front": ("version: 1\nrollout: {sample_rate: 00.5}\n", "2:24", "is written '00.5'; write a number"),
    "the YAML directive": ("# 1.1\n%YAML 1.1\n---\nversion: 1\n", "2:1", "directives ('%') are not allowed here;"),
    "the TAG directive": ("%TAG ! tag:x,2000:\n---\nversion: 1\n", "1:1", "directives ('%') are not allowed here;"),
    "an anchor": ("version: 1\nroles: &all {}\n", "2:8", "anchors and aliases ('&', '*') are not allowed"),
    "an alias": ("version: 1\nroles: *all\n", "2:8", "anchors and aliases ('&', '*') are not allowed"),
    "a merge key": (ROLES + "    <<: {session: 5m}\n", "6:5", "merge keys ('<<') are not allowed here; write"),
    "a tag": ("version: 1\ndomain: !!str a.b\n", "2:9", "tags ('!') are not allowed here; remove it"),
    "two documents": ("version: 1\n---\nversion: 1\n", "2:1", "begins a second document; a policy file holds"),
    "a list as a key": ("version: 1\n? [a]\n: 1\n", "2:3", "a key must be text"),
    "the same key twice": ("version: 1\ndomain: a.b\ndomain: c.d\n", "3:1", "the key 'domain' is already in line 2"),
    "the same agent twice": (
        "version: 1\nagents:\n  A: x\n  A: x\nroles: {x: {key: ecc256/sha256}}\n",
        "4:3",
        "the key 'A' is already in line 3",
    ),
    # -- words
    "no version": ("domain: a.b\n", "1:1", "the key 'version' is missing; begin the file"),
    "another version": ("version: 2\nnonsense: 1\n", "1:10", "version '2' is unknown; this program reads"),
    "a version in quotes": ('version: "1"\n', "1:10", "version '1' is unknown; this program reads"),
    "an unknown key": (ROLES + "    pubish: []\n", "6:5", "did you mean 'publish'?"),
    "an unknown key at the top": ("version: 1\nrols: {}\n", "2:1", "did you mean 'roles'?"),
    "an unknown key like nothing": ("version: 1\nzzzz: {}\n", "2:1", "unknown key 'zzzz'"),
    "an unknown key in a list": ("version: 1\ntopics:\n  - {match: a, clas: live}\n", "3:16", "did you mean 'class'?"),
    "an unknown key in deny": (ROLES + "    deny: {publsh: []}\n", "6:12", "did you mean 'publish'?"),
    "a missing key": ("version: 1\nroles:\n  x: {session: 5m}\n", "3:3", "the key 'key' is missing"),
    "a rule without match": ("version: 1\ntopics:\n  - {ttl: 5s}\n", "3:5", "the key 'match' is missing"),
    "a key without value": (ROLES + "    inbox:\n", "6:5", "'inbox' has no value; write one, or remove the"),
    "a word that is none": (ROLES + "    inbox: hybird\n", "6:12", "did you mean 'hybrid'?"),
    "a list where text is meant": ("version: 1\ndomain: [a]\n", "2:9", "expected text, found a list"),
    "text where a list is meant": (ROLES + '    publish: ">"\n', "6:14", "expected a list, found '>'"),
    "text where a mapping is meant": ("version: 1\nroles: x\n", "2:8", "expected a mapping, found 'x'"),
    "a number where text is meant": ("version: 1\ndomain: 42\n", "2:9", "expected text, found '42'; write it in quotes"),
    "yes where true is meant": ("version: 1\nrollout: {enabled: yes}\n", "2:20", "expected true or false, found 'yes'"),
    "text where a number is meant": ("version: 1\nrollout: {tpm_percent: half}\n", "2:24", "expected a whole number, found 'half'"),
    "too many percent": ("version: 1\nrollout: {tpm_percent: 101}\n", "2:24", "'101' is too large: at most 100"),
    "a bad agent name": (
        "version: 1\nagents: {director: x}\nroles: {x: {key: ecc256/sha256}}\n",
        "2:10",
        "'director' is no agent name: 1 to 32 of A-Z",
    ),
    "a bad role name": (
        "version: 1\nroles:\n  Big Role: {key: ecc256/sha256}\n",
        "3:3",
        "'Big Role' is no role name: it must match",
    ),
    "a bad group name": (ROLES + "    groups: [Builders]\n", "6:14", "'Builders' is no group name: it must match"),
    "a bad domain": ("version: 1\ndomain: Fleet\n", "2:9", "'Fleet' is no trust domain: it must match"),
    "a sexagesimal": (ROLES + "    session: 15:00\n", "6:14", "'15:00' is no duration; write a whole number"),
    "a duration without unit": (ROLES + "    session: 900\n", "6:14", "900 is no duration; write a whole number and"),
    "a session over 15m": (ROLES + "    session: 16m\n", "6:14", "16m is out of bounds: from 1m to 15m"),
    "trust too young": ("version: 1\ntrust: {max_age: 4m}\n", "2:18", "4m is out of bounds: from 5m to 7d"),
    "trust too old": ("version: 1\ntrust: {max_age: 8d}\n", "2:18", "8d is out of bounds: from 5m to 7d"),
    "a size that is none": (
        "version: 1\ntopics: [{match: a, max_bytes: 64KB}]\n",
        "2:32",
        "'64KB' is no size; write a whole number and one",
    ),
    "a record over an envelope": (
        "version: 1\ntopics: [{match: a, max_bytes: 1MiB}]\n",
        "2:32",
        "1MiB is out of bounds: from 1B to 1016KiB",
    ),
    "a handle of the platform": ("version: 1\ntpm: {handle: 0x81800000}\n", "2:15", "is too large: at most 0x817fffff"),
    "a register that is none": (ROLES + "    pcrs: [24]\n", "6:12", "'24' is too large: at most 23"),
    "an unknown purpose": (ROLES + "    uids: [{uid: 1, purposes: [sesion]}]\n", "6:32", "did you mean 'session'?"),
    "a user that is a name": (ROLES + "    uids: [root]\n", "6:12", "expected a mapping, found 'root'"),
    # -- suites
    "a suite nearly right": (ROLES.replace("ecc256/sha3-256", "rsa3072/sha3-38"), "5:10", "did you mean 'rsa3072/sha3-384'?"),
    "a smaller RSA key": (ROLES.replace("ecc256/sha3-256", "rsa2048/sha256"), "5:10", "did you mean 'rsa3072/sha256'?"),
    "an unknown hash": (ROLES.replace("ecc256/sha3-256", "ecc256/md5"), "5:10", "did you mean 'ecc256/sha256'?"),
    "the suite of hosts": (
        ROLES.replace("ecc256/sha3-256", "ed25519/sha256"),
        "5:10",
        "'ed25519/sha256' signs for hosts and is never",
    ),
    # -- patterns
    "a reserved token": (ROLES + "    publish: [_reply.>]\n", "6:15", "the pattern '_reply.>' uses the token '_reply':"),
    "a rest in the middle": (ROLES + "    publish: [a.>.b]\n", "6:15", "the pattern 'a.>.b' has '>' before its end"),
    "an empty token": (ROLES + "    subscribe: [a..b]\n", "6:17", "the pattern 'a..b' has the token '': a token is"),
    "a star inside a token": (ROLES + "    subscribe: [a.b*]\n", "6:17", "the pattern 'a.b*' has the token 'b*': a token"),
    "too many tokens": (ROLES + f"    subscribe: [{'.'.join('a' * 17)}]\n", "6:17", "has more than 16 tokens"),
    # -- what parts say about each other
    "an unknown role": (
        "version: 1\nagents:\n  A: comand\nroles: {command: {key: ecc256/sha256}}\n",
        "3:6",
        "did you mean 'command'?",
    ),
    "an unknown reader": (
        ROLES + "topics:\n  - {match: a, class: durable, retention: 1d, dead_readers: [B]}\n",
        "7:62",
        "there is no role or agent 'B'",
    ),
    "an unknown audit reader": (ROLES + "audit_readers: [X9]\n", "6:17", "there is no role or agent 'X9'"),
    "a roster that is not there": ("version: 1\nagents: ../agents/rooster.yaml\n", "2:9", "there is no roster file"),
    "an environment for TPM keys": (ROLES + "    environment: allow\n", "6:18", "role 'x': 'environment: allow' is impossible"),
    "users of everybody's keys": (
        "version: 1\nagents: {A: y, '*': x}\nroles:\n  x: {key: ecc256/sha256, uids: [1001]}\n  y: {key: ecc256/sha256}\n",
        "4:27",
        "role 'x' has 'uids' and is the role of '*' (p.yaml:2), so",
    ),
    "a user twice": (ROLES + "    uids: [1000, {uid: 1000}]\n", "6:18", "role 'x' lists uid 1000 twice"),
    "a group twice": (ROLES + "    groups: [a, {group: a}]\n", "6:17", "role 'x' lists the group 'a' twice"),
    "the same match twice": (
        "version: 1\ntopics:\n  - match: a.*\n  - match: a.*\n",
        "4:12",
        "a rule for 'a.*' is already in p.yaml:3",
    ),
    "kept for ever": (
        "version: 1\ntopics:\n  - {match: a, class: durable, retention: forever}\n",
        "3:43",
        "a durable topic needs a finite retention, such",
    ),
    "kept for no time": (
        "version: 1\ntopics:\n  - {match: a, class: durable, retention: 0s}\n",
        "3:43",
        "0s is out of bounds: from 1m to 366d",
    ),
    "a live topic that is kept": (
        "version: 1\ntopics:\n  - {match: a, retention: 7d}\n",
        "3:16",
        "'retention' on the live topic 'a': only durable",
    ),
    "a live topic with dead letters": (
        "version: 1\ntopics:\n  - {match: a, max_deliver: 7}\n",
        "3:16",
        "'max_deliver' on the live topic 'a': only",
    ),
    "a durable topic with a ttl": (
        "version: 1\ntopics:\n  - {match: a, class: durable, retention: 7d, ttl: 5s}\n",
        "3:47",
        "'ttl' on the durable topic 'a': a durable",
    ),
    "a co-signed session": (
        "version: 1\ntopics:\n  - {match: a, cosign: ml-dsa-65}\n",
        "3:16",
        "'cosign' on 'a' needs 'signed_by: identity':",
    ),
    "a priority that is not offered": (
        "version: 1\ntopics:\n  - {match: a, priority: high, priorities: [bulk]}\n",
        "3:16",
        "priority 'high' of 'a' is not in priorities:",
    ),
    "a default that is not offered": (
        "version: 1\ntopics:\n  - {match: a, priorities: [bulk]}\n",
        "3:16",
        "priority 'normal' (the default) of 'a' is not",
    ),
    "the protocol's own priority": (
        "version: 1\ntopics:\n  - {match: a, priority: control}\n",
        "3:26",
        "'control' is none of critical, high, normal,",
    ),
    "a weak key on a critical topic": (
        ROLES.replace("sha3-", "sha") + "    publish: [control.>]\ntopics:\n  - {match: control.*, signed_by: identity}\n",
        "6:15",
        "role 'x' (ecc256/sha256) may publish",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_at_its_place_and_named(name):
    """What lint says is its product, so the part that tells one mistake from another is tested as well."""
    text, place, said = MISTAKES[name]
    (problem,) = lint({"p.yaml": text}).problems
    assert f"{problem.line}:{problem.column}" == place
    assert said in problem.message


@pytest.mark.parametrize("name", MISTAKES)
def test_load_raises_what_lint_finds(name):
    texts = {"p.yaml": MISTAKES[name][0]}
    with pytest.raises(PolicyError) as caught:
        load(texts)
    assert caught.value.problems == lint(texts).problems


def test_the_text_that_cases_start_from_has_no_mistake():
    assert found(ROLES) == []


def test_all_mistakes_come_at_once():
    text = """version: 1
domian: a.b
agents:
  A: comand
  lower: command
roles:
  command:
    key: rsa2048/sha256
    publish: [_x, ok]
    sesion: 5m
  other:
    key: ecc256/sha256
    environment: allow
    publish: [control.>]
topics:
  - {match: control.>, signed_by: identity}
  - {match: control.>}
  - {match: a, cosign: ml-dsa-65, priority: urgent}
"""
    places = [(problem.line, problem.column) for problem in lint({"p.yaml": text}).problems]
    assert places == [(2, 1), (4, 6), (5, 3), (8, 10), (9, 15), (10, 5), (13, 18), (14, 15), (17, 13), (18, 16), (18, 45)]


def test_users_of_everybodys_keys_are_found_across_files():
    texts = {
        "p.yaml": "version: 1\nagents: r.yaml\nroles: {x: {key: ecc256/sha256, uids: [{uid: 7, purposes: [audit]}]}}\n",
        "r.yaml": "version: 1\nagents: {'*': x}\n",
    }
    (problem,) = found(texts)
    assert problem.startswith("p.yaml:3:33: role 'x' has 'uids'")


@pytest.mark.parametrize("agents", ["{A: x}", "{A: x, '*': y}"])
def test_users_of_keys_of_listed_agents_are_no_mistake(agents):
    assert (
        found(
            f"version: 1\nagents: {agents}\nroles: {{x: {{key: ecc256/sha256, uids: [7]}}, y: {{key: ecc256/sha256, uids: []}}}}\n"
        )
        == []
    )


def test_several_files_add_up():
    policy = load(
        {"a.yaml": "version: 1\nagents: {A: x}\n", "b.yaml": "version: 1\nroles: {x: {key: ecc256/sha256, publish: [a]}}\n"}
    )
    assert policy.decide("A", "publish", "a").file == "b.yaml"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("domain: a.b", "domain: a.b", "b.yaml:2:1: the key 'domain' is already in a.yaml:2"),
        ("rollout: {enabled: true}", "rollout: {tpm_percent: 3}", "b.yaml:2:1: the key 'rollout' is already in a.yaml:2"),
        ("agents: {A: x}", "agents: {A: x}", "b.yaml:2:10: the agent 'A' is already in a.yaml:2"),
        ("roles: {y: {key: ecc256/sha256}}", "roles: {y: {key: ecc256/sha256}}", "b.yaml:2:9: the role 'y' is already in a.yaml:2"),
        ("topics: [{match: a}]", "topics: [{match: a}]", "b.yaml:2:18: a rule for 'a' is already in a.yaml:2"),
    ],
)
def test_what_two_files_say_is_an_error_that_names_both(first, second, expected):
    roles = "version: 1\nroles: {x: {key: ecc256/sha256}}\n"
    texts = {"a.yaml": f"version: 1\n{first}\n", "b.yaml": f"version: 1\n{second}\n", "c.yaml": roles}
    assert found(texts) == [expected]


def test_a_file_that_cannot_be_read_does_not_make_the_others_wrong():
    """Its roles are unknown, so nobody is told that their role does not exist; what is certainly wrong is still said."""
    texts = {"a.yaml": "version: 1\nagents: {A: x, b: x}\n", "b.yaml": "version: 1\nroles: {x: [\n"}
    assert [problem.split(" ")[0] for problem in found(texts)] == ["a.yaml:2:16:", "b.yaml:3:1:"]


def test_a_role_that_is_written_wrong_still_exists():
    text = "version: 1\nagents: {A: x}\nroles:\n  x: {publish: [a]}\n"
    assert found(text) == ["p.yaml:4:3: roles.x: the key 'key' is missing"]


def test_a_roster_adds_agents_and_nothing_else():
    policy = {"p/a.yaml": "version: 1\nagents: ../r.yaml\nroles: {x: {key: ecc256/sha256}}\n"}
    assert dict(load({**policy, "r.yaml": "version: 1\nagents: {A: x}\n"}).agents) == {"A": "x"}
    problems = found({**policy, "r.yaml": "version: 1\nagents: {A: z}\nroles: {y: {key: ecc256/sha256}}\n"})
    assert problems == [
        "r.yaml:2:13: A: there is no role 'z'",
        "r.yaml:3:1: 'roles' in a roster file, which holds only 'version' and 'agents'",
    ]


def test_agents_of_a_roster_and_of_a_policy_are_held_against_each_other():
    texts = {
        "p.yaml": "version: 1\nagents: r.yaml\nroles: {x: {key: ecc256/sha256}}\n",
        "q.yaml": "version: 1\nagents: {A: x}\n",
        "r.yaml": "version: 1\nagents:\n  A: x\n",
    }
    assert found(texts) == ["r.yaml:3:3: the agent 'A' is already in q.yaml:2"]


@pytest.mark.parametrize("name", ["NO", "ON", "YES", "Y", "N", "OFF", "NULL", "TRUE", "FALSE", "E1"])
def test_names_that_older_yaml_takes_for_something_else_stay_names(name):
    roles = "roles: {no: {key: ecc256/sha256, publish: [on.off]}}\n"
    policy = load({"p.yaml": f"version: 1\nagents: {{{name}: no}}\naudit_readers: [{name}]\n{roles}"})
    assert policy.role_of(name).name == "no"
    assert policy.decide(name, "publish", "on.off").allowed
    assert policy.named(policy.audit_readers) == (name,)


def test_no_texts_are_no_policy():
    with pytest.raises(PolicyError) as caught:
        load({})
    assert "no policy files" in str(caught.value)


WARNINGS = {
    "durable without retention": ("topics:\n  - {match: a, class: durable}\n", "7:16"),
    "a role nobody has": ("  y: {key: ecc256/sha256}\n", "6:3"),
    "listed twice": ("    publish: [a, a]\n", "6:18"),
    "all of it denied": ("    publish: [a.b]\n    deny: {publish: [a.>]}\n", "6:15"),
    "a critical topic in a group": (
        "    subscribe: [a]\n    groups: [g]\ntopics:\n  - {match: a, signed_by: identity}\n",
        "9:13",
    ),
    "envelopes in a group": (
        "    subscribe: [a]\n    groups: [g]\ntopics:\n  - {match: a, class: durable, retention: 1d, unit: envelope}\n",
        "9:13",
    ),
    "a reader without a hybrid key": ("    subscribe: [a]\ntopics:\n  - {match: a, kem: hybrid}\n", "8:13"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_doubtful_is_a_warning_and_no_error(name):
    text, place = WARNINGS[name]
    report = lint({"p.yaml": ROLES + text})
    assert report.problems == ()
    assert [f"{warning.line}:{warning.column}" for warning in report.warnings] == [place]
    load({"p.yaml": ROLES + text})


def test_a_group_on_other_topics_is_no_warning_for_critical_ones():
    text = ROLES + "    subscribe: [a, b]\n    groups: [{group: g, topics: [b]}]\ntopics:\n  - {match: a, signed_by: identity}\n"
    assert lint({"p.yaml": text}).warnings == ()


@pytest.mark.parametrize(
    ("publish", "deny", "more", "is_error"),
    [
        ("[control.>]", "[]", "", True),
        ("[control.stop]", "[]", "", True),
        ('["*.stop"]', "[]", "", True),
        ("[tasks.>]", "[]", "", False),
        ("[control.>]", "[control.>]", "", False),
        ("[control.stop]", "[control.*]", "", False),
        ("[control.>]", "[control.*]", "", True),
        ("[control.>]", "[control.*, control.*.>]", "", False),
        ("[control.stop]", "[]", "  - {match: control.stop}\n", False),
        ("[control.>]", "[]", "  - {match: control.stop}\n", True),
        ('[">"]', "[]", "", True),
        ("[power.halt]", "[]", '  - {match: "*.halt", signed_by: identity}\n', True),
    ],
)
def test_the_sha3_rule_sees_what_is_really_possible(publish, deny, more, is_error):
    text = (
        f"version: 1\nroles:\n  x:\n    key: ecc256/sha256\n    publish: {publish}\n    deny: {{publish: {deny}}}\n"
        f"topics:\n  - {{match: control.>, signed_by: identity}}\n{more}"
    )
    assert bool(found(text)) is is_error

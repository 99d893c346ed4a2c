"""The policies and the roster that we ship, and that what is generated from the words is current."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from bus.policy import expectations, files, open_policy
from bus.policy.expectations import ExpectationWords
from bus.policy.kinds import PURPOSES
from bus.policy.loader import lint
from bus.policy.reference import markdown
from bus.policy.schema import DIALECT, json_schema
from bus.policy.source import read
from bus.policy.words import Document, UidWords

REPOSITORY = Path(__file__).parents[2]
POLICY_FILES = sorted(
    path
    for pattern in ("policies/**/*.yaml", "agents/*.yaml")
    for path in REPOSITORY.glob(pattern)
    if not files.is_expectations(path) and path.name != "mix.yaml"
)
FLEET = {
    "command": (4, "rsa3072/sha3-384"),
    "security": (12, "ecc384/sha3-384"),
    "architecture": (6, "ecc384/sha3-256"),
    "development": (10, "ecc256/sha256"),
    "language": (14, "ecc256/sha256"),
    "infrastructure": (8, "ecc256/sha3-256"),
    "data": (8, "ecc256/sha3-256"),
    "operations": (6, "ecc256/sha256"),
    "interface": (5, "ecc256/sha256"),
    "documentation": (3, "ecc256/sha256"),
}


@pytest.mark.parametrize("name", files.SHIPPED)
def test_a_shipped_policy_has_no_mistake_and_no_warning(name):
    report = lint(files.read(name))
    assert (report.problems, report.warnings) == ((), ())


def test_every_policy_file_belongs_to_a_shipped_policy():
    """Also in the wheel, where they lie inside the package."""
    shipped = {tuple(Path(path).parts[-2:]) for name in files.SHIPPED for path in files.read(name)}
    assert {path.parts[-2:] for path in POLICY_FILES} == shipped


@pytest.mark.parametrize("name", ["default", "tutorial"])
def test_a_shipped_policy_meets_its_expectations(name):
    outcome = expectations.run(open_policy(name), files.read_expectations(name))
    assert outcome.count > 5
    assert outcome.failures == []


def test_the_fleet_is_that_of_the_roster():
    policy = open_policy()
    assert len(policy.agents) == 76
    assert {role: (len(policy.members(role)), policy.roles[role].suite.name) for role in policy.roles} == FLEET


def test_the_first_example_works():
    policy = open_policy()
    assert policy.decide("DIRECTOR", "publish", "tasks.build").allowed
    assert policy.decide("MONITOR", "subscribe", "tasks.>").allowed
    rule = policy.topic_rule("tasks.build")
    assert (rule.class_, rule.unit, rule.signed_by) == ("live", "envelope", "session")
    assert (policy.topic_rule("work.build").class_, policy.topic_rule("work.build").unit) == ("durable", "record")


def test_critical_roles_are_never_taken_off_the_tpm_by_an_environment():
    policy = open_policy()
    publishers = {
        role.name
        for role in policy.roles.values()
        for rule in policy.topics
        if rule.needs_identity and policy.decide(policy.members(role.name)[0], "publish", rule.match.text.replace(">", "x")).allowed
    }
    assert publishers >= {"command", "security", "infrastructure"}
    assert {policy.roles[name].environment for name in publishers} == {"forbid"}
    assert "software" not in {policy.roles[name].key_origin for name in publishers}
    assert {role.name for role in policy.roles.values() if role.environment == "allow"} == {
        "language",
        "interface",
        "documentation",
    }


def test_minimal_is_for_any_name_and_everything_but_control():
    policy = open_policy("minimal")
    for action in ("publish", "subscribe"):
        assert policy.decide("BILLING", action, "invoices.paid").allowed
        assert not policy.decide("BILLING", action, "control.stop").allowed
    assert policy.with_agents({"BILLING": "agent"}).audience("invoices.paid") == ("BILLING",)


# ---- generated files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "model"), [("policy.schema.json", Document), ("expectations.schema.json", ExpectationWords)])
def test_the_committed_schema_is_current(file, model):
    """Make it again with `tpmbus policy schema > policies/policy.schema.json` (and `--expectations`)."""
    assert json.loads((REPOSITORY / "policies" / file).read_text()) == json_schema(model)


def test_the_committed_reference_is_current():
    """Make it again with `tpmbus policy schema --reference > docs/reference/policy.md`."""
    assert (REPOSITORY / "docs/reference/policy.md").read_text() == markdown()


# ---- the schema judges as the loader does ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == DIALECT
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", POLICY_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_files_are_valid_by_the_schema(path, validator):
    root, problems, _ = read(path.read_bytes(), file=path.name)
    assert not problems
    validator.validate(root.value())
    validator.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("policies/**/*.test.yaml")), ids=lambda path: path.name)
def test_shipped_expectations_are_valid_by_their_schema(path):
    jsonschema.Draft202012Validator(json_schema(ExpectationWords)).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "path", [*POLICY_FILES, *REPOSITORY.glob("policies/**/*.test.yaml")], ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_editors_find_the_schema_of_every_file(path):
    first = path.read_text().splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert first != schema
    assert (path.parent / schema).is_file()


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("version: 1", True),
        ("version: 2", False),
        ("version: 1\nrols: {}", False),
        ("version: 1\nagents: {A: x}", True),
        ("version: 1\nagents: ../r.yaml", True),
        ("version: 1\nagents: {a: x}", False),
        ("version: 1\nroles: {X: {key: ecc256/sha256}}", False),
        ("version: 1\nroles: {x: {key: rsa2048/sha256}}", False),
        (
            "version: 1\nroles: {x: {key: ecc256/sha256, uids: [1, {uid: 2}], groups: [g, {group: h, topics: [a]}]}}",
            True,
        ),
        ("version: 1\nroles: {x: {key: ecc256/sha256, publish: [a.>.b]}}", False),
        ("version: 1\nroles: {x: {key: ecc256/sha256, publish: [_a]}}", False),
        ("version: 1\nroles: {x: {key: ecc256/sha256, session: 5}}", False),
        ("version: 1\ntopics: [{match: a, unit: null}]", False),
        ("version: 1\ntopics: [{match: '*.>', class: durable, retention: 7d, history: all, max_bytes: 64KiB}]", True),
        ("version: 1\ntopics: [{match: a, history: sometimes}]", False),
        ("version: 1\naudit_readers: [security, LOGKEEPER]", True),
        ("version: 1\naudit_readers: [Security]", False),
    ],
)
def test_the_schema_and_the_loader_agree(text, valid, validator):
    assert validator.is_valid(yaml.safe_load(text)) is valid
    reference_free = {"p": text.replace("../r.yaml", "r")} | ({"r": "version: 1\n"} if "../r.yaml" in text else {})
    shape_problems = [problem for problem in lint(reference_free).problems if "there is no role" not in problem.message]
    assert (not shape_problems) is valid


def test_no_key_is_a_truth_value_to_older_yaml():
    """Other tools read these files too, and a key `on` is `true` to half of them."""
    schema = json_schema()
    for model in (schema, *schema["$defs"].values()):
        assert yaml.safe_load(f"[{', '.join(model['properties'])}]") == list(model["properties"])


def test_every_key_has_a_description_and_its_default_is_written_as_in_a_file():
    schema = json_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, words in model["properties"].items():
            assert words.get("description"), name
    topic = schema["$defs"]["TopicWords"]["properties"]
    assert (topic["ttl"]["default"], topic["max_bytes"]["default"], topic["history"]["default"]) == ("1m", "1016KiB", "entitled")
    assert "null" not in json.dumps(schema)


def test_the_purposes_are_those_of_the_protocol():
    assert tuple(json_schema(UidWords)["properties"]["purposes"]["items"]["enum"]) == PURPOSES


def test_expectations_of_the_default_policy_speak_of_every_role_and_critical_topic():
    texts = "".join(text.decode() for text in files.read_expectations("default").values())
    policy = open_policy()
    assert all(rule.match.text.split(".")[0] in texts for rule in policy.topics if rule.needs_identity)
    assert all(role in texts or any(name in texts for name in policy.members(role)) for role in policy.roles)

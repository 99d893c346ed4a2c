"""`tpmbus policy`: check, explain, compare, test and sign policy files.

Exit codes: 0 yes · 1 the answer is no (explain: refused; test: an expectation is not met; diff with --exit-code: they differ)
· 3 the policy is wrong · 4 policy does not know the agent; sign: the authority is in use · 5 sign: the TPM, the authority's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.authority import clock_option, passphrase_option
from bus.cli.completing import agent_names
from bus.cli.options import command
from bus.cli.output import EXIT_NO, Output

if TYPE_CHECKING:
    from bus.policy.decide import Action
    from bus.policy.explain import Explanation
    from bus.policy.model import TopicRule

EXIT_WRONG = 3
"""The policy is wrong."""


@click.group()
def policy() -> None:
    """Check, explain, compare, test and sign policy files.

    PATH is a policy file, a folder of them, or the name of a shipped policy: default, minimal, tutorial.
    """


@policy.command("lint")
@click.argument("path", required=False)
@command(policy=True)
def lint(*, path: str | None, policy: str | None, output: Output) -> int:
    """Say everything that is wrong with a policy, each with its line."""
    from bus.policy import files, loader

    texts = files.read(path or policy)
    report = loader.lint(texts)
    for problem in report.problems:
        output.line(f"{problem}")
    for warning in report.warnings:
        output.line(f"{warning} (warning)")
    found = report.policy
    counts = {"files": len(texts), "agents": len(found.agents), "roles": len(found.roles), "topics": len(found.topics)}
    output.line(
        f"{_count(report.problems, 'mistake')}, {_count(report.warnings, 'warning')} in {_count(texts, 'file')}: "
        f"{_count(found.agents, 'agent')}, {_count(found.roles, 'role')}, {_count(found.topics, 'topic rule')}"
    )
    output.document(
        {
            "ok": not report.problems,
            "problems": [problem._asdict() for problem in report.problems],
            "warnings": [warning._asdict() for warning in report.warnings],
            **counts,
        }
    )
    return EXIT_WRONG if report.problems else 0


@policy.command("explain")
@click.argument("agent", shell_complete=agent_names)
@click.argument("action", type=click.Choice(["publish", "subscribe"]))
@click.argument("topic")
@command(policy=True)
def explain(*, agent: str, action: Action, topic: str, policy: str | None, output: Output) -> int:
    """Say whether AGENT may do this on TOPIC, and which rule in which line decides it."""
    from bus.policy import open_policy
    from bus.policy.explain import explain as explained

    said = explained(open_policy(policy), agent, action, topic)
    for line in _explanation_lines(said):
        output.paragraph(line, indent=len("  audience    "))
    output.document(_explanation_document(said))
    return 0 if said.decision.allowed else EXIT_NO


@policy.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything changes.")
@command()
def diff(*, old: str, new: str, exit_code: bool, output: Output) -> int:
    """Say which agents gain and lose what between two policies, and how topics change."""
    from bus.cli.policy_diff import document, lines
    from bus.policy import open_policy
    from bus.policy.diff import diff as compared

    changes = compared(open_policy(old), open_policy(new))
    for line in lines(changes):
        output.line(line)
    output.document(document(changes))
    return EXIT_NO if exit_code and changes else 0


@policy.command("test")
@click.argument("path", required=False)
@command(policy=True)
def test(*, path: str | None, policy: str | None, output: Output) -> int:
    """Run the expectations (*.test.yaml) beside a policy."""
    from bus.policy import expectations, files, open_policy

    place = path or policy
    texts = files.read_expectations(place)
    outcome = expectations.run(open_policy(place), texts)
    for failure in outcome.failures:
        output.line(str(failure))
    output.line(f"{outcome.count} expectations in {_count(texts, 'file')}, {_count(outcome.failures, 'failure')}")
    if not outcome.count:
        output.note("nothing was tested: write expectations into a file *.test.yaml beside the policy")
    output.document(
        {
            "ok": bool(outcome.count) and not outcome.failures,
            "expectations": outcome.count,
            "failures": [failure._asdict() for failure in outcome.failures],
        }
    )
    return 0 if outcome.count and not outcome.failures else EXIT_NO


@policy.command("sign")
@click.argument("path", required=False)
@passphrase_option
@clock_option
@command(state=True, policy=True)
def sign(
    *,
    path: str | None,
    passphrase_file: Path | None,
    clock_is_right: bool,
    state: Path | None,
    policy: str | None,
    output: Output,
) -> None:
    """Sign a policy with the authority of the state folder, and say what changes. There is none yet: it is made.

    Everybody decides by the signed files, rosters included. What is signed already is not signed again. Where a hub
    runs, that one signs: PATH is then the policy that it was started with, or left out.
    """
    from bus.cli.policy_sign import sign as signed

    signed(path or policy, passphrase_file=passphrase_file, clock_is_right=clock_is_right, state=state, output=output)


@policy.command("reload")
@command(state=True)
def reload(*, state: Path | None, output: Output) -> None:
    """Have the running hub sign its policy's files as they are now, and act by them at once.

    Open subscriptions are judged again, and those end that are no longer allowed. What is wrong with the files is said here, and
    the old policy stays in force. It watches the files by itself as well; so does SIGHUP to `tpmbus run`.
    """
    from bus.cli.desk import ask

    changed = ask(state, "reload")
    status = ask(state, "status")
    version = status["policy_version"]
    if changed:
        output.line(
            f"Version {version} of the policy is in force: trust statement {status['trust_statement']} says so to everybody."
        )
    else:
        output.line(f"Nothing to sign: version {version} of the policy is in force, and it is what the files say.")
    output.document({"changed": changed, "policy_version": version, "statement": status["trust_statement"]})


@policy.command("schema")
@click.option("--expectations", is_flag=True, help="The schema of *.test.yaml files instead.")
@click.option("--reference", is_flag=True, help="All keys as a Markdown page instead.")
@command()
def schema(*, expectations: bool, reference: bool, output: Output) -> None:
    """Print the JSON Schema of policy files, for editors."""
    from bus.policy.expectations import ExpectationWords
    from bus.policy.reference import markdown
    from bus.policy.schema import json_schema
    from bus.policy.words import Document

    if reference:
        output.line(markdown().rstrip())
        output.document({"markdown": markdown()})
        return
    Output(json=True).document(json_schema(ExpectationWords if expectations else Document))


def _count(items: Any, what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _explanation_lines(said: Explanation) -> list[str]:
    decision, rule = said.decision, said.decision.topic_rule
    verdict = "may" if decision.allowed else "may not"
    lines = [
        f"{said.agent} {verdict} {decision.action} {decision.topic}",
        f"  decided by  {decision.rule}  ({decision.place})",
        f"  role        {said.role.name}  ({said.role.place})",
        f"  suite       {said.role.suite}, keys at least from {said.role.key_origin}",
    ]
    if not decision.allowed:
        return lines
    lines += [
        f"  topic rule  {rule.match}  ({rule.place})",
        f"  signed by   {rule.signed_by}{' key in the TPM' if rule.needs_identity else ' key'}",
        *_travel(rule),
    ]
    lines += [f"  except      {pattern}  ({pattern.place})" for pattern in said.denied_within]
    lines += [f"  also rule   {other.match}: {other.class_}, {other.signed_by}  ({other.place})" for other in said.other_rules]
    lines += [f"  group       {grant.group}" for grant in said.groups]
    if said.audience:
        lines.append(f"  audience    {len(said.audience)}: {', '.join(said.audience)}")
    return lines


def _travel(rule: TopicRule) -> list[str]:
    from bus.policy.values import show_duration, show_size

    kept = f"kept {show_duration(rule.retention_ms)}" if rule.is_durable else f"ttl {show_duration(rule.ttl_ms)}"
    return [
        f"  travels     {rule.class_}, {kept}, unit {rule.unit}, up to {show_size(rule.max_bytes)}",
        f"  priority    {rule.priority}; publishers may choose {', '.join(rule.priorities)}",
        f"  sealed with {rule.kem}, {rule.aead}{f', co-signed with {rule.cosign}' if rule.cosign else ''}",
    ]


def _explanation_document(said: Explanation) -> dict[str, Any]:
    decision, rule = said.decision, said.decision.topic_rule
    return {
        "agent": said.agent,
        "action": decision.action,
        "topic": decision.topic,
        "allowed": decision.allowed,
        "rule": decision.rule,
        "file": decision.file,
        "line": decision.line,
        "role": said.role.name,
        "suite": said.role.suite.name,
        "key_origin": said.role.key_origin,
        "topic_rule": _rule_document(rule),
        "signed_by": rule.signed_by,
        "class": rule.class_,
        "ttl_ms": rule.ttl_ms,
        "except": [pattern.text for pattern in said.denied_within],
        "other_rules": [_rule_document(other) for other in said.other_rules],
        "groups": [grant.group for grant in said.groups],
        "audience": list(said.audience),
    }


def _rule_document(rule: TopicRule) -> dict[str, Any]:
    from dataclasses import fields

    values = {field.name.rstrip("_"): getattr(rule, field.name) for field in fields(rule)}
    return {**values, "match": rule.match.text, "file": rule.place.file, "line": rule.place.line}

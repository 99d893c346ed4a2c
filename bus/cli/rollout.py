"""`tpmbus rollout`: which agent uses the TPM, and what decided that."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from bus.cli.completing import agent_names
from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.policy import Policy, Verdict


@click.command("rollout")
@click.argument("agents", nargs=-1, metavar="[AGENT]...", shell_complete=agent_names)
@command(policy=True)
def rollout(*, agents: tuple[str, ...], policy: str | None, output: Output) -> None:
    """Say for each AGENT (default: all) whether it uses the TPM, from which percentage on, and what decided it.

    Policy names the percentage. The environment (TPM_ENABLE_PERCENT, TPM_ENABLED) may lower it for roles whose policy says
    `environment: allow`, and TPM_SAMPLE_RATE may raise the sample rate.
    """
    from bus.policy import open_policy
    from bus.policy import rollout as decided
    from bus.policy.rollout import sample_rate

    opened = open_policy(policy)
    verdicts = [decided(opened, agent, os.environ) for agent in agents or sorted(opened.agents)]
    rate = sample_rate(opened, os.environ)
    output.table(
        ("agent", "role", "TPM", "from", "policy", "environment", "decided by"),
        [_row(opened, verdict) for verdict in verdicts],
    )
    using = sum(verdict.uses_tpm for verdict in verdicts)
    output.line(f"{using} of {len(verdicts)} agents use the TPM; {rate:g} of session-signed messages are sampled")
    output.document(
        {
            "agents": [{**asdict(verdict), "role": opened.role_of(verdict.agent).name} for verdict in verdicts],
            "sample_rate": rate,
        }
    )


def _row(policy: Policy, verdict: Verdict) -> tuple[str, ...]:
    role = policy.role_of(verdict.agent)
    wish = "" if verdict.environment_wish is None else f"{verdict.environment_wish} %"
    why = {
        "key_origin": f"key_origin {role.key_origin}",
        "environment": "environment",
        "policy": "policy (environment: forbid)" if wish and role.environment == "forbid" else "policy",
    }
    percent = f"{verdict.policy_percent} %"
    return (
        verdict.agent,
        role.name,
        "yes" if verdict.uses_tpm else "no",
        f"{verdict.place} %",
        percent,
        wish,
        why[verdict.decided_by],
    )

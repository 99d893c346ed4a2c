"""A roster: which agents there are, and in which role each. The policy names its own; another can be given in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bus.errors import PolicyError, Problem
from bus.policy import Policy
from bus.policy import source as yaml_source


def with_roster(policy: Policy, file: Path) -> Policy:
    """The same policy for the agents of this roster file. Raises PolicyError with every mistake and its place."""
    try:
        if file.stat().st_size > yaml_source.MAX_FILE_BYTES:
            raise PolicyError([Problem(str(file), 1, 1, f"a roster has at most {yaml_source.MAX_FILE_BYTES:,} bytes")])
        text = file.read_bytes()
    except OSError as error:
        raise PolicyError([Problem(str(file), 1, 1, f"cannot be read: {error.strerror}")]) from error
    root, problems, _ = yaml_source.read(text, file=str(file))
    agents = root.entries.get("agents") if root is not None else None
    if not problems and not isinstance(agents, yaml_source.Mapping):
        problems.append(Problem(str(file), 1, 1, "a roster has `agents:`, with a line `NAME: role` for each"))
    if problems or not isinstance(agents, yaml_source.Mapping):
        raise PolicyError(problems)
    nobody = replace(policy, agents={}, others=None)
    roles = {name: node.text for name, node in agents.entries.items() if isinstance(node, yaml_source.Scalar)}
    problems += [agents.keys[name].problem(f"{name}: a role is one word") for name in agents.entries if name not in roles]
    if problems:
        raise PolicyError(problems)
    try:
        return nobody.with_agents(roles)
    except PolicyError:
        for name, role in roles.items():
            try:
                nobody.with_agents({name: role})
            except PolicyError as error:
                problems.append(agents.keys[name].problem(error.problems[0].message))
        raise PolicyError(problems) from None

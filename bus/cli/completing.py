"""What a shell is offered for a word that a command takes: names of agents, and topics.

At a TAB nothing is started, asked or made, and nothing fails: what cannot be found out is not offered. Names come from the state
folder, where everybody who has papers has a file; that is as quick as listing a folder. Where there is none yet, or the line names
a policy, they come from the policy. Topics come from the policy alone: a pattern up to its first wildcard.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bus.policy import Policy

_MOST = 2_000
"""Nobody reads more of them, and a shell is slow with many."""
_WILDCARDS = ("*", ">")


def agent_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Agents whose names begin so, in whatever case; those that the line has already are left out."""
    try:
        names = _agents(ctx)
    except Exception:  # noqa: BLE001  whatever is wrong is told by the command itself, not by a TAB key
        return []
    return _fitting(names, incomplete.upper(), already=ctx.params.get(parameter.name or ""))


def topics_to_publish(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Beginnings of topics on which the agent of `--as` may publish; without it, on which anybody may."""
    return _topics(ctx, incomplete, "publish")


def topics_to_hear(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The same of what it may subscribe to."""
    return _topics(ctx, incomplete, "subscribe")


def _agents(ctx: click.Context) -> Iterable[str]:
    from bus.hub.state import folder_from

    if ctx.params.get("policy") is None:
        folder = (ctx.params.get("state") or folder_from(os.environ)).expanduser()
        known = {file.stem for file in (folder / "trust" / "public" / "certificates").glob("*.pem")}
        if known:
            return known
    return _policy(ctx).agents


def _topics(ctx: click.Context, incomplete: str, action: str) -> list[str]:
    try:
        policy, agent = _policy(ctx), ctx.params.get("agent")
        roles = [policy.role_of(agent)] if agent else policy.roles.values()
        found = {_beginning(pattern.text) for role in roles for pattern in getattr(role, action)}
    except Exception:  # noqa: BLE001  see above
        return []
    return _fitting(found, incomplete, already=None)


def _policy(ctx: click.Context) -> Policy:
    from bus.policy import open_policy

    return open_policy(ctx.params.get("policy") or os.environ.get("TPMBUS_POLICY"))


def _beginning(pattern: str) -> str:
    """Up to the first wildcard: what ends in a dot is to be gone on with."""
    tokens = pattern.split(".")
    whole = next((number for number, token in enumerate(tokens) if token in _WILDCARDS), None)
    return pattern if whole is None else "".join(f"{token}." for token in tokens[:whole])


def _fitting(names: Iterable[str], beginning: str, *, already: Any) -> list[str]:
    given = set(already) if isinstance(already, list | tuple) else set()
    return sorted(name for name in names if name and name.startswith(beginning) and name not in given)[:_MOST]

"""The options that every command has, and the one place where an error of ours becomes text and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bus.cli.desk import one_command
from bus.cli.output import Output
from bus.errors import BusError, RemoteProtocolError


def whole_pattern(context: click.Context, _: click.Parameter, pattern: str) -> str:
    """Of an argument: no pattern ends in a dot, unless a shell took its `>` for itself, and what follows for a file."""
    if pattern.endswith(".") and not context.resilient_parsing:
        raise click.UsageError(f"{pattern!r} is no whole pattern: > is a redirection to a shell, so quote it: '{pattern}>'")
    return pattern


def _unreadable(verb: str, error: Exception) -> BusError:
    """A hub of another version, or one whose broker lies to it."""
    what = f"what the hub answered to `{verb}` is not what this command reads ({error!r})"
    return RemoteProtocolError("malformed", f"{what}: if it is of another version, start it again with this one")


def command(*, state: bool = False, policy: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--json` (and `--state`, `--policy`) to a function: it gets `output` (and `state`, `policy`)."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, json_output: bool, **options: Any) -> None:
            output = Output(json=json_output)
            with one_command() as asked:
                try:
                    code = function(*args, output=output, **options)
                except BusError as error:
                    code = output.error(error)
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    if not asked:
                        raise
                    code = output.error(_unreadable(asked[-1], error))
            sys.exit(code or 0)

        decorated: Callable[..., Any] = run
        if policy:
            decorated = click.option(
                "--policy",
                envvar="TPMBUS_POLICY",
                help="A policy file or folder, or the name of a shipped one.  [default: default]",
            )(decorated)
        if state:
            decorated = click.option(
                "--state",
                type=click.Path(path_type=Path, file_okay=False),
                envvar="TPMBUS_STATE",
                help="The state folder.  [default: tpmbus in the user's XDG state folder]",
            )(decorated)
        return click.option("--json", "json_output", is_flag=True, help="One JSON document on stdout, nothing else.")(decorated)

    return decorate

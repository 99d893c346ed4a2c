"""Writes docs/reference/cli.md from the commands themselves: `python tests/docs/cli_reference.py > docs/reference/cli.md`.

A test compares: who changes a command writes the page anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from bus.cli.main import EXIT_CODES, cli

HEAD = """# Every command

Written from the commands themselves; `tpmbus COMMAND --help` says the same.

Every command has `--json`: one document on stdout and nothing else, errors included (`{{"error": {{"type", "message", ..}}}}`);
commands that stream (`sub`, `trace`) print one document a line. What is said beside that goes to stderr. SIGTERM lets a command
finish what it does.

| exit code | |
|---|---|
{codes}

| environment | |
|---|---|
| `TPMBUS_STATE` | the state folder, for `--state` |
| `TPMBUS_POLICY` | a policy file or folder, or the name of a shipped one, for `--policy` |
| `TPMBUS_TPM` | which TPM, for `--tpm` |
| `TPMBUS_AGENT`, `TPMBUS_URL` | which agent to be and where the bus is, for `--as` and `--url` of `pub`, `sub` and `request` |
"""
EVERYWHERE = {"--help", "--json", "--state", "--policy"}
"""Options that need no line at each command."""


def page() -> str:
    codes = "\n".join(f"| {code} | {text} |" for code, text in EXIT_CODES.items())
    return "\n".join([HEAD.format(codes=codes), *(section(name, command) for name, command in commands(cli))])


def commands(group: click.Group, before: str = "tpmbus") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(piece for piece in command.collect_usage_pieces(context))
    named = [parameter for parameter in command.params if isinstance(parameter, click.Option) and not is_everywhere(parameter)]
    rows = [row for parameter in named if (row := parameter.get_help_record(context))]
    table = "".join(f"| `{escaped(option)}` | {escaped(text)} |\n" for option, text in rows)
    shared = [
        f"`{option}`" for parameter in command.params for option in parameter.opts if option in EVERYWHERE - {"--help", "--json"}
    ]
    tail = f"\nAlso {', '.join(shared)}.\n" if shared else ""
    return (
        f"## {name}\n\n    {name} {usage}\n\n{flowed(command.help or '')}\n"
        + (f"\n| | |\n|---|---|\n{table}" if table else "")
        + tail
    )


def is_everywhere(parameter: click.Parameter) -> bool:
    return bool(EVERYWHERE & set(parameter.opts))


def flowed(text: str) -> str:
    """Paragraphs on lines of their own width; what click is told to leave alone is shown as it is."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("\b"):
            paragraphs.append("\n".join(f"    {line}" for line in paragraph.removeprefix("\b").strip("\n").split("\n")))
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")

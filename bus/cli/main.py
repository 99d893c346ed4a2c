"""`tpmbus`: finds the command.

Commands live one group a file and are imported when called, so that `tpmbus --help` does not pay for them.

Exit codes: 0 done · 1 it ran, and the answer is no (a lint problem, a failed expectation) · 2 wrong usage · 3 policy is wrong
· 4 not permitted, or in use by somebody else · 5 the TPM · 6 the way to another process · 130 stopped with Ctrl-C.
"""

from __future__ import annotations

from importlib import import_module

import click

_COMMANDS = {
    "doctor": ("bus.cli.doctor", "doctor", "What works on this machine, what does not, and what to do about it."),
    "keys": ("bus.cli.keys", "keys", "List, show, rotate and export the agents' keys."),
    "policy": ("bus.cli.policy", "policy", "Check, explain, compare and test policy files."),
    "provision": ("bus.cli.provision", "provision", "Give every agent of the fleet its identity key."),
    "rollout": ("bus.cli.rollout", "rollout", "Which agent uses the TPM, and what decided that."),
    "tpm": ("bus.cli.tpm", "tpm", "The TPM service that processes share."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tpmbus", prog_name="tpmbus")
def cli() -> None:
    """The message bus for fleets of software agents whose keys live in a TPM."""


def main() -> None:
    cli(prog_name="tpmbus")

"""`tpmbus`: finds the command.

Commands live one group a file and are imported when called, so that `tpmbus --help` does not pay for them.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

import click

from bus.cli.output import EXIT_NO

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

OBJECTS_UNTIL_COLLECTED = 100_000
"""Instead of the 700 of an interpreter: what a command imports is no garbage, and to look for some took a tenth of its time."""
EXIT_INTERRUPTED = 130
EXIT_CODES = {
    0: "done",
    1: "it ran, and the answer is no (a lint problem, a failed expectation), or it failed in a way that has no code",
    2: "wrong usage",
    3: "the policy is wrong",
    4: "not permitted, or in use by somebody else",
    5: "the TPM",
    6: "the way to another process",
    7: "nobody answered, or nothing came in time",
    EXIT_INTERRUPTED: "stopped with Ctrl-C",
}

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of output that goes to a file: click has an eye on a reader who leaves."""

_COMMANDS = {
    "agents": ("bus.cli.admin", "agents", "Which agents there are, and which are live."),
    "backbone": ("bus.cli.backbone", "backbone", "Servers of NATS, for several brokers."),
    "bench": ("bus.cli.bench", "bench", "Measure the bus: load tests, reports, and what changed."),
    "completion": ("bus.cli.completion", "completion", "Print a script that lets the shell complete tpmbus."),
    "consumers": ("bus.cli.kept", "consumers", "Who reads what is kept, and how far behind they are."),
    "dead": ("bus.cli.kept", "dead", "Messages that nobody could deal with."),
    "doctor": ("bus.cli.doctor", "doctor", "What works on this machine, what does not, and what to do about it."),
    "host": ("bus.cli.host", "host", "Bring agents of another machine to a hub."),
    "keys": ("bus.cli.keys", "keys", "List, show, rotate and export the agents' keys, inbox keys too."),
    "policy": ("bus.cli.policy", "policy", "Check, explain, compare, test and sign policy files."),
    "provision": ("bus.cli.provision", "provision", "Give every agent of the fleet its key and its certificate."),
    "pub": ("bus.cli.pub", "pub", "Publish a message, or one for each line of stdin."),
    "request": ("bus.cli.request", "request", "Ask something, and print the reply."),
    "rollout": ("bus.cli.rollout", "rollout", "Which agent uses the TPM, and what decided that."),
    "run": ("bus.cli.run", "run", "Run the hub and the whole fleet, and show what they do."),
    "status": ("bus.cli.status", "status", "What the running hub is doing."),
    "sub": ("bus.cli.sub", "sub", "Print the messages of a topic or pattern."),
    "subscriptions": ("bus.cli.admin", "subscriptions", "Who listens to what."),
    "topics": ("bus.cli.admin", "topics", "Topics that are open: who publishes there, and who hears it."),
    "tpm": ("bus.cli.tpm", "tpm", "The TPM service that processes share."),
    "trace": ("bus.cli.trace", "trace", "Show each envelope as it passes the broker."),
    "trust": ("bus.cli.trust", "trust", "Whom the agents believe: the authority, its certificates and revocations."),
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

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        near = [] if args[0] in _COMMANDS else get_close_matches(args[0], _COMMANDS)
        if near and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and help from the table: completing `tpmbus <TAB>` imports no command."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=text) for name, (_, _, text) in sorted(_COMMANDS.items()) if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in EXIT_CODES.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tpmbus", prog_name="tpmbus")
def cli() -> None:
    """The message bus for fleets of software agents whose keys live in a TPM."""


def main() -> None:
    gc.set_threshold(OBJECTS_UNTIL_COLLECTED)
    open_what_is_closed()
    try:
        code = _ended()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            raise
        sys.stdout = sys.stderr  # so that nobody tries once more at the end
        click.echo(f"tpmbus: what this command says cannot be written: {error.strerror}; see where its output goes", err=True)
        code = EXIT_NO
    gc.freeze()  # or all of it is looked at once more, to let go of what goes with the process anyway
    sys.exit(code)


def _ended() -> int | str | None:
    """The exit code of the command."""
    try:
        code: int | None = cli.main(prog_name="tpmbus", standalone_mode=False)
    except SystemExit as end:
        return end.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:  # what click makes of Ctrl-C, of a question answered with no, and of one that nobody can answer
        click.echo("Stopped.", err=True)
        return EXIT_INTERRUPTED if isinstance(error.__context__, KeyboardInterrupt) else EXIT_NO
    return code


def open_what_is_closed() -> None:
    """A shell may close what every program has (`>&-`): the next socket would be taken for it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  as long as the process


if __name__ == "__main__":
    main()

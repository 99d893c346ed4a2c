"""`tpmbus completion`: what a shell needs to complete our commands.

The script that is printed asks `tpmbus` itself at every TAB, so it never grows old.
"""

from __future__ import annotations

import click

_HOW = """\b
bash   echo 'eval "$(tpmbus completion bash)"' >> ~/.bashrc
zsh    echo 'eval "$(tpmbus completion zsh)"' >> ~/.zshrc
fish   tpmbus completion fish > ~/.config/fish/completions/tpmbus.fish
"""


_OFFERED = "COMPREPLY+=($value)"
_UNFINISHED = """
            [[ $value == *. ]] && compopt -o nospace"""
"""In bash: what ends in a dot is the beginning of a topic, and no blank is to come after it."""


@click.command(epilog=_HOW)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print a script that lets SHELL complete tpmbus. Then put it where the shell reads it:"""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  the choice above lists what click knows
    script = kind(ctx.find_root().command, {}, "tpmbus", "_TPMBUS_COMPLETE").source()
    click.echo(script.replace(_OFFERED, _OFFERED + _UNFINISHED))

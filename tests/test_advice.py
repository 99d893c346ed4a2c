"""What an error, a log line, a help text or a page tells people to type exists: the command, its options, and as many arguments.

Looked for are commands in backticks, with `tpmbus` or without (`trust status`), in every text of the package, in the documentation
and in the files that come with it; those that end a text of the package; and the lines of the documentation's blocks. A page or a
docstring may only name a command (`tpmbus trust enroll --token`); an error is read by somebody who types what it says, so there
the arguments have to be said too.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from bus.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "bus").rglob("*.py"))
OTHERS = sorted(
    path for name in ("agents", "policies", "examples", "scripts") for path in (ROOT / name).rglob("*") if path.is_file()
)
ENVIRONMENT = r"(?:[A-Z_]+=\S+ +)*"
NAMES = "|".join(cli.list_commands(click.Context(cli)))
IN_TICKS = re.compile(rf"(?<!`)`{ENVIRONMENT}tpmbus +([^`]+)`(?!`)")
SHORTENED = re.compile(rf"(?<!`)`((?:{NAMES}) +[a-z-][^`]+)`(?!`)")
AT_THE_END = re.compile(rf"(?:^|: ){ENVIRONMENT}tpmbus +((?:{NAMES})\b[^`\n:]*)$")
MAY_HAVE = re.compile(rf"tpmbus |`(?:{NAMES}) ")
ON_A_LINE = re.compile(rf"^ *(?:\$ )?{ENVIRONMENT}tpmbus +(.+?)(?:  +#.*)?$", re.MULTILINE)
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = ("..", "...", "…")
NO_ADVICE = {"COMMAND --help", "authority ", "trust statement", "host signer"}
"""What only looks like a command: the form of one, the beginning of a name, two words of the specification."""
NAMED = {"host gateway", "backbone nats-config"}
"""Also in errors: what has to be said besides depends on how the machines reach each other, and a how-to guide says it."""


def texts_of(source: str) -> Iterator[tuple[str, bool]]:
    """Every string in it, with X for what is put in, and whether it documents something: a string that stands alone."""
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values), False
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value, id(node) in alone


def advised(path: Path) -> Iterator[tuple[str, bool]]:
    """Commands, and whether each may be only a name."""
    return ((line, is_name or line in NAMED) for line, is_name in looked_up(path) if line not in NO_ADVICE)


def looked_up(path: Path) -> Iterator[tuple[str, bool]]:
    text = path.read_text(errors="replace")
    if not MAY_HAVE.search(text):
        return
    if path.suffix == ".py":
        for one, is_name in texts_of(text):
            yield from ((found, is_name) for found in IN_TICKS.findall(one))
            yield from ((found, True) for pattern in (SHORTENED, AT_THE_END) for found in pattern.findall(one))
        return
    yield from ((found, True) for pattern in (IN_TICKS, SHORTENED) for found in pattern.findall(text))
    yield from ((found, True) for block in BLOCK.findall(text) for found in ON_A_LINE.findall(block))


def words_of(line: str) -> list[str]:
    """Up to where the shell has something else to do."""
    lexer = shlex.shlex(" ".join(line.split()), posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return words


def fault(line: str, *, is_name: bool = True) -> str | None:
    """What click would say to it; of a name, except that arguments and the last option's value are missing."""
    command: click.Command = cli
    words = words_of(line)
    while isinstance(command, click.Group):
        if not words or words == ["--help"]:
            return None if is_name or words else "it does nothing: it is a group of commands"
        found = command.get_command(click.Context(command), words.pop(0))
        if found is None:
            return "no such command"
        command = found
    is_name = is_name or any(word in LEFT_OUT for word in words)
    words = [word for word in words if word not in LEFT_OUT]
    if is_name and words and (option := option_of(command, words[-1])) and not option.is_flag:
        words += ["X"] * option.nargs
    try:
        values, rest, _ = command.make_parser(click.Context(command)).parse_args(words)
    except click.UsageError as error:
        return error.format_message()
    if rest:
        return f"it does not take {' '.join(rest)}"
    faults = [wrong_choice(parameter, values.get(parameter.name)) for parameter in command.params]
    if not is_name:
        faults += [missing(parameter, values.get(parameter.name)) for parameter in command.params]
    return next(filter(None, faults), None)


def option_of(command: click.Command, word: str) -> click.Option | None:
    return next((one for one in command.params if isinstance(one, click.Option) and word.partition("=")[0] in one.opts), None)


def missing(parameter: click.Parameter, value: object) -> str | None:
    return (
        f"{parameter.human_readable_name} is missing"
        if parameter.required and (not value or not isinstance(value, str | tuple | list))
        else None
    )


def wrong_choice(parameter: click.Parameter, value: object) -> str | None:
    """A word in capitals stands for any."""
    if (
        not isinstance(parameter.type, click.Choice)
        or not isinstance(value, str)
        or value.isupper()
        or value in parameter.type.choices
    ):
        return None
    return f"{value} is none of {', '.join(map(str, parameter.type.choices))}"


@cache
def all_advice() -> list[tuple[Path, str, bool]]:
    return [(path, *found) for path in [*SOURCES, *PAGES, *OTHERS] for found in advised(path)]


def test_every_command_that_anybody_is_told_to_type_exists():
    wrong = {
        f"{path.relative_to(ROOT)}: tpmbus {line}": found
        for path, line, is_name in all_advice()
        if (found := fault(line, is_name=is_name)) is not None
    }
    assert wrong == {}


def test_there_is_advice_to_look_at():
    """Else a change of how it is written would hide it."""
    paths = [path for path, _, _ in all_advice()]
    assert sum(path.suffix == ".py" for path in paths) > 80
    assert sum(path.suffix == ".md" for path in paths) > 150


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("trust", True),
        ("trust enroll --token", True),
        ("trust enroll --uid 1000 MONITOR", True),
        ("trust enroll MONITOR", False),
        ("trust enroll --uid MONITOR", False),
        ("trust welcome", False),
        ("keys rotate X --keep 0s", True),
        ("keys rotate X --for 0s", False),
        ("pub tasks.build 'a; b' --as X | cat", True),
        ("keys export X --format jwt", False),
        ("host gateway .. --listen URL", True),
    ],
)
def test_what_counts_as_a_command_that_exists(line, is_right):
    assert (fault(line) is None) is is_right


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("trust status", True),
        ("trust", False),
        ("trust enroll --token", False),
        ("trust enroll --token X", True),
        ("keys rotate", False),
        ("keys rotate AGENT", True),
        ("host gateway --over COMMAND", False),
        ("host gateway NAME --over COMMAND", True),
    ],
)
def test_an_error_says_all_that_has_to_be_typed(line, is_right):
    assert (fault(line, is_name=False) is None) is is_right

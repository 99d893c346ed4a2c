"""What a command says and how it ends: tables for people, one JSON document for programs, errors with their next step.

With `--json`, stdout holds that one document and nothing else, errors included: `{"error": {"type", "message", ..fields}}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from bus import errors

if TYPE_CHECKING:
    from rich.progress import Progress

EXIT_NO = 1
"""The command ran, and the answer is no."""
EXIT_SILENCE = 7
"""Nobody answered, or nothing came in time."""
_WIDTH_OF_PIPES = 200
"""Columns, where no terminal says how many it has: a program that reads a table wants its rows whole."""

_GAP = 3
"""Columns of a terminal between those of a table."""
_WIDTH_OF_NAMES = 16
"""So the values of several lists of facts stand under each other."""

_EXIT_CODES: tuple[tuple[type[errors.BusError], int], ...] = (
    (errors.PolicyError, 3),
    (errors.NotPermittedError, 4),
    (errors.StateInUseError, 4),
    (errors.SessionReplacedError, 4),
    (errors.RevokedError, 4),
    (errors.TpmError, 5),
    (errors.TransportError, 6),
    (errors.RequestError, EXIT_SILENCE),
)


def exit_code(error: errors.BusError) -> int:
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_NO)


@dataclass(frozen=True, slots=True)
class Output:
    json: bool

    def document(self, value: Any) -> None:
        """The result for programs; silent without --json."""
        if self.json:
            json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
            sys.stdout.write("\n")

    def line(self, text: str = "") -> None:
        """The result for people; silent with --json."""
        if not self.json:
            print(visible(text))

    @property
    def width(self) -> int:
        """Columns that there are."""
        return _width_of_terminal() or _WIDTH_OF_PIPES

    def paragraph(self, text: str, *, indent: int = 2) -> None:
        """A line that goes on under itself where it is longer than the terminal; whole in a pipe, silent with --json."""
        width = _width_of_terminal()
        if width is not None and len(text) > width:
            text = "\n".join(wrap(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False))
        self.line(text)

    def note(self, text: str) -> None:
        """Something on the side, on stderr in both forms."""
        print(visible(text), file=sys.stderr)

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        title: str | None = None,
        empty: str | None = None,
        spare: Sequence[str] = (),
    ) -> None:
        """Aligned columns on a terminal, the first of them never broken; `empty` where there are no rows. Silent with --json.

        `spare`: columns that are left out one after the other where there is no room for all, and then named.
        """
        if self.json:
            return
        texts = [["" if cell is None else visible(str(cell)) for cell in row] for row in rows]
        left_out = _too_many(columns, texts, spare, width=self.width)
        if not texts and empty is not None:
            self.line(empty)
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        shown = [number for number, column in enumerate(columns) if column not in left_out]
        for number in shown:
            table.add_column(columns[number], overflow="fold", no_wrap=number == 0)
        for row in texts:
            table.add_row(*(Text(row[number]) for number in shown))
        console = Console()
        (console if console.is_terminal else Console(width=_WIDTH_OF_PIPES)).print(table)
        if left_out:
            self.paragraph(f"No room for: {', '.join(left_out)}. A wider terminal and --json show all.")

    def facts(self, title: str, facts: Iterable[tuple[str, str]]) -> None:
        """A title, and a line for each name; what is too long goes on under itself. Silent with --json."""
        if self.json:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2), pad_edge=False)
        table.add_column(no_wrap=True, min_width=_WIDTH_OF_NAMES, style="cyan")
        table.add_column(overflow="fold")
        for name, value in facts:
            table.add_row(f"  {name}", Text(visible(value)))
        console = Console()
        console = console if console.is_terminal else Console(width=_WIDTH_OF_PIPES)
        console.print(Text(title, "bold"))
        console.print(table)
        console.print()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar on stderr where that is a terminal, and nothing elsewhere."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=self.json or not console.is_terminal) as progress:
            yield progress

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Of what has no number of steps: on stderr where that is a terminal, until it is over, and nothing elsewhere."""
        from rich.console import Console

        console = Console(stderr=True)
        with nullcontext() if self.json or not console.is_terminal else console.status(what):
            yield

    def error(self, error: errors.BusError) -> int:
        """Say what went wrong; gives the exit code."""
        if self.json:
            self.document({"error": {"type": type(error).__name__, "message": str(error), **_fields(error)}})
        elif isinstance(error, errors.PolicyError):
            self.note(str(error))
        else:
            self.note(f"tpmbus: {error}")
        return exit_code(error)


def visible(text: str) -> str:
    """What would do something to a terminal is shown as an escape: much of what is printed others have written."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode() for sign in text)


def _too_many(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], *, width: int) -> list[str]:
    """Those of `spare` without which the others fit, in their order."""
    needed = {name: max(map(len, (name, *cells)), default=0) + _GAP for name, *cells in zip(columns, *rows, strict=True)}
    left_out: list[str] = []
    for name in spare:
        if sum(needed.values()) <= width:
            break
        del needed[name]
        left_out.append(name)
    return left_out


def _width_of_terminal() -> int | None:
    """None where stdout is none."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else None


def _fields(error: errors.BusError) -> dict[str, Any]:
    if isinstance(error, errors.PolicyError):
        return {"problems": [problem._asdict() for problem in error.problems]}
    return {name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)}

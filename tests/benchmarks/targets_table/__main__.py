"""`scripts/bench-targets`: the whole table, or some rows of it. Exit code 1 where a target is missed or a row is not whole."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio

from bus.bench.running import this_machine
from targets_table import report
from targets_table.figure import Outcome
from targets_table.rows import MOST_SECONDS, chosen
from targets_table.running import all_of


def main(arguments: list[str]) -> int:
    asked = _parsed(arguments)
    try:
        rows = chosen(asked.only)
    except ValueError as error:
        print(f"bench-targets: {error}", file=sys.stderr)
        return 2
    if asked.list:
        for row in rows:
            print(f"{row.name:<13} at most {row.most_seconds:>4.0f} s  {row.title}")
        return 0
    machine, settings = this_machine(), {"pairs": asked.pairs, "quick": asked.quick, "rows": [row.name for row in rows]}
    outcomes: list[Outcome] = []
    began = time.monotonic()

    def told(text: str) -> None:
        print(f"{time.monotonic() - began:>6.0f} s  {text}", file=sys.stderr, flush=True)

    def ended(found: list[Outcome]) -> None:
        outcomes[:] = found
        if asked.json:
            report.write(asked.json, report.as_json(found, machine, settings))
        if asked.html:
            report.write(asked.html, report.as_html(found, machine, settings))

    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp", ignore_cleanup_errors=True) as place:  # a socket's path is short
        os.environ["XDG_RUNTIME_DIR"] = place
        measure = partial(all_of, rows, place=Path(place), told=told, ended=ended, quick=asked.quick, pairs=asked.pairs)
        try:
            anyio.run(measure, backend_options={"use_uvloop": find_spec("uvloop") is not None})
        except KeyboardInterrupt:
            told("stopped; what was measured stands")
    print(report.as_text(outcomes))
    return 0 if all(outcome.verdict == "met" for outcome in outcomes) and len(outcomes) == len(rows) else 1


def _parsed(arguments: list[str]) -> argparse.Namespace:
    about = f"Measure the table of targets, in at most {MOST_SECONDS // 60} minutes. Alone on the machine, please."
    parser = argparse.ArgumentParser(prog="bench-targets", description=about)
    parser.add_argument("--only", metavar="ROW,..", help="these rows, in the table's order")
    parser.add_argument("--list", action="store_true", help="the rows, and how long each may take")
    parser.add_argument("--pairs", type=int, help="runs of each kind in turns  [default: 5; 3 where they are long]")
    parser.add_argument("--quick", action="store_true", help="one short pair a row: does it work? Its figures say nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written anew after each row")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the same as a page with plots")
    asked = parser.parse_args(arguments)
    for file in (asked.json, asked.html):  # known before minutes have been spent
        if file is not None and not file.absolute().parent.is_dir():
            parser.error(f"{file.parent} is no folder")
    if asked.pairs is not None and asked.pairs < 1:
        parser.error("--pairs is 1 or more")
    return asked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What others wrote does nothing to the terminal of who looks at it."""

from __future__ import annotations

import pytest

from bus.cli.output import Output, visible
from bus.errors import BackboneError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("results.build, 3 µs …\n\tnext", "results.build, 3 µs …\n\tnext"),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("gone\r\x7f\x9b1m", "gone\\r\\x7f\\x9b1m"),
        ("\u202eevil", "\\u202eevil"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_what_would_do_something_to_a_terminal_is_an_escape(text, shown):
    assert visible(text) == shown


def test_in_tables_lines_and_errors(capsys):
    output, evil = Output(json=False), "\x1b[2Jbad"
    output.table(("topic", "reason"), [("work.a", evil)])
    output.facts("One", [("reason", evil)])
    output.line(evil)
    output.error(BackboneError("disk", evil))
    said = "".join(capsys.readouterr())
    assert said.count("\\x1b[2Jbad") == 4
    assert "\x1b" not in said

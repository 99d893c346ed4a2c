"""What a reviewer sees in a policy file is what the bus reads: nothing hides, and nothing is spelled as something else."""

from __future__ import annotations

import sys
import unicodedata

import pytest
import yaml

from bus.policy import source
from bus.policy.source import read

DEFAULT_IGNORABLE = [
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10)),
    *(*range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)),
]
"""Of Unicode's DerivedCoreProperties.txt, version 15."""
SEEN_FORMATS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Marks around numbers: of the kind "format", but everybody sees them."""
NEITHER = {9, 10, 13, 32, *SEEN_FORMATS}
BLANKS_AND_CONTROLS = [
    code
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"} and code not in NEITHER
]


@pytest.fixture(params=["quick", "slow"])
def _loader(request, monkeypatch):
    """Both of the library's parsers."""
    if request.param == "slow":
        monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)


@pytest.mark.parametrize("before", ["a: b", "# ", "a: 'b"])
def test_no_invisible_character_gets_in(before):
    for code in {*DEFAULT_IGNORABLE, *BLANKS_AND_CONTROLS, 0x2800}:
        root, (problem,), _ = read(f"version: 1\n{before}{chr(code)}", file="p")
        assert root is None
        assert (problem.line, problem.column) == (2, len(before) + 1)
        assert f"U+{code:04X}" in problem.message


@pytest.mark.parametrize(
    "text", ["# caf\u00e9, \u65e5\u672c, \u05e9, \U0001f642\nversion: 1\n", "# \u0600\u2010\u2030 a\tb\nversion: 1\n"]
)
def test_what_everybody_sees_may_stand_in_a_comment(text):
    assert read(text, file="p")[1] == []


@pytest.mark.parametrize("text", ["a: 1\r", "a: 1\r\r\n", "a: 1 # b\rc: 2\n", "a: 'b\rc'\n", "\ra: 1\n"])
def test_a_carriage_return_alone_ends_no_line(text):
    root, (problem,), _ = read(text, file="p")
    assert root is None
    assert (problem.line, problem.column) == (1, text.index("\r") + 1)


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize("escape", [*"0abtnvfre /N_LP", "\t", "\n", "x41", "u0041", "U00000041"])
@pytest.mark.parametrize("before", ["", "# \u00e9\U0001f642\r\n", "\ufeff"])
def test_an_escape_is_a_mistake_wherever_it_stands(escape, before):
    """What stands before it moves places in bytes, characters and lines."""
    _, problems, _ = read(f'{before}a: "b"\nc: ["d", "\\\\ e\\{escape}"]\n', file="p")
    assert [(problem.line, problem.column) for problem in problems] == [(2 + before.count("\n"), 10)]
    assert problems[0].message.isprintable()


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize(
    ("written", "meant"), [('"a\\\\x41"', "a\\x41"), ('"a\\"b"', 'a"b'), ("'a\\x41'", "a\\x41"), ("a\\x41", "a\\x41")]
)
def test_a_backslash_that_is_one_stays(written, meant):
    root, problems, _ = read(f"# \u00e9\na: {written}\n", file="p")
    assert problems == []
    assert root.value() == {"a": meant}


@pytest.mark.parametrize("text", ["007", "+7", "-0", "-07", "+0", "00", "+1.5", "01.5", "-00.5", "+.5"])
def test_a_number_with_needless_signs_is_a_mistake(text):
    assert [problem.message.split(";")[0] for problem in read(f"a: {text}\n", file="p")[1]] == [f"is written '{text}'"]
    assert read(f"a: '{text}'\n", file="p")[1] == []


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("10", 10), ("-5", -5), ("0.5", 0.5), (".5", 0.5), ("0x0A", 10), ("+", "+"), ("007a", "007a")]
)
def test_other_numbers_and_texts_are_what_they_look_like(text, value):
    root, problems, _ = read(f"a: {text}\n", file="p")
    assert problems == []
    assert root.value() == {"a": value}


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize(
    "text",
    [
        "%YAML 1.1\n---\na: 1\n",
        "# \u00e9\r\n%TAG ! tag:x:\r\n---\r\na: 1\n",
        "%ODD\n---\na: 1\n",
        "a: 1\n...\n%YAML 1.1\n",
        "a: 1\n...\n%YAML 1.1\n---\n",
    ],
)
def test_directives_are_mistakes(text):
    assert read(text, file="p")[1]


def test_a_percent_sign_that_is_no_directive_stays():
    root, problems, _ = read("---\n# %\na: '\n%YAML 1.1'\n", file="p")
    assert problems == []
    assert root.value() == {"a": " %YAML 1.1"}

"""YAML text -> a tree in which every key and value knows its line and column.

Only the part of YAML that a policy needs, so that what a person reads is what the bus obeys:

- no anchors, aliases or merge keys (nothing can multiply: an anchor bomb ends at its first `&`), tags or directives; one document;
- nothing that is invisible, turns the direction of writing, or looks like a space or a line end and is none; no escapes;
- a key stands once in its mapping, and is always text;
- plain `true`, `false`, `null`, whole numbers (also 0x..) and decimals are values; every other scalar is text. `NO`, `on` and
  `12:30` are text, not false, true and 750 as in YAML 1.1, and `0010`, which is eight to some readers, is a mistake;
- 1 MiB, 32 levels, 4,096 characters a scalar, and a budget of nodes: checked before or while reading, without recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from bus.errors import Problem

MAX_FILE_BYTES: Final = 1 << 20
MAX_NODES: Final = 200_000
"""For all files together: a fleet of 10,000 agents with 1,000 rules needs about a quarter."""
MAX_DEPTH: Final = 32
MAX_SCALAR: Final = 4_096

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control characters, lone surrogates, Unicode's Default_Ignorable_Code_Point, what turns the direction of writing, line ends that
editors do not count, and blanks that are not the space: a reviewer must see what the bus obeys, also in comments."""
_LONE_RETURN: Final = re.compile("\r(?!\n)")
"""To YAML a line end, to grep, diff and most viewers none: what follows looks like part of the line, such as of its comment."""
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_DIRECTIVE: Final = re.compile("^%", re.MULTILINE)
_HIDDEN: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"0x[0-9a-fA-F]{1,16}", re.ASCII)
_DECIMAL: Final = re.compile(r"[-+]?(?:[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)
_ODD_NUMBER: Final = re.compile(r"\+.*|-0|-?0[0-9].*", re.ASCII)
"""Of numbers: with a sign or zeros that change nothing."""
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}
_HINTS: Final = (
    ("alias", "; a pattern that begins with '*' needs quotes: \"*\""),
    ("cannot start any token", "; YAML is indented with spaces, never tabs, and '>' or '%' at the start of a value needs quotes"),
    ("block scalar", "; a pattern that begins with '>' needs quotes: \">\""),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def problem(self, message: str) -> Problem:
        return Problem(self.file, self.line, self.column, message)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(slots=True)
class Scalar:
    place: Place
    text: str
    plain: bool

    def value(self) -> str | int | float | bool | None:
        return _plain_value(self.text) if self.plain else self.text


@dataclass(slots=True)
class Listing:
    place: Place
    items: list[Node] = field(default_factory=list)

    def value(self) -> list[Any]:
        return [item.value() for item in self.items]


@dataclass(slots=True)
class Mapping:
    place: Place
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)

    def value(self) -> dict[str, Any]:
        return {key: node.value() for key, node in self.entries.items()}


Node = Scalar | Listing | Mapping


class _StopError(Exception):
    """Reading cannot go on; the problem says why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def read(text: str | bytes, *, file: str, max_nodes: int = MAX_NODES) -> tuple[Mapping | None, list[Problem], int]:
    """The tree of one file, its mistakes, and how many nodes it took. No tree where the file cannot be read to its end."""
    reader = _Reader(file, max_nodes)
    try:
        root = reader.read(_decode(text, file))
    except _StopError as stop:
        return None, [*reader.problems, stop.problem], reader.nodes
    return root, reader.problems, reader.nodes


def _plain_value(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _decode(text: str | bytes, file: str) -> str:
    """Text that the YAML library can only accept or refuse at a place that an editor shows."""
    too_large = Problem(file, 1, 1, f"is larger than {MAX_FILE_BYTES:,} bytes; split it into several files of one folder")
    if len(text) > MAX_FILE_BYTES:
        raise _StopError(too_large)
    if isinstance(text, str):
        if len(text.encode(errors="surrogatepass")) > MAX_FILE_BYTES:
            raise _StopError(too_large)
        return _checked(text, file)
    try:
        return _checked(text.decode(), file)
    except UnicodeDecodeError as error:
        line, column = _position(text[: error.start].decode(errors="replace"))
        raise _StopError(Problem(file, line, column, f"is not UTF-8: byte 0x{text[error.start]:02x}")) from error


def _checked(text: str, file: str) -> str:
    text = text.removeprefix("\ufeff")
    for found in filter(None, (_UNPRINTABLE.search(text), _LONE_RETURN.search(text))):
        line, column = _position(text[: found.start()])
        what = (
            "has a carriage return (U+000D) without a line feed, which hides a line; end lines with LF or CRLF"
            if found.group() == "\r"
            else f"has the invisible character U+{ord(found.group()):04X}, which no policy needs"
        )
        raise _StopError(Problem(file, line, column, what))
    return text


def _position(before: str) -> tuple[int, int]:
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def _marked(error: yaml.MarkedYAMLError) -> tuple[int, int]:
    mark = error.problem_mark or error.context_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


class _Reader:
    """Builds the tree from the library's events, on a stack of its own."""

    def __init__(self, file: str, max_nodes: int) -> None:
        self.file, self.max_nodes, self.nodes = file, max_nodes, 0
        self.text = ""
        self.problems: list[Problem] = []
        self.stack: list[Listing | Mapping] = []
        self.pending: list[Scalar | None] = []
        """For each open mapping, the key that waits for its value."""
        self.root: Node | None = None

    def read(self, text: str) -> Mapping:
        self.text = text
        for event in self.events(text):
            if isinstance(event, yaml.NodeEvent):
                self.take(event, self.at(event))
            elif isinstance(event, yaml.CollectionEndEvent):
                self.stack.pop()
                self.pending.pop()
            elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
                raise _StopError(self.at(event).problem("begins a second document; a policy file holds one"))
            elif isinstance(event, yaml.DocumentStartEvent):
                self.refuse_directives(event)
        if isinstance(self.root, Mapping):
            return self.root
        start = Place(self.file, 1, 1) if self.root is None else self.root.place
        raise _StopError(start.problem("expected a mapping that begins with 'version: 1'"))

    def events(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            line, column = _marked(error)
            said = " ".join(part for part in (error.context, error.problem) if part)
            hint = next((hint for sign, hint in _HINTS if sign in said), "")
            raise _StopError(Problem(self.file, line, column, f"is not YAML: {error.problem or said}{hint}")) from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # the pure loader lets impossible escapes through to chr()
            raise _StopError(Problem(self.file, 1, 1, f"is not YAML: {str(error)[:200]}")) from error

    def at(self, event: yaml.Event) -> Place:
        mark: Any = event.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1)

    def take(self, event: yaml.NodeEvent, place: Place) -> None:
        self.nodes += 1
        if self.nodes > self.max_nodes:
            raise _StopError(place.problem(f"the policy has more than {MAX_NODES:,} keys and values; make it smaller"))
        self.refuse_features(event, place)
        if isinstance(event, yaml.ScalarEvent):
            self.put_scalar(Scalar(place, event.value, plain=event.implicit[0]))
            self.refuse_spellings(event, place)
        elif isinstance(event, yaml.AliasEvent):
            self.put_scalar(Scalar(place, "", plain=True))
        else:
            self.open(Mapping(place) if isinstance(event, yaml.MappingStartEvent) else Listing(place))

    def refuse_features(self, event: yaml.NodeEvent, place: Place) -> None:
        if event.anchor is not None:
            raise _StopError(place.problem("anchors and aliases ('&', '*') are not allowed here; write the value out"))
        if getattr(event, "tag", None) is not None:
            self.problems.append(place.problem("tags ('!') are not allowed here; remove it"))

    def refuse_directives(self, start: yaml.DocumentStartEvent) -> None:
        mark: Any = start.end_mark
        found = _DIRECTIVE.search(self.text, 0, mark.index)
        if found:
            line, column = _position(self.text[: found.start()])
            self.problems.append(Problem(self.file, line, column, "directives ('%') are not allowed here; remove it"))

    def refuse_spellings(self, event: yaml.ScalarEvent, place: Place) -> None:
        """What reads as one thing and is another."""
        if event.style == '"':
            start: Any = event.start_mark
            end: Any = event.end_mark
            wrong = (found[1] for found in _ESCAPE.finditer(self.text, start.index, end.index) if found[1] not in ('"', "\\"))
            escaped = next(wrong, None)
            if escaped is not None:
                what = f"the escape '\\{escaped}'" if escaped.isprintable() else "an escaped line end or tab"
                self.problems.append(
                    place.problem(f"has {what}; write the character itself ('\\\"' and '\\\\' are the only escapes)")
                )
        elif event.implicit[0] and _ODD_NUMBER.fullmatch(event.value) and not isinstance(_plain_value(event.value), str):
            message = f"is written {event.value!r}; write a number without '+' and without zeros in front, and text in quotes"
            self.problems.append(place.problem(message))

    def open(self, node: Listing | Mapping) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise _StopError(node.place.problem(f"is nested deeper than {MAX_DEPTH} levels"))
        self.put(node)
        self.stack.append(node)
        self.pending.append(None)

    def put_scalar(self, scalar: Scalar) -> None:
        if len(scalar.text) > MAX_SCALAR:
            raise _StopError(scalar.place.problem(f"is longer than {MAX_SCALAR:,} characters"))
        hidden = _HIDDEN.search(scalar.text)
        if hidden:
            raise _StopError(
                scalar.place.problem(f"has the character U+{ord(hidden.group()):04X}; write it on one line, without escapes")
            )
        if self.stack and isinstance(self.stack[-1], Mapping) and self.pending[-1] is None:
            self.pending[-1] = scalar
        else:
            self.put(scalar)

    def put(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        if isinstance(parent, Listing):
            parent.items.append(node)
            return
        key, self.pending[-1] = self.pending[-1], None
        if key is None:
            raise _StopError(node.place.problem("a key must be text"))
        if key.plain and key.text == "<<":
            self.problems.append(key.place.problem("merge keys ('<<') are not allowed here; write the values out"))
        elif key.text in parent.entries:
            self.problems.append(key.place.problem(f"the key {key.text[:60]!r} is already in line {parent.keys[key.text].line}"))
        else:
            parent.entries[key.text], parent.keys[key.text] = node, key.place

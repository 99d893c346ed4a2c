"""The tree of one file -> its words, with every mistake at the line and column where it stands.

All mistakes come out at once: what is wrong is reported and cut out of the tree, and the rest is looked at again, so that one
bad value does not hide the others, here or in the checks that follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Mapping as AbstractMapping
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

from pydantic import ValidationError

from bus.errors import Problem
from bus.policy.kinds import UNKNOWN_SUITE
from bus.policy.near import MAX_HINTS, hint
from bus.policy.source import Listing, Mapping, Node, Place, Scalar
from bus.policy.words import Words
from bus.protocol.suites import IDENTITY_SUITES

_KEY: Final = "[key]"
"""The library's mark for a mistake in the key itself."""

WordsT = TypeVar("WordsT", bound=Words)
Path = tuple[str | int, ...]

_EXPECTED: Final[AbstractMapping[str, str]] = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS: Final[AbstractMapping[str, tuple[str, str]]] = {
    "greater_than_equal": ("ge", "is too small: at least"),
    "less_than_equal": ("le", "is too large: at most"),
}


def shape(root: Mapping, model: type[WordsT]) -> tuple[WordsT | None, list[Problem]]:
    """The words that can be used, and what is wrong with the others. Cuts the latter out of the tree."""
    problems = _versions(root) or list(_empty_values(root))
    first = True
    while True:
        try:
            return model.model_validate(root.value()), problems
        except ValidationError as error:
            faults: list[Any] = error.errors(include_url=False, include_input=False)
        if first:
            problems += [_problem(root, model, fault, with_hint=number < MAX_HINTS) for number, fault in enumerate(faults)]
            first = False
        wrong = {id(node) for fault in faults if (node := _wrong_node(root, fault)) is not root}
        if not wrong:
            return None, problems
        _cut(root, wrong)


def node_at(root: Node, path: Path) -> Node:
    """The node at the end of the path, or as far along it as the tree goes."""
    return _walk(root, path)[-1]


def place_at(root: Node, path: Path) -> Place:
    return node_at(root, path).place


def key_place(root: Node, path: Path) -> Place:
    """Where the key at the end of the path stands; for an item of a list, where the item does."""
    parent = node_at(root, path[:-1])
    if isinstance(parent, Mapping) and path[-1] in parent.keys:
        return parent.keys[str(path[-1])]
    return place_at(root, path)


def _versions(root: Mapping) -> list[Problem]:
    """About a file in another version of the language nothing else is said: it would be guessing."""
    version = root.entries.get("version")
    if isinstance(version, Scalar) and version.plain and version.text == "1":
        return []
    one = Scalar(root.place, "1", plain=True)
    if version is None:
        root.entries["version"] = one
        return [root.place.problem("the key 'version' is missing; begin the file with 'version: 1'"), *_empty_values(root)]
    root.entries = {"version": one}
    return [version.place.problem(f"version {_value(version)} is unknown; this program reads 'version: 1'")]


def _empty_values(root: Mapping) -> Iterator[Problem]:
    """`unit:` with nothing behind it is a slip, not a default."""
    todo: list[Node] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, Listing):
            todo.extend(node.items)
        elif isinstance(node, Mapping):
            for key in [key for key, value in node.entries.items() if isinstance(value, Scalar) and value.value() is None]:
                del node.entries[key]
                yield node.keys[key].problem(f"{key[:60]!r} has no value; write one, or remove the key")
            todo.extend(node.entries.values())


def _walk(root: Node, path: Path) -> list[Node]:
    nodes = [root]
    for step in path:
        node = nodes[-1]
        if isinstance(node, Mapping) and step in node.entries:
            nodes.append(node.entries[str(step)])
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            nodes.append(node.items[step])
        else:
            break
    return nodes


def _problem(root: Mapping, model: type[Words], fault: Any, *, with_hint: bool) -> Problem:
    path: Path = fault["loc"]
    kind: str = fault["type"]
    if kind == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        suggestion = hint(str(path[-1]), known) if with_hint else ""
        return key_place(root, path).problem(f"{_show(path[:-1])}unknown key {str(path[-1])[:60]!r}{suggestion}")
    if kind == "missing":
        place = key_place(root, path[:-1]) if len(path) > 1 else root.place
        return place.problem(f"{_show(path[:-1])}the key {path[-1]!r} is missing")
    if path[-1:] == (_KEY,):
        return key_place(root, path[:-1]).problem(f"{_show(path[:-2])}{_message(fault, None, with_hint=with_hint)}")
    node = node_at(root, path)
    return node.place.problem(f"{_show(path)}{_message(fault, node, with_hint=with_hint)}")


def _message(fault: Any, node: Node | None, *, with_hint: bool) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return f"{_value(node)} is none of {', '.join(choices)}{hint(_text(node), choices) if with_hint else ''}"
    if kind == UNKNOWN_SUITE:
        near = hint(_text(node), IDENTITY_SUITES) if with_hint else ""
        return f"{_value(node)} is no suite{near or '; use one of ' + ', '.join(sorted(IDENTITY_SUITES))}"
    if kind in _EXPECTED:
        quotes = "; write it in quotes" if kind == "string_type" and isinstance(node, Scalar) else ""
        return f"expected {_EXPECTED[kind]}, found {_value(node)}{quotes}"
    if kind in _BOUNDS:
        name, sentence = _BOUNDS[kind]
        bound = context[name]
        return f"{_value(node)} {sentence} {hex(bound) if _text(node).startswith('0x') else bound}"
    return f"{_value(node)}: {_lower(fault['msg'])}"


def _show(path: Path) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path if step != _KEY)
    return f"{text.lstrip('.')[:160]}: " if text else ""


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) else ""


def _value(node: Node | None) -> str:
    if isinstance(node, Scalar):
        return repr(node.text[:60])
    return "a list" if isinstance(node, Listing) else "a mapping"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _known_keys(model: type[Words], path: Path) -> list[str]:
    found: Any = model
    for step in path:
        found = _inside(found, step)
    found = _bare(found)
    if isinstance(found, type) and issubclass(found, Words):
        return [field.alias or name for name, field in found.model_fields.items()]
    return []


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _inside(annotation: Any, step: str | int) -> Any:
    """The type of what this key or index leads to."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (list, dict):
        return get_args(annotation)[-1]
    fields = annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, Words) else {}
    return next((field.annotation for name, field in fields.items() if (field.alias or name) == step), None)


def _wrong_node(root: Mapping, fault: Any) -> Node:
    """What has to go for this mistake to be gone: the value, or the mapping that lacks a key."""
    path: Path = fault["loc"]
    return node_at(root, path[:-1] if fault["type"] == "missing" or path[-1:] == (_KEY,) else path)


def _cut(root: Mapping, wrong: set[int]) -> None:
    todo: list[Node] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, Listing):
            node.items = [item for item in node.items if id(item) not in wrong]
            todo.extend(node.items)
        elif isinstance(node, Mapping):
            node.entries = {key: value for key, value in node.entries.items() if id(value) not in wrong}
            todo.extend(node.entries.values())

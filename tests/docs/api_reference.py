"""Writes docs/reference/api.md from the code: `python tests/docs/api_reference.py > docs/reference/api.md`.

Signatures and docstrings of what is public, in the order in which somebody needs them. A test compares: who changes one of them
writes the page anew, and a name that is public and stands nowhere here fails it too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import bus
import bus.testing
from bus import errors

HEAD = """# The Python API

Written from the code; `help(bus.Agent)` says the same. `import bus` is quick: names are imported when they are first used.

Everything runs on asyncio, uvloop and trio. `publish`, the iterators' `__anext__` and `ack` do not yield when they can go on
at once.
"""
DOORS = ("open", "connect")
CLASSES = ("Hub", "Agent", "Subscription", "Message", "Handlers", "Hooks", "HookContext", "Record", "Receipt", "Refusal")
NOTES = {
    "Agent": "What `hub.agent(name)` and `bus.connect` give. `agent.name`; `agent.hooks` are its Hooks; `agent.on(pattern, ..)` is "
    "`Handlers.on` for this agent alone, served by `agent.serving()`; `agent.authority` asks the authority, where the role has "
    "`may:` (`revoke(name, reason)`, `end_sessions(name)`, `let_in(name, chip=)`, `shut_out(name)`, `reload()`, "
    "`join(name, role)`); `agent.error` is what ended it, if something did.",
}
HIDDEN = {
    # what hosts and hubs call, and nobody else
    "Agent": {"answer", "end", "follow", "not_sent", "sessions_changed", "audit", "check_open"},
    "Subscription": {"put", "end"},
    "Message": {"header"},
    "Receipt": {"was_sent", "was_stored", "failed"},
}


def page() -> str:
    parts = [HEAD]
    parts += [function(f"bus.{name}", getattr(bus, name)) for name in DOORS]
    parts += [whole_class(name) for name in CLASSES if name in bus.__all__]
    parts.append(the_rest())
    parts.append(testing())
    parts.append(error_tree())
    return "\n".join(parts)


def function(name: str, value: Any, level: str = "##") -> str:
    return f"{level} {name}\n\n{signature(name.rsplit('.', 1)[-1], value)}\n{prose(value)}\n"


def signature(name: str, value: Any) -> str:
    found = inspect.signature(value)
    parameters = [one.replace(annotation=plain(one.annotation)) for one in found.parameters.values() if one.name != "self"]
    asynchronous = inspect.iscoroutinefunction(value)
    shown = [re.sub(r"<.* at 0x\w+>", "...", str(one)) for one in parameters]
    star = next((place for place, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if star is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        shown.insert(star, "*")
    result = "" if found.return_annotation in (inspect.Signature.empty, "None") else f" -> {found.return_annotation}"
    return f"    {'async ' if asynchronous else ''}{name}({', '.join(shown)}){result}\n".replace("_name.", "")


def plain(annotation: Any) -> Any:
    return annotation if annotation is inspect.Parameter.empty else Word(str(annotation))


class Word(str):
    """Shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def prose(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    return "\n\n".join(
        " ".join(paragraph.split()) if not paragraph.startswith("    ") else paragraph for paragraph in text.split("\n\n")
    )


def whole_class(name: str) -> str:
    kind = getattr(bus, name)
    fields = f" `{name}({', '.join(kind._fields)})`" if getattr(kind, "_fields", ()) else ""
    about = NOTES.get(name) or (f"As a tuple:{fields}." if prose(kind).startswith(f"{name}(") else f"{prose(kind)}{fields}")
    lines = [f"## bus.{name}\n\n{about}\n"]
    lines += [f"- `{attribute}` {prose(value)}" for attribute, value in properties(kind, name)]
    lines += ["" for _ in lines[1:2]]
    lines += [function(f"{attribute}", value, "###") for attribute, value in methods(kind, name)]
    return "\n".join(lines)


def the_rest() -> str:
    """Small ones: what events there are, and what is public beside them."""
    names = [name for name in bus.__all__ if name not in {*DOORS, *CLASSES} and not hasattr(errors, name)]
    lines = ["## Events, and what else there is\n"]
    for name in names:
        value = getattr(bus, name)
        fields = f"({', '.join(value._fields)})" if getattr(value, "_fields", ()) else ""
        lines.append(f"- `bus.{name}`{fields}: {first(value)}")
    return "\n".join(lines) + "\n"


def public(kind: type, name: str) -> Iterator[tuple[str, Any]]:
    for attribute, value in vars(kind).items():
        if (
            not attribute.startswith("_")
            and attribute not in getattr(kind, "_fields", ())
            and attribute not in HIDDEN.get(name, set())
        ):
            yield attribute, value


def properties(kind: type, name: str) -> Iterator[tuple[str, Any]]:
    yield from ((attribute, value) for attribute, value in public(kind, name) if isinstance(value, property))


def methods(kind: type, name: str) -> Iterator[tuple[str, Any]]:
    yield from ((attribute, value) for attribute, value in public(kind, name) if inspect.isfunction(value))


def testing() -> str:
    module = inspect.getdoc(__import__("importlib").import_module(bus.testing.open.__module__)) or ""
    [example] = re.findall(r"(?:^    .*\n)+", module, re.MULTILINE)[:1]
    lines = [f"## bus.testing\n\n{signature('open', bus.testing.open)}\n{prose(bus.testing.open)}\n\n{example}"]
    lines += [f"- `{name}` {first(getattr(bus.testing, name))}" for name in bus.testing.__all__ if name != "open"]
    return "\n".join(lines) + "\n"


def first(value: Any) -> str:
    return prose(value).split("\n")[0]


def error_tree() -> str:
    lines = ["## Errors\n\nFields, not texts: no program needs to read a message.\n"]
    for kind in classes(errors.BusError):
        depth = len([one for one in kind.__mro__ if one.__module__ == "bus.errors"]) - 1
        fields = [
            one for one in inspect.signature(kind.__init__).parameters if one not in ("self", "args", "kwargs", "detail", "message")
        ]
        taken = f" ({', '.join(fields)})" if fields else ""
        lines.append(f"{'  ' * depth}- `bus.{kind.__name__}`{taken}: {first(kind)}")
    return "\n".join(lines) + "\n"


def classes(kind: type) -> Iterator[type]:
    yield kind
    for child in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
        if child.__module__ == "bus.errors" and issubclass(child, kind) and child.__mro__[1] is kind:
            yield from classes(child)


if __name__ == "__main__":
    print(page(), end="")

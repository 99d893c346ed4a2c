"""Part 11: the documents of `tests/vectors`, with `@names` and worlds that are like others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import world


@dataclass
class Vectors:
    cases: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By kind."""
    named: dict[str, bytes] = field(default_factory=dict)
    _worlds: dict[str, world.World] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Vectors:
        vectors = cls()
        for path in sorted(folder.glob("*.json")):
            document = json.loads(path.read_text("ascii"))
            if document["version"] != 1:
                raise ValueError(f"{path.name} is of another version")
            vectors.cases.setdefault(document["kind"], []).extend(document["cases"])
            vectors.named.update({name: bytes.fromhex(text) for name, text in document.get("bytes", {}).items()})
        return vectors

    def bytes(self, text: str) -> bytes:
        return self.named[text[1:]] if text.startswith("@") else bytes.fromhex(text)

    def world(self, name: str) -> world.World:
        """The same object each time: judging a case changes nothing in it."""
        if name not in self._worlds:
            self._worlds[name] = world.build(self._said(name), self.bytes)
        return self._worlds[name]

    def _said(self, name: str) -> dict[str, Any]:
        said = next(one for one in self.cases["world"] if one["name"] == name)
        return {**self._said(said["like"]), **said} if "like" in said else said

    def plain(self, value: Any) -> Any:
        """A result as it is compared: every `@name` written out."""
        if isinstance(value, str):
            return self.named[value[1:]].hex() if value.startswith("@") else value
        if isinstance(value, list):
            return [self.plain(one) for one in value]
        if isinstance(value, dict):
            return {name: self.plain(one) for name, one in value.items()}
        return value

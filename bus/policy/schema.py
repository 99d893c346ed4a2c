"""The policy language for machines: its JSON Schema (2020-12), made from the words, for editors and for checks elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus.policy.values import DURATION_PATTERN, SIZE_PATTERN, show_duration, show_size
from bus.policy.words import Document, Words

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DATA: Final = ("default", "examples", "enum")


def json_schema(model: type[Words] = Document) -> dict[str, Any]:
    """The schema of a policy file (or of another model of words)."""
    schema: dict[str, Any] = _tidy(model.model_json_schema(by_alias=True, mode="validation"))
    return {"$schema": DIALECT, "title": "tpmbus policy", **schema}


def _tidy(value: Any) -> Any:
    """As people write it: durations and sizes as text, no titles that repeat the key, no null."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "properties" in value:
        value = {**value, "properties": {name: _property(words) for name, words in value["properties"].items()}}
    if "patternProperties" in value:
        value = {**value, "additionalProperties": False}
    kept = {key: item for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    return {key: item if key in _DATA else _tidy(item) for key, item in kept.items()}


def _property(words: Mapping[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in words.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        words = {**choices[0], **{key: item for key, item in words.items() if key != "anyOf"}}
    changed = dict(words)
    if changed.get("default", 0) is None or (isinstance(changed.get("default"), Mapping) and "$ref" in changed):
        del changed["default"]
    if "default" in changed:
        changed["default"] = written(changed["default"], changed)
    return changed


def written(value: Any, words: Mapping[str, Any]) -> Any:
    """A default as somebody would write it in a file."""
    if words.get("pattern") == DURATION_PATTERN:
        return show_duration(value)
    if words.get("pattern") == SIZE_PATTERN:
        return show_size(value)
    if "anyOf" in words and value == 0 and words.get("type") == "string":
        return "entitled"
    return value

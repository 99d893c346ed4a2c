"""The policy language for people: docs/reference/policy.md, made from the same words as everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bus.policy.expectations import AllowedWords, AudienceWords, DeniedWords, ExpectationWords
from bus.policy.schema import json_schema
from bus.policy.words import (
    DenyWords,
    Document,
    GroupWords,
    RoleWords,
    RolloutWords,
    TopicWords,
    TpmWords,
    TrustWords,
    UidWords,
    Words,
)

_OPENING: Final = """# Policy: every key

<!-- Made by `tpmbus policy schema --reference` from bus/policy/words.py. Change that, not this. -->

A policy is one YAML file, or all `*.yaml` files directly in one folder (without `*.test.yaml`): they add up, and the same thing
said twice is a mistake. How to write one, step by step: [../how-to/write-a-policy.md](../how-to/write-a-policy.md).

Names of agents are upper case (`[A-Z][A-Z0-9]{0,31}`), names of roles lower case. A pattern is a topic in which `*` stands for one
token and a final `>` for one or more; tokens that begin with `_` belong to the protocol and match nothing. Durations are written
`500ms`, `60s`, `15m`, `24h`, `7d`, sizes `512B`, `64KiB`, `1MiB`. Of several topic rules that match, the most specific decides,
token by token from the left: a word beats `*`, `*` beats `>`. Denials win over permissions, and what nothing allows is refused.
The role of `"*"` cannot have `uids`.

YAML here is its plain part: no anchors, aliases, merge keys, tags or directives, one document a file, at most 1 MiB a file, 16 MiB
and 1,000 files in all. `NO`, `on` and `12:30` are text; only `true` and `false` are truth values. `+7` and `007` are mistakes. In
double quotes `\\"` and `\\\\` are the only escapes. Invisible characters and blanks other than the space are refused, in comments
too; lines end with LF or CRLF.

For an editor with a YAML language server, write the schema beside your policy and name it in the first line of each file:

    tpmbus policy schema > policy.schema.json
    # yaml-language-server: $schema=policy.schema.json
"""
_SECTIONS: Final[tuple[tuple[str, type[Words]], ...]] = (
    ("A policy file", Document),
    ("roles: NAME:", RoleWords),
    ("roles: NAME: deny:", DenyWords),
    ("roles: NAME: groups: -", GroupWords),
    ("roles: NAME: uids: -", UidWords),
    ("topics: -", TopicWords),
    ("rollout:", RolloutWords),
    ("trust:", TrustWords),
    ("tpm:", TpmWords),
    ("A file of expectations, *.test.yaml", ExpectationWords),
    ("allow: -", AllowedWords),
    ("deny: -", DeniedWords),
    ("audience: -", AudienceWords),
)


def markdown() -> str:
    return "\n".join((_OPENING, *(_section(title, model) for title, model in _SECTIONS)))


def _section(title: str, model: type[Words]) -> str:
    schema = json_schema(model)
    required = schema.get("required", ())
    rows = (_row(name, words, required=name in required) for name, words in schema["properties"].items())
    table = ("| key | value | default | meaning |", "|---|---|---|---|", *rows)
    return "\n".join((f"## `{title}`" if ":" in title else f"## {title}", "", schema["description"], "", *table, ""))


def _row(name: str, words: Mapping[str, Any], *, required: bool) -> str:
    default = "required" if required else _default(name, words)
    cells = (f"`{name}`", " or ".join(_kinds(words)), default, words.get("description", ""))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(name: str, words: Mapping[str, Any]) -> str:
    value = words.get("default")
    if value is None or value in ([], {}) or name == "purposes":
        return ""
    return f"`{hex(value) if name == 'handle' else _yaml(value)}`"


def _kinds(words: Mapping[str, Any]) -> Iterator[str]:
    """What may stand there, in a few words."""
    choices = words.get("enum", [words["const"]] if "const" in words else None)
    if choices:
        yield ", ".join(f"`{choice}`" for choice in choices)
    elif "examples" in words:
        example = words["examples"][0]
        yield f"such as `{hex(example) if words.get('minimum', 0) >= 0x81000000 else _yaml(example)}`"
    elif "$ref" in words:
        yield "a mapping, see below"
    elif words.get("type") == "array":
        yield "a list, see below"
    else:
        yield "a mapping, see below"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return value if isinstance(value, str) else json.dumps(value)

"""Makes all vectors anew. Run by hand: python tests/vectors/make.py

All keys and random bytes of ours come from fixed seeds. RSA-PSS, ECDSA, ML-DSA and HPKE draw their own randomness, so each run
makes other bytes: that is why the files are kept, and made again only when a vector has to change. Which code each negative case
must give is written down where it is made; nothing here asks the code under test what it would say, but for the lists of `flips`,
which two readers must agree on.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import vector_envelopes
import vector_flips
import vector_grants
import vector_ranges
import vector_refusals
import vector_trust
import vector_values
from vector_stage import Stage

HERE: Final = Path(__file__).parent
SHARED_BYTES: Final = 150
"""What is longer than this and stands twice is written once."""


def written(stage: Stage) -> dict[str, str]:
    """File -> text."""
    documents: dict[str, dict[str, Any]] = {
        name: {"version": 1, "kind": kind, "cases": cases} for name, (kind, cases) in stage.documents.items()
    }
    worlds: dict[str, Any] = {"version": 1, "kind": "world", "bytes": {}, "cases": list(stage.worlds.values())}
    documents["worlds"] = worlds
    counts: Counter[bytes] = Counter()
    for document in documents.values():
        count(document, counts)
    names = {data: stage.names.get(data) or f"bytes {place}" for place, data in enumerate(d for d in counts if counts[d] > 1)}
    texts = {f"{name}.json": text(shown(document, names)) for name, document in documents.items() if name != "worlds"}
    world_text = shown(worlds, names) | {"bytes": {name: data.hex() for data, name in names.items()}}
    return texts | {"worlds.json": text(world_text)}


def count(value: Any, counts: Counter[bytes]) -> None:
    if isinstance(value, dict):
        for one in value.values():
            count(one, counts)
    elif isinstance(value, list | tuple):
        for one in value:
            count(one, counts)
    elif isinstance(value, bytes) and len(value) > SHARED_BYTES:
        counts[value] += 1


def shown(value: Any, names: dict[bytes, str]) -> Any:
    if isinstance(value, dict):
        return {key: shown(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown(one, names) for one in value]
    if isinstance(value, bytes):
        return f"@{names[value]}" if value in names else value.hex()
    return value


def text(document: dict[str, Any]) -> str:
    """One case a line, so that a change shows which."""
    head = {key: value for key, value in document.items() if key not in ("cases", "bytes")}
    lines = [json.dumps(head)[:-1] + ","]
    if "bytes" in document:
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in document["bytes"].items())
        lines.append(f' "bytes": {{\n{rows}\n }},')
    rows = ",\n".join("  " + json.dumps(case) for case in document["cases"])
    lines.append(f' "cases": [\n{rows}\n ]}}')
    return "\n".join(lines) + "\n"


def main() -> None:
    stage = Stage()
    cast = vector_envelopes.Cast(stage)
    vector_envelopes.make(cast)
    vector_refusals.make(cast)
    vector_grants.make(cast)
    vector_refusals.cosignatures(vector_envelopes.cosigned(stage))
    vector_trust.make(cast)
    vector_values.make(stage)
    vector_ranges.make(stage)
    for name, content in written(stage).items():
        (HERE / name).write_text(content)
        print(f"{name}: {len(content):,} bytes")
    flips = text({"version": 1, "kind": "flips", "cases": vector_flips.document()})
    (HERE / "flips.json").write_text(flips)
    print({name: len(cases) for name, (_, cases) in stage.documents.items()}, len(stage.worlds), "worlds")


if __name__ == "__main__":
    main()

"""Every byte of a few structures changed in turn: the code for each place, as the code under test gives it.

These lists are the one thing here that is asked of the code and not said beforehand: a second reader must find the same.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from bus.errors import BusError

CASES: Final = (
    ("envelopes", "one record by session, AES-256-GCM", (0x01, 0x20, 0x80)),
    ("envelopes", "XChaCha20-Poly1305 and a hybrid epoch", (0x01, 0x80)),
    ("grants", "a live epoch, x25519, to a session key", (0x01, 0x20, 0x80)),
    ("papers", "papers of BUILDER", (0x01,)),
    ("statements", "nobody", (0x01,)),
    ("certificates", "of the profile agent, for agent", (0x01,)),
    ("crls", "every reason", (0x01,)),
)


def flipped(case: dict[str, Any], xor: int, judge: Any) -> list[list[Any]]:
    """Runs of codes. `judge` gives a code, or a result: and that would be a forgery."""
    data = bytes.fromhex(case["bytes"])
    codes = []
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ xor]) + data[place + 1 :]
        code = judge(case | {"bytes": changed.hex()})
        if not isinstance(code, str):
            raise TypeError(f"{case['name']}: byte {place} may be changed by {xor:02x}")
        codes.append(code)
    return [[code, len(list(run))] for code, run in groupby(codes)]


def document() -> list[dict[str, Any]]:
    """From the documents that were written."""
    import product_reader

    product_reader.documents.cache_clear()
    found = []
    for stem, name, changes in CASES:
        kind = product_reader.documents()[stem]["kind"]
        [case] = [one for one in product_reader.documents()[stem]["cases"] if one["name"] == name]
        read = product_reader.READERS[kind]
        kept = {key: value for key, value in case.items() if key not in ("result", "made_with", "name")}
        for xor in changes:
            codes = flipped(case, xor, lambda one, read=read: code_of(read, one, product_reader.ParkedError))
            found.append({"name": f"{kind}: {name}, {xor:02x}", "of": kind, **kept, "xor": xor, "codes": codes})
    return found


def code_of(read: Any, case: dict[str, Any], parked: type[Exception]) -> Any:
    try:
        return read(case)
    except (BusError, parked) as error:
        return error.reason  # type: ignore[union-attr,attr-defined]  # all have one

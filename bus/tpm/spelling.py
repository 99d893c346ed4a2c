"""How people name TPMs: one, or several with semicolons between.

    swtpm                                      the state folder's own software TPM
    swtpm*3                                    three of its own: swtpm, swtpm-2 and swtpm-3
    device:/dev/tpmrm0;swtpm:host=h,port=2321  two that the TSS reaches by these TCTI strings
    software                                   none at all; alone

A TCTI string has commas, colons and equals signs, so none of these can part two of them. A semicolon that belongs to one is
written twice. What a TPM is called in tables, errors and the vault is its item here.
"""

from __future__ import annotations

import re
from typing import Final

from bus.errors import TpmRefusedError
from bus.tpm.interface import SOFTWARE

OWN_SWTPM: Final = "swtpm"
MAX_TPMS: Final = 16
"""Each has a thread here, and each of our own a process."""
MAX_NAME: Final = 1_024
_SEVERAL: Final = re.compile(r"swtpm\*([1-9][0-9]?)", re.ASCII)
_OWN: Final = re.compile(r"swtpm(-([2-9]|1[0-6]))?", re.ASCII)


def tpms_of(text: str) -> tuple[str, ...]:
    """The names of the TPMs that a text names, in its order. Raises TpmRefusedError("tpm_spelling")."""
    names = [name for item in _items(text) for name in _named(item)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _wrong(text, f"it names {twice} twice")
    if len(names) > MAX_TPMS:
        raise _wrong(text, f"it names {len(names)} TPMs, and one engine has {MAX_TPMS} at most")
    if SOFTWARE in names and len(names) > 1:
        raise _wrong(text, "the software keystore is beside TPMs anyway; `software` stands alone and means that there is none")
    return tuple(names)


def is_own(name: str) -> bool:
    """Whether it is one of the state folder's own."""
    return _OWN.fullmatch(name) is not None


def _items(text: str) -> list[str]:
    items, item, place = [], "", 0
    while place < len(text):
        if text[place] != ";":
            item += text[place]
        elif text.startswith(";;", place):
            item += ";"
            place += 1
        else:
            items.append(item.strip())
            item = ""
        place += 1
    items.append(item.strip())
    if not all(items):
        raise _wrong(text, "it has an item that is empty")
    if max(map(len, items)) > MAX_NAME:
        raise _wrong(text, f"an item has more than {MAX_NAME} characters")
    return items


def _named(item: str) -> list[str]:
    found = _SEVERAL.fullmatch(item)
    if found is not None:
        return [OWN_SWTPM, *(f"{OWN_SWTPM}-{number}" for number in range(2, int(found[1]) + 1))]
    if item.startswith((f"{OWN_SWTPM}*", f"{OWN_SWTPM}-")) and not is_own(item):
        raise _wrong(item, f"the state's own are swtpm, swtpm-2 .. swtpm-{MAX_TPMS}, or swtpm*N for the first N")
    return [item]


def _wrong(text: str, why: str) -> TpmRefusedError:
    usage = "write `swtpm`, `swtpm*3`, or TCTI strings with semicolons between, such as 'device:/dev/tpmrm0;device:/dev/tpmrm1'"
    return TpmRefusedError("tpm_spelling", f"{text[:100]!r} names no TPMs: {why}; {usage}")

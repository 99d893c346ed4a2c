"""Where `agents/` and `policies/` are: data inside the installed package, folders beside `bus/` in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The shipped folder of this name (`agents` or `policies`)."""
    inside, beside = _PACKAGE / "shipped_data" / name, _PACKAGE.parent / name
    return inside if inside.is_dir() else beside

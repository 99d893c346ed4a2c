"""Which Python it is, by what each says of how it was configured."""

from __future__ import annotations

import sysconfig

import pytest

from bus.hub import doctor, interpreter


def configured(monkeypatch, arguments: str | None, prefix: str) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", {"CONFIG_ARGS": arguments}.get)
    monkeypatch.setattr("sys.base_prefix", prefix)


@pytest.mark.parametrize(
    ("arguments", "prefix", "is_optimized"),
    [
        ("'--prefix=/opt/pyenv/versions/3.11.7' '--enable-shared'", "/opt/pyenv/versions/3.11.7", False),
        ("'--prefix=/opt/pyenv/versions/3.11.7' '--enable-optimizations'", "/opt/pyenv/versions/3.11.7", True),
        ("'--prefix=/usr' '--without-ensurepip'", "/usr", True),  # Debian's
        (None, r"C:\Python311", True),
    ],
    ids=["pyenv", "pyenv, told to", "Debian", "Windows"],
)
def test_one_that_was_compiled_without_optimization_is_said_to_be(monkeypatch, arguments, prefix, is_optimized):
    configured(monkeypatch, arguments, prefix)
    assert interpreter.is_optimized() is is_optimized
    assert interpreter.described().endswith(" (compiled without optimization)") is not is_optimized
    assert ["Python" in finding.about for finding in doctor.software()].count(True) == (not is_optimized)

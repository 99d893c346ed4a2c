"""Which Python runs this, and whether it was compiled to be quick.

Compiled without optimization, as pyenv does unless it is told otherwise, the same version is slower: by a third in loops of Python
alone, by a quarter in what the bus sends a second. Distributions, python.org, conda and uv give optimized ones.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
from typing import Final

_OF_THE_SYSTEM: Final = "/usr"
"""Distributions optimize theirs, and Debian does it without saying so in what it gives to `configure`."""


def is_optimized() -> bool:
    given = sysconfig.get_config_var("CONFIG_ARGS")
    return given is None or "--enable-optimizations" in given or sys.base_prefix == _OF_THE_SYSTEM


def described() -> str:
    version = platform.python_version()
    return version if is_optimized() else f"{version} (compiled without optimization)"

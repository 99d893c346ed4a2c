"""Where it was measured: what two results must have in common before their figures may be compared."""

from __future__ import annotations

import os
import platform
from typing import Any

from bus.hub import interpreter


def machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "python": interpreter.described(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }

"""What a process of a fleet made while it began stays as long as it runs: the collector need not look at it again and again.

With 76 agents those are some hundred thousand objects, and a look at all of them stops everything for a tenth of a second.
"""

from __future__ import annotations

import gc


def leave_what_is_here() -> None:
    """From now on only what is made later is looked at. For programs of our own, when they have begun."""
    gc.collect()
    gc.freeze()

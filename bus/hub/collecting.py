"""What a process of ours made while it began stays as long as it runs: the collector need not look at it again and again.

With 76 agents those are some hundred thousand objects, and a look at all of them stops everything for a tenth of a second. What is
made later is looked at by the ten thousand, not by the 700: nearly all that a message makes is let go of by itself, and looking at
what is still on its way took a tenth of a broker's time. What was still there then is looked at once more after two further times,
not ten: when a crowd connects, that is all it made, and a hundred thousand objects at once are another twentieth of a second.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""Objects that are made and not let go of, until those are looked at."""
MIDDLE: Final = 2
"""Times after which what has survived is looked at as well."""
OLD: Final = 30
"""Times of that after which it is everything, if there is a quarter more of it."""


def leave_what_is_here() -> None:
    """From now on only what is made later is looked at, and that less often. For programs of our own, when they have begun.

    The garbage that there is stays too: of what a hub with 76 agents has by then it is a twentieth, and to find it took a tenth of
    a second before anybody could come.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)

"""Do they add up? Every message of the reference traffic, counted once for each reader that is to get it:

    published = delivered + dropped (by reason) + refused (by reason) + unaccounted

Published and delivered are what the players saw with their own eyes. What hosts and brokers say they dropped or refused explains
the difference, and what nobody explains is `unaccounted`: nothing, if all is well and has come to rest; less than nothing, if
something came twice. What they dropped or refused beyond the difference was of other messages, and stands under `besides`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus.fleet.mix import Mix


def readers(mix: Mix, topic: str) -> int:
    """How many are to get a message of this topic: each subscription that is its reader's own, and one for each group."""
    listeners = mix.listeners(topic)
    return sum(row.group is None for row in listeners) + len({row.group for row in listeners if row.group is not None})


def books(mix: Mix, play: Mapping[str, Any], *, dropped: Mapping[str, int], refused: Mapping[str, int]) -> dict[str, Any]:
    """`play` is the sum of what the players read; `dropped` and `refused` what hosts and brokers say."""
    due = sum(count * readers(mix, topic) for topic, count in play["published"].items())
    delivered = sum(play["delivered"].values())
    missing = due - delivered
    seen, missing = _explained(play["dropped"], missing)
    lost, missing = _explained(dropped, missing)
    turned_away, missing = _explained(refused, missing)
    return {
        "messages": sum(play["published"].values()),
        "not_sent": dict(play["not_sent"]),
        "published": due,
        "delivered": delivered,
        "dropped": {**lost, **seen},
        "refused": turned_away,
        "unaccounted": missing,
        "besides": {"dropped": _beyond(dropped, lost), "refused": _beyond(refused, turned_away)},
    }


def _explained(reasons: Mapping[str, int], missing: int) -> tuple[dict[str, int], int]:
    """How much of what is missing these reasons explain, and what is left of it."""
    explained = {}
    for reason, count in reasons.items():
        taken = min(count, max(missing, 0))
        missing -= taken
        if taken:
            explained[reason] = taken
    return explained, missing


def _beyond(reasons: Mapping[str, int], explained: Mapping[str, int]) -> dict[str, int]:
    return {reason: left for reason, count in reasons.items() if (left := count - explained.get(reason, 0))}

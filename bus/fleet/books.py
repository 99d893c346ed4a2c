"""Do they add up? Every message of the reference traffic, counted once for each reader that is to get it:

    published = delivered + dropped (by reason) + refused (by reason) + unaccounted

Published and delivered are what the players saw with their own eyes. What hosts and brokers say they dropped or refused explains
the difference, and what nobody explains is `unaccounted`: nothing, if all is well and has come to rest.
"""

from __future__ import annotations

from collections import Counter
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
    lost = {reason: count for reason, count in (Counter(dropped) + Counter(play["dropped"])).items() if count}
    turned_away = {reason: count for reason, count in refused.items() if count}
    return {
        "messages": sum(play["published"].values()),
        "not_sent": dict(play["not_sent"]),
        "published": due,
        "delivered": delivered,
        "dropped": lost,
        "refused": turned_away,
        "unaccounted": due - delivered - sum(lost.values()) - sum(turned_away.values()),
    }

"""The private keys that open grants to the agents of this host, by agent and key id.

    of sessions    the host's pairs, the current one and those before it; each with every session certificate that named it
    of inboxes     what was unsealed of each agent's inbox keys

A pair that opens no more is let go of here; until when it opens is decided where the pairs are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bus.identity.envelopes.granting import OwnKey
from bus.identity.host.forks import retired_in_a_child
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Session
from bus.protocol.kem import PrivateKey


class OwnKeys:
    def __init__(self) -> None:
        self.table: dict[tuple[str, bytes], OwnKey] = {}
        retired_in_a_child(self)

    def renewed(self, sessions: Mapping[str, Session]) -> None:
        """These are the current sessions. What was sealed to the earlier ones may still come."""
        for name, session in sessions.items():
            key = name, session.keys.kem_key_id
            known = self.table.get(key)
            ids = known.sessions if known is not None else frozenset()
            self.table[key] = OwnKey(name, session.keys, ids | {session.id})

    def take_inbox(self, agent: str, key: PrivateKey) -> None:
        self.table[agent, key.id] = OwnKey(agent, key, frozenset())

    def keep_inboxes(self, agent: str, ids: Iterable[bytes]) -> None:
        """Forget this agent's inbox keys but for these."""
        kept = set(ids)
        for name, key_id in [place for place, own in self.table.items() if place[0] == agent and not own.sessions]:
            if key_id not in kept:
                del self.table[name, key_id]

    def forget(self) -> None:
        for place, own in list(self.table.items()):
            if isinstance(own.key, HostKeys) and not own.key.can_open:
                del self.table[place]

    def retire(self) -> None:
        self.table.clear()

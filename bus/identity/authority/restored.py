"""A journal that came from a backup: what was done since, as far as the published list and statement tell.

Without that, an authority that was restored would let those in again who were revoked since, and its next statement would take
their generations and the ends of their sessions back. Certificates that were issued since are not in the journal, and stay so.
"""

from __future__ import annotations

from bus.identity.authority.index import Change, Index
from bus.trust.revocations import RevocationList
from bus.trust.statement import Statement


def taken_back(index: Index, crl: RevocationList | None, said: Statement | None) -> list[Change]:
    """The changes that the journal has not heard of; none where it is as new as what was published."""
    changes = []
    if crl is not None and crl.number > index.numbers.get("crl", 0):
        changes.append(Change(revoked=crl.revoked, numbers={"crl": crl.number}))
    if said is not None and said.number > index.numbers.get("statement", 0):
        changes.append(_of_statement(index, said))
    return changes


def _of_statement(index: Index, said: Statement) -> Change:
    """Generations and ends of sessions only rise. Of ML-DSA keys the newer word counts: a revoked name has none."""
    return Change(
        generations={name: max(one, index.generations.get(name, 0)) for name, (one, _) in said.agents.items()},
        sessions={name: max(one, index.sessions.get(name, 0)) for name, (_, one) in said.agents.items()},
        ml_dsa={**dict.fromkeys(index.ml_dsa, b""), **said.ml_dsa},
        numbers={"statement": said.number},
    )

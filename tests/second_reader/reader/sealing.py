"""Part 6, "Sealing": whom a sender lets read, from the third line of the table on."""

from __future__ import annotations

from . import digests, now
from .body import read_params
from .papers import Inbox, Papers
from .refusal import demand
from .world import World


def key_for(
    world: World, clock_ms: int, params: bytes, reader: Papers | Inbox, *, members: list[list[object]], highest_counter: int
) -> bytes:
    """The id of the key that the epoch is sealed to."""
    clock, wanted = now.fresh(world, clock_ms), read_params(params)
    inbox = reader if isinstance(reader, Inbox) else None
    body = reader.body if isinstance(reader, Inbox) else reader.session
    generation, sessions_begin = world.statement.body.of(body.name)
    demand([body.name, generation] in members, "not_permitted", "not in the audience")
    demand(not world.crl.at(reader.identity.serial, clock), "revoked", "the identity")
    if inbox:
        demand(wanted.durable, "not_permitted", "an inbox key for a live epoch")
        demand(inbox.body.counter >= highest_counter, "inbox_rollback")
    else:
        demand(body.not_before >= sessions_begin, "revoked", "the session")
    if isinstance(reader, Papers):
        demand(reader.statement.body.issued_ms >= sessions_begin, "revoked", "its statement")
    in_time = body.not_before - now.SKEW_MS <= clock <= body.not_after
    demand(in_time and (not inbox or clock <= inbox.identity.not_after_ms), "untrusted", "time")
    demand(body.kem >= wanted.kem, "kem_too_weak")
    return digests.key_id(body.kem, body.kem_key)

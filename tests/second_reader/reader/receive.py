"""Part 6: the eleven lines for an envelope of data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import aead, digests, now
from .body import Params, Record, read_body, read_plaintext
from .entitled import Matter, entitled
from .header import Header, read_envelope, read_header
from .names import AUDIT, REPLY, matches
from .papers import Papers
from .policy import Rule
from .proof import Proof, Signed
from .refusal import Refused, demand
from .replay import Window
from .world import Epoch, Request, Subscription, World

REPLY_TTL_MS = 60_000


@dataclass(frozen=True)
class Opened:
    """What was read; `header_bytes` and so on are for comparing, not for use."""

    header: Header
    records: list[Record]
    all_finished: bool = False
    papers: Papers | None = None
    proof: Proof | None = None
    signed: Signed | None = None
    header_bytes: bytes = b""
    sealed: bytes = b""
    plaintext: bytes = b""
    body: bytes = b""
    epoch: Epoch | None = None


def open_envelope(world: World, data: bytes, clock_ms: int, *, dead: bool = False) -> Opened:
    clock = now.fresh(world, clock_ms)
    header_bytes, sealed = read_envelope(data)
    header = read_header(header_bytes)
    demand(header.kind == 1, "malformed", "a grant among data")
    subscriptions, request = _for_me(world, header, clock, dead=dead)
    rule = _rule(world, header, request)
    now.in_time(header, clock, until_ms=header.sent_ms + rule.ttl_ms if dead else header.expires_ms)
    demand(header.expires_ms - header.sent_ms <= rule.ttl_ms, "ttl_too_long")
    epoch = _epoch(world, header, rule)
    left = _not_replayed(world, header, subscriptions, request)
    if left is None:
        return Opened(header, [], all_finished=True)
    key = digests.content_key(epoch.secret, epoch.params_bytes)
    plaintext = aead.opened(epoch.params.aead, key, header.seq, header_bytes, sealed)
    papers = now.known_papers(world, header)
    proof, body = read_plaintext(plaintext)
    content = digests.envelope_content(proof.known_suite(), proof.blind, header_bytes, body)
    signed = proof.signed(1, content)
    now.signature(papers, proof, signed, digests.host_signer(papers.session.host_key))
    now.papers_now(world, papers, header)
    matter = Matter(world, header, rule, request, dead=dead)
    entitled(matter, papers, proof, signed)
    records = _agreement(header, body)
    chosen = [record for record in records if record.index in left]
    return Opened(header, chosen, False, papers, proof, signed, header_bytes, sealed, plaintext, body, epoch)


# ---- line 2


def _for_me(world: World, header: Header, clock: int, *, dead: bool) -> tuple[list[Subscription], Request | None]:
    if header.flags == 2:
        demand(not dead, "unsolicited", "a reply is never a dead letter")
        return [], _request(world, header, clock)
    found = [one for one in world.subscriptions if one.dead == dead and matches(one.pattern, header.topic)]
    demand(found, "unsolicited", "no subscription")
    return found, None


def _request(world: World, header: Header, clock: int) -> Request:
    match = REPLY.fullmatch(header.topic)
    demand(match, "unsolicited", "no topic of a reply")
    name, session = match.groups() if match else ("", "")
    for request in world.requests:
        if request.id == header.ref and name == world.agent and bytes.fromhex(session) in request.sessions:
            demand(clock <= request.expires_ms, "unsolicited", "too late")
            return request
    raise Refused("unsolicited", "not asked")


def _rule(world: World, header: Header, request: Request | None) -> Rule:
    if request is not None:
        rule = world.policy.rule(request.topic)
        return replace(rule, durable=False, ttl_ms=REPLY_TTL_MS) if rule.durable else rule
    return Rule() if AUDIT.fullmatch(header.topic) else world.policy.rule(header.topic)


# ---- line 4


def _epoch(world: World, header: Header, rule: Rule) -> Epoch:
    epoch = world.epochs.get(header.epoch)
    if epoch is None:
        raise Refused("missing_key")
    params: Params = epoch.params
    fits = (
        params.sender == header.sender
        and params.made_ms - now.SKEW_MS <= header.sent_ms <= params.ends_ms
        and header.priority == params.priority
        and header.priority in rule.priorities
        and params.domain == world.domain
        and params.durable == rule.durable
        and params.signed_by >= int(rule.identity)
        and (rule.durable or params.kem >= rule.kem)
    )
    demand(fits, "wrong_epoch")
    return epoch


# ---- line 5


def _not_replayed(world: World, header: Header, subscriptions: list[Subscription], request: Request | None) -> set[int] | None:
    """Indexes of the records that somebody still waits for; None if all was finished."""
    everything = set(range(header.records))
    if request is not None:
        _window(world, header)
        return everything
    left: set[int] = set()
    refusals: list[Refused] = []
    finished = False
    for one in subscriptions:
        try:
            wanted = _ledger(world, header) if one.durable else _live(world, header)
        except Refused as refused:
            refusals.append(refused)
            continue
        finished = finished or not wanted
        left |= wanted
    if left:
        return left
    if finished:
        return None
    raise refusals[0]


def _live(world: World, header: Header) -> set[int]:
    demand(header.sent_ms >= world.began_ms, "before_session")
    _window(world, header)
    return set(range(header.records))


def _window(world: World, header: Header) -> None:
    if header.epoch in world.windows:
        world.windows[header.epoch][1].check(header.seq)
        return
    durable = {epoch: known.params.durable for epoch, known in world.epochs.items()}
    kept = [(sender, durable.get(epoch, False)) for epoch, (sender, _) in world.windows.items()]
    demand(world.takes_another(header.sender, kept, durable=durable[header.epoch]), "too_many_epochs")


def _ledger(world: World, header: Header) -> set[int]:
    left = set(world.ledger.unfinished(header.epoch, header.seq, header.records))
    demand(not left or not world.ledger.full, "ledger_full")
    return left


# ---- line 10


def _agreement(header: Header, body: bytes) -> list[Record]:
    records = read_body(body)
    demand(len(records) == header.records, "malformed", "number of records")
    if header.flags == 2:
        demand(len(header.ref) == 16 and header.records == 1 and REPLY.fullmatch(header.topic), "malformed", "a reply")
        return records
    demand(not header.ref and not header.topic.startswith(("_reply.", "_grant.")), "malformed", "ref or topic")
    if header.flags == 1:
        demand(header.records == 1 and not header.topic.startswith("_"), "malformed", "a request")
    return records


def commit(world: World, header: Header) -> None:
    """Line 11, for what is not durable."""
    sender, window = world.windows.setdefault(header.epoch, (header.sender, Window()))
    window.check(header.seq)
    window.commit(header.seq)
    world.windows[header.epoch] = (sender, window)

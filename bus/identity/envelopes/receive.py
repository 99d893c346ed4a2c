"""The receiver's eleven lines: what is asked of every envelope before an agent sees it, in this order.

     1 parse                  malformed                              7 proof                bad_proof, untrusted, or park
     2 for me                 unsolicited                            8 the signer           untrusted, revoked
     3 times                  from_future, expired, ttl_too_long     9 policy               not_permitted, wrong_signer, bad_proof
     4 epoch                  wrong_epoch, or park                  10 records              malformed
     5 new                    before_session, replayed, too_old,    11 commit, hand over    replayed, too_many_epochs
                              too_many_epochs, ledger_full
     6 open                   bad_seal, malformed

Past the end of its trust statement a host judges nothing: trust_stale. One snapshot judges the whole of it. The AEAD only hides:
every reader holds the key, so the signature alone says who sent it. No replay state moves before line 11, or any reader could
shut the sender out with one forged number. What is refused is never held against the sender that it claims. Lines 2, 5, 9 and 11
are for each agent, the others once a host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from bus.errors import VerificationError
from bus.flow.ledger import Ledger
from bus.identity.envelopes.arrival import check_times
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Alike, Hearing, Listening, Request, Subscription
from bus.identity.envelopes.proofs import check_cosignature, check_proof
from bus.identity.envelopes.reserved import AUDIT, requester_of
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol import records as columns
from bus.protocol.codec import malformed
from bus.protocol.header import DATA, REPLY, REQUEST, Header
from bus.protocol.proof import Proof
from bus.protocol.records import Records
from bus.protocol.suites import HOST_SUITE


class Parked(NamedTuple):
    """Nothing is wrong with it so far: it waits for a key, or for the papers of its session."""

    reason: str
    """missing_key, missing_papers."""
    header: Header


@dataclass(slots=True)
class Received:
    """One that passed, and for whom. Without records, nobody is left who had not finished it."""

    header: Header
    hearings: list[Hearing] = field(default_factory=list)
    done: list[Subscription] = field(default_factory=list)
    """Durable subscriptions that finished it before: acknowledge it again, in silence."""
    refused: list[tuple[Subscription, VerificationError]] = field(default_factory=list)
    """Agents of this host for which alone it is refused."""
    live: bool = False
    """Whether the window counts it: a subscription without a ledger gets it, or it is an answer."""
    answers: tuple[str, Request] | None = None
    """Whose request it answers."""
    durable: bool = False
    """Of which class its epoch is."""
    until_ms: int = 0
    """The last moment at which it can be accepted: what a ledger needs to know of records that it finished."""
    records: Records | None = None
    size_bytes: int = 0
    """Of all records together."""
    believed: Believed | None = None
    proof: Proof | None = None
    content: bytes = b""

    @property
    def by_identity(self) -> bool:
        return self.proof is not None and self.proof.suite != HOST_SUITE.number


def receive(
    data: bytes,
    held: Held,
    *,
    snapshot: Snapshot,
    listening: Listening,
    now_ms: int,
    dead: bool = False,
    named: frozenset[Subscription] | None = None,
) -> Received | Parked:
    """Judge one envelope of data, from the wire to the agents. `dead`: it came as a dead letter.

    `named`: those alone may get it, of all that it reaches; where it was kept, others have a delivery of their own.

    Raises RemoteProtocolError("malformed") and VerificationError with the reasons above: then nobody on this host gets it.
    """
    now_ms = snapshot.judged_at(now_ms)
    header_bytes, sealed = envelopes.split(data)
    header = headers.parse(header_bytes)
    if header.kind != DATA:
        raise malformed("this kind of envelope carries no records")
    received = Received(header)
    reply = header.flags == REPLY
    topic, reached = _reached(received, listening, now_ms=now_ms, dead=dead, named=named)
    ttl_ms = snapshot.rule(topic, reply=reply).ttl_ms
    check_times(header, ttl_ms, now_ms=now_ms, dead=dead)
    received.until_ms = header.sent_ms + ttl_ms if dead else header.expires_ms
    epoch = held.epochs.get(header.epoch)
    if epoch is None:
        return Parked("missing_key", header)
    arrival = snapshot.arrival(epoch, topic, reply=reply)
    arrival.check_epoch(header)
    received.durable = epoch.params.is_durable
    alike = listening.alike(topic, reached, snapshot)
    _check_new(received, reached, alike, held)
    if not received.hearings and received.answers is None:
        return _nothing_left(received)
    plaintext = epoch.open(sealed, seq=header.seq, header=header_bytes)
    believed = held.sessions.get(header.session)
    if believed is None:
        return Parked("missing_papers", header)
    proof, body = envelopes.split_plaintext(plaintext)
    standing = snapshot.standing(believed, topic, reply=reply)
    verified = held.verifier.verifications
    received.content, tbs = check_proof(proof, header_bytes, body, believed=believed, verifier=held.verifier, now_ms=now_ms)
    received.proof = proof
    standing.check_signer(header)
    standing.check_policy(header, by_identity=received.by_identity)
    if standing.cosign_key is not None:
        check_cosignature(proof, tbs, key=standing.cosign_key, agent=believed.name, verifier=held.verifier, now_ms=now_ms)
    if not alike.hearings:  # else that was asked for all of them
        _check_hearers(received, topic, snapshot, dead=dead)
    received.records, received.size_bytes = _check_records(header, body), len(body)
    received.believed = believed
    if received.live:
        held.windows.commit(
            header.epoch, header.seq, sender=header.sender, ends_ms=epoch.params.ends_ms, ttl_ms=ttl_ms, durable=received.durable
        )
    held.opened += 1
    held.proved += held.verifier.verifications - verified
    held.handed_over += header.records if received.answers is not None else 0
    for one in received.hearings:
        held.handed_over += header.records if one.indexes is None else len(one.indexes)
    return received


def _reached(
    received: Received, listening: Listening, *, now_ms: int, dead: bool, named: frozenset[Subscription] | None
) -> tuple[str, tuple[Subscription, ...]]:
    """Line 2. The topic whose rule counts, and the subscriptions that it reaches."""
    header = received.header
    if header.flags == REPLY:
        received.answers = None if dead else listening.asked(header, now_ms=now_ms)  # no reply becomes a dead letter
        if received.answers is not None:
            return received.answers[1].topic, ()
    else:
        reached = listening.reached(header.topic, dead=dead, named=named)
        if reached:
            return header.topic, reached
    raise VerificationError(
        "unsolicited", agent=header.sender, detail=f"nobody here subscribed {header.topic}, or waits for this reply"
    )


def _check_new(received: Received, reached: tuple[Subscription, ...], alike: Alike, held: Held) -> None:
    """Line 5. Moves nothing. Once for all who are alike, if nothing is to be refused; who is refused why, is found one by one."""
    if received.answers is not None:
        _check_window(received, held)
    elif alike.hearings and received.header.sent_ms >= alike.began_ms:
        _check_window(received, held)
        received.hearings = [*alike.hearings]
        return
    for one in reached:
        try:
            if one.ledger is None:
                _check_live(received, one, held)
            else:
                _check_ledger(received, one, one.ledger)
        except VerificationError as error:
            received.refused.append((one, error))


def _check_live(received: Received, one: Subscription, held: Held) -> None:
    header = received.header
    if header.sent_ms < one.began_ms:
        raise VerificationError("before_session", agent=header.sender, detail=f"sent before {one.agent} began")
    _check_window(received, held)
    received.hearings.append(Hearing(one, None, redelivered=False))


def _check_ledger(received: Received, one: Subscription, ledger: Ledger) -> None:
    header = received.header
    verdict = ledger.decide(header.epoch, header.seq, records=header.records)
    if verdict.unfinished:
        indexes = None if len(verdict.unfinished) == header.records else verdict.unfinished
        received.hearings.append(Hearing(one, indexes, verdict.redelivered))
    elif verdict.done:
        received.done.append(one)


def _check_window(received: Received, held: Held) -> None:
    header = received.header
    if not received.live:
        held.windows.check(header.epoch, header.seq, sender=header.sender, durable=received.durable)
    received.live = True


def _nothing_left(received: Received) -> Received:
    """Every subscription has finished it or refuses it. If all refuse, it is refused."""
    if not received.done and received.refused:
        raise received.refused[0][1]
    return received


def _check_hearers(received: Received, topic: str, snapshot: Snapshot, *, dead: bool) -> None:
    """Line 9, for each agent that would get it."""
    barred = [one for one in received.hearings if not snapshot.may_hear(one.subscription.agent, topic, dead=dead)]
    if not barred:
        return
    for one in barred:
        detail = f"{one.subscription.agent} may not hear {topic}"
        error = VerificationError("not_permitted", agent=received.header.sender, detail=detail)
        received.refused.append((one.subscription, error))
        received.hearings.remove(one)
    if not received.hearings:
        raise received.refused[-1][1]
    received.live = any(one.subscription.ledger is None for one in received.hearings)


def _check_records(header: Header, body: bytes) -> Records:
    """Line 10."""
    records = columns.parse(body)
    if len(records.payloads) != header.records:
        raise malformed(f"the header says {header.records} records, and {len(records.payloads)} came")
    if (fault := _disagreement(header)) is not None:
        raise malformed(fault)
    return records


def _disagreement(header: Header) -> str | None:
    """Why flags, ref and topic of a header do not belong together."""
    flags, reserved = header.flags, header.topic.startswith("_")
    if flags == REPLY:
        if header.records != 1 or not header.ref or requester_of(header.topic) is None:
            return "a reply is one record, says to which request, and goes to the requester's session"
    elif header.ref or (reserved and not header.topic.startswith(AUDIT)):
        return "what is no reply has no ref, and does not go where replies and grants go"
    elif flags == REQUEST and (header.records != 1 or reserved):
        return "a request is one record, on a topic of policy"
    return None

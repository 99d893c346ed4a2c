"""The sender's half: records become drafts, one signature covers all drafts of a turn, and each is sealed under its epoch.

    draft    number taken, header and body packed, content hashed              no waiting between number and header
    sign     one root over the contents of the turn                            by the host key here, by the identity key elsewhere
    seal     proof and body under the epoch's key, the header beside them      once; a draft that is given up burns its number

Pure: the time and the random bytes are arguments. Whether the sender may publish, and who may read, was asked before
(`granting`, and the caller's policy); nothing here asks anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from bus.errors import MessageTooLargeError
from bus.protocol import contexts
from bus.protocol import envelope as envelopes
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.envelope import MAX_ENVELOPE_BYTES
from bus.protocol.epochs import MAX_GUARD_BYTES, SealingEpoch
from bus.protocol.header import DATA, ID_BYTES, MAX_RECORDS, VERSION
from bus.protocol.proof import BLIND_BYTES, MAX_BATCH, Proof, alone, batch
from bus.protocol.records import Records
from bus.protocol.suites import HOST_SUITE, Suite

MAX_BODY_BYTES: Final = MAX_ENVELOPE_BYTES - (8 << 10) + 64
"""What header, proof, path and signatures need is left free. One record of 1 MiB less 8 KiB fits, with what is said about it."""
RANDOM_BYTES: Final = ID_BYTES + BLIND_BYTES + MAX_GUARD_BYTES
"""Fresh random bytes for one draft."""


class HostKey(Protocol):
    """The software key that signs for all agents of a process."""

    @property
    def signer(self) -> bytes: ...

    def sign(self, tbs: bytes) -> bytes: ...


class Draft(NamedTuple):
    """One envelope before its signature."""

    epoch: SealingEpoch
    seq: int
    header: bytes
    body: bytes
    blind: bytes
    guard: bytes
    content: bytes
    """In the hash of the suite that will sign it."""


class Outgoing(NamedTuple):
    """What is to be sent in one envelope. `session` is the id of the session certificate that vouches for the signer."""

    topic: str
    records: Records
    session: bytes
    sent_ms: int
    expires_ms: int
    before: int
    flags: int = 0
    ref: bytes = b""
    id: bytes = b""
    """Empty: a random one."""


def given_id(sender: str, text: str) -> bytes:
    """The id of an envelope whose only record has an id of the caller's: a second one of the same sender is a duplicate."""
    return hashlib.sha256(contexts.ID + pack([sender, text])).digest()[:ID_BYTES]


def draft(epoch: SealingEpoch, outgoing: Outgoing, *, suite: Suite, random: bytes) -> Draft:
    """Take the next number and make everything that will be signed. `random`: RANDOM_BYTES fresh ones.

    Raises MessageTooLargeError before a number is taken, LocalProtocolError if the epoch is spent.
    """
    count = len(outgoing.records.payloads)
    if not 0 < count <= MAX_RECORDS:
        raise ValueError(f"an envelope has 1 to {MAX_RECORDS} records, not {count}")
    body = outgoing.records.encode()
    if len(body) > MAX_BODY_BYTES:
        raise MessageTooLargeError(len(body), limit=MAX_BODY_BYTES)
    seq = epoch.take()
    params = epoch.params
    # A plain tuple in the order of `Header`'s fields: what is only packed need not be one first.
    header = pack(
        (VERSION, DATA, outgoing.flags, outgoing.topic, params.sender, outgoing.session, epoch.id, seq, outgoing.sent_ms,
         outgoing.expires_ms, params.priority, count, outgoing.id or random[:ID_BYTES], outgoing.ref, outgoing.before)
    )  # fmt: skip
    blind = random[ID_BYTES : ID_BYTES + BLIND_BYTES]
    guard = random[ID_BYTES + BLIND_BYTES : ID_BYTES + BLIND_BYTES + epoch.guard_bytes]
    return Draft(epoch, seq, header, body, blind, guard, envelopes.content(header, body, blind=blind, hash_name=suite.hash))


def sign_by_host(
    contents: Sequence[bytes], blinds: Sequence[bytes], key: HostKey, *, purpose: Purpose = Purpose.ENVELOPE
) -> list[Proof]:
    """A proof for each content, all under one signature of the host key."""
    if len(contents) == 1:
        number, signer = HOST_SUITE.number, key.signer
        signature = key.sign(alone(HOST_SUITE, signer, purpose, contents[0]))
        return [Proof(number, signer, 1, 0, b"", signature, b"", blinds[0])]
    tree = batch(HOST_SUITE, key.signer, [(purpose, content) for content in contents])
    return tree.sealed_proofs(key.sign(tree.tbs), blinds)


def seal(draft: Draft, proof: Proof) -> bytes:
    """The envelope. Raises LocalProtocolError if it was sealed or given up before."""
    header = draft.header
    plaintext = envelopes.plaintext(proof, draft.body)
    return envelopes.join(header, draft.epoch.seal(plaintext, seq=draft.seq, header=header, guard=draft.guard))


def give_up(drafts: Sequence[Draft]) -> None:
    """Nothing of these will be sealed: their numbers are burned."""
    for one in drafts:
        one.epoch.burn(one.seq)


def seal_turn(epochs: Sequence[SealingEpoch], outgoing: Sequence[Outgoing], key: HostKey, *, random: bytes) -> list[bytes]:
    """Everything that one turn sends by session: one signature, one envelope each. `random`: RANDOM_BYTES for each of them.

    If anything fails, all numbers that were taken are burned.
    """
    if not 0 < len(outgoing) <= MAX_BATCH:
        raise ValueError(f"a turn has 1 to {MAX_BATCH} envelopes, not {len(outgoing)}")
    drafts: list[Draft] = []
    try:
        for place, (epoch, one) in enumerate(zip(epochs, outgoing, strict=True)):
            start = place * RANDOM_BYTES
            drafts.append(draft(epoch, one, suite=HOST_SUITE, random=random[start : start + RANDOM_BYTES]))
        proofs = sign_by_host([one.content for one in drafts], [one.blind for one in drafts], key)
        return [seal(one, proof) for one, proof in zip(drafts, proofs, strict=True)]
    except BaseException:
        give_up(drafts)
        raise

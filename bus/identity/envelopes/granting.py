"""Who gets the key of an epoch: the sealer's checks, making grants, and opening them.

Whom an epoch is sealed to is asked of my own policy and my own trust, never of the broker, which names the readers and brings
their papers. Whoever fails a check is left out and counted; there is no other key, name or key agreement to fall back to.

    live      to the session's key, in memory only; one grant serves every agent of that host whom policy entitles
    durable   the same to who listens now; to the inbox key for durable subscriptions, and for the sender itself
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from bus.errors import VerificationError
from bus.identity.envelopes.arrival import check_times
from bus.identity.envelopes.believe import Believed, BelievedInbox
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.proofs import check_proof
from bus.identity.envelopes.receive import Parked
from bus.identity.envelopes.seal import HostKey, sign_by_host
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol import envelope as envelopes
from bus.protocol import grants
from bus.protocol import header as headers
from bus.protocol.audience import Members
from bus.protocol.codec import malformed
from bus.protocol.epochs import OpenedEpoch, Params, SealingEpoch
from bus.protocol.grants import GrantBody
from bus.protocol.header import GRANT, ID_BYTES, VERSION, Header
from bus.protocol.kem import PublicKey
from bus.protocol.proof import BLIND_BYTES
from bus.protocol.skew import SKEW_MS
from bus.protocol.suites import HOST_SUITE
from bus.trust.certificates import Certificate
from bus.trust.view import TrustView

Member = tuple[str, int]
"""Of an audience: a name and its generation."""
RANDOM_BYTES: Final = ID_BYTES + BLIND_BYTES
"""Fresh random bytes for one grant."""


# ---- the sealer's checks ---------------------------------------------------------------------------------------------------------


def session_key(believed: Believed, params: Params, members: Container[Member], *, snapshot: Snapshot, now_ms: int) -> PublicKey:
    """The key of a reader who listens now.

    Raises VerificationError: trust_stale, not_permitted, revoked, untrusted, kem_too_weak.
    """
    now_ms = _check_reader(believed.name, believed.identity, members, snapshot, now_ms=now_ms)
    if believed.begun_ms < snapshot.trust.sessions_not_before_ms(believed.name):
        raise VerificationError(
            "revoked", agent=believed.name, detail="a session from before the date that its sessions count from"
        )
    body = believed.session.body
    if not believed.not_before_ms - SKEW_MS <= now_ms <= believed.not_after_ms:
        raise VerificationError("untrusted", agent=believed.name, detail="its session certificate is not valid now")
    return _strong_enough(believed.name, body.kem, body.kem_key, params)


def inbox_key(
    believed: BelievedInbox, params: Params, members: Container[Member], *, highest: int, snapshot: Snapshot, now_ms: int
) -> PublicKey:
    """The key of a reader's durable subscriptions. `highest`: the highest counter ever seen of its inbox certificates in
    its name's generation of now.

    Raises VerificationError: trust_stale, not_permitted, revoked, untrusted, inbox_rollback, kem_too_weak.
    """
    body = believed.inbox.body
    now_ms = _check_reader(believed.name, believed.identity, members, snapshot, now_ms=now_ms)
    if not params.is_durable:
        raise VerificationError("not_permitted", agent=believed.name, detail="keys of live topics never go to a key on disk")
    if body.counter < highest:
        raise VerificationError(
            "inbox_rollback", agent=believed.name, detail=f"inbox key {body.counter}, and {highest} was seen before"
        )
    if not body.not_before_ms - SKEW_MS <= now_ms <= min(body.not_after_ms, believed.identity.not_after_ms):
        raise VerificationError("untrusted", agent=believed.name, detail="its inbox certificate is not valid now")
    return _strong_enough(believed.name, body.kem, body.kem_key, params)


def _check_reader(name: str, identity: Certificate, members: Container[Member], snapshot: Snapshot, *, now_ms: int) -> int:
    """What is asked of every reader. Gives the time to judge by."""
    now_ms = snapshot.judged_at(now_ms)
    if (name, snapshot.trust.generation(name)) not in members:
        raise VerificationError(
            "not_permitted", agent=name, detail="policy does not let it hear this epoch, or its name was revoked since"
        )
    check_not_revoked(identity, snapshot.trust, now_ms=now_ms)
    return now_ms


def check_not_revoked(identity: Certificate, trust: TrustView, *, now_ms: int) -> None:
    """Return if this identity counts at that time. Raises VerificationError("revoked")."""
    try:
        trust.revocations.verdict(identity.serial, now_ms)
    except VerificationError as error:
        raise VerificationError(error.reason, agent=identity.name, detail=str(error)) from error


def _strong_enough(name: str, kem: int, key: bytes, params: Params) -> PublicKey:
    if kem < params.kem:
        raise VerificationError("kem_too_weak", agent=name, detail="the topic demands a hybrid key, and this reader has none")
    return _public_key(kem, key)


@lru_cache(maxsize=4_096)
def _public_key(kem: int, key: bytes) -> PublicKey:
    """To parse a hybrid one costs more than all other checks of a reader."""
    return PublicKey(kem, key)


# ---- making -------------------------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """Somebody who is entitled, with the key that was checked."""

    name: str
    key: PublicKey
    session: bytes
    """The id of the session whose key it is; empty for an inbox key."""
    names: Members = ()
    """The audience, in a grant to the sender itself."""


def make_grants(
    secret: bytes,
    epoch: SealingEpoch | OpenedEpoch,
    readers: Sequence[Reader],
    *,
    session: bytes,
    expires_ms: int,
    key: HostKey,
    now_ms: int,
    random: Callable[[int], bytes],
) -> list[bytes]:
    """A grant for each reader, all under one signature of the host key. `session` is the granter's."""
    chance = random(RANDOM_BYTES * len(readers))
    made: list[tuple[Reader, bytes, bytes]] = []
    contents: list[bytes] = []
    blinds: list[bytes] = []
    for place, reader in enumerate(readers):
        start = place * RANDOM_BYTES
        header = Header(
            VERSION, GRANT, 0, grants.topic(reader.name), epoch.params.sender, session, epoch.id, 0, now_ms, expires_ms, 0, 1,
            chance[start : start + ID_BYTES], reader.key.id, 0,
        ).encode()  # fmt: skip
        body = GrantBody(secret, epoch.params_bytes, reader.name, reader.session, reader.names).encode()
        blind = chance[start + ID_BYTES : start + RANDOM_BYTES]
        contents.append(envelopes.content(header, body, blind=blind, hash_name=HOST_SUITE.hash))
        blinds.append(blind)
        made.append((reader, header, body))
    proofs = sign_by_host(contents, blinds, key)
    return [
        envelopes.join(header, reader.key.seal(envelopes.plaintext(proof, body), grants.info(header)))
        for (reader, header, body), proof in zip(made, proofs, strict=True)
    ]


# ---- opening ------------------------------------------------------------------------------------------------------------


class Opens(Protocol):
    """A private key, or what guards one."""

    def open(self, sealed: bytes, info: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, eq=False)
class OwnKey:
    """A private key that opens grants to one of my agents."""

    agent: str
    key: Opens = field(repr=False)
    sessions: frozenset[bytes]
    """The ids of the session certificates that name it; none for an inbox key."""


class Granted(NamedTuple):
    epoch: OpenedEpoch
    secret: bytes
    """To be kept by the sender itself, for those who ask later."""
    reader: str
    names: Members

    def __repr__(self) -> str:
        return f"<Granted {self.epoch!r} to {self.reader}>"


def open_grant(
    data: bytes, held: Held, *, keys: Mapping[tuple[str, bytes], OwnKey], snapshot: Snapshot, now_ms: int
) -> Granted | Parked:
    """The epoch that a grant brings, and `held` has it from now on. `keys`: by agent and key id.

    An epoch that is known is not changed. Raises RemoteProtocolError("malformed") and VerificationError: trust_stale, unsolicited,
    from_future, expired, bad_seal, wrong_epoch, bad_proof, untrusted, revoked, wrong_signer, too_many_epochs.
    """
    now_ms = snapshot.judged_at(now_ms)
    header_bytes, sealed = envelopes.split(data)
    header = headers.parse(header_bytes)
    reader = grants.reader_of(header)
    grants.check_size(len(data), header)
    own = keys.get((reader, header.ref))
    if own is None:
        raise VerificationError("unsolicited", agent=header.sender, detail=f"{reader} has no such key here")
    check_times(header, header.expires_ms, now_ms=now_ms)
    proof, body_bytes = envelopes.split_plaintext(own.key.open(sealed, grants.info(header_bytes)))
    body = GrantBody.parse(body_bytes)
    epoch = _granted_epoch(header, body, own, snapshot)
    believed = held.sessions.get(header.session)
    if believed is None:
        return Parked("missing_papers", header)
    check_proof(proof, header_bytes, body_bytes, believed=believed, verifier=held.verifier, now_ms=now_ms)
    snapshot.standing(believed, header.topic).check_signer(header)
    if proof.suite != HOST_SUITE.number:
        raise VerificationError("wrong_signer", agent=header.sender, detail="a grant is signed by the granter's host key")
    return Granted(held.keep(epoch), body.secret, reader, body.names)


def _granted_epoch(header: Header, body: GrantBody, own: OwnKey, snapshot: Snapshot) -> OpenedEpoch:
    if body.reader != own.agent or bool(body.reader_session) != bool(own.sessions):
        raise malformed("a grant names its reader, and the session whose key it is for")
    epoch = OpenedEpoch.from_grant(body.secret, body.params, id=header.epoch)
    params = epoch.params
    if params.sender != header.sender or params.domain != snapshot.domain:
        raise VerificationError("wrong_epoch", agent=header.sender, detail="an epoch of another sender, or of another domain")
    if own.sessions:
        if body.reader_session not in own.sessions:
            raise VerificationError("wrong_epoch", agent=header.sender, detail="granted to a session that this key is not of")
    elif not params.is_durable:
        raise VerificationError("wrong_epoch", agent=header.sender, detail="a live epoch that was granted to a key on disk")
    return epoch

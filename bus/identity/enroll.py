"""The agents' side of enrolment: from keys that an engine holds to certificates, over any carrier.

`exchange` carries one message to the authority and gives its answer; what carries it does not matter, since everything that is
said is proven. All agents of a host share one request for those in one chip (so the chip's certificate is judged once, and one
credential is opened), and one for those in its software keystore.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bus.errors import AttestationError, TpmRefusedError
from bus.protocol.contexts import Purpose
from bus.protocol.proof import BLIND_BYTES, Proof
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import SOFTWARE, KeyInfo, Priority, TpmEngine
from bus.trust import certificates
from bus.trust.certificates import Certificate, Profile, Root
from bus.trust.enrolment_agent import AgentHalf, Task
from bus.trust.enrolment_messages import LOCAL, MAX_AGENTS, TOKEN, Applicant, Chip, Evidence

Exchange = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The identity key that has the name until now, and the engine that can sign with it."""

    engine: TpmEngine = field(repr=False)
    key: str
    """NAME.GENERATION."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One agent that is to be enrolled. Its identity key is the current one of this name in the engine."""

    name: str
    kem: int
    inbox_key: bytes
    way: int = LOCAL
    """Why it may have the name: LISTED, TOKEN, LOCAL or RENEWAL of trust.enrolment_messages."""
    token: bytes = field(default=b"", repr=False)
    predecessor: Predecessor | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    name: str
    key: KeyInfo
    certificate: Certificate


async def enroll(
    engine: TpmEngine,
    wishes: Sequence[Wish],
    *,
    exchange: Exchange,
    root: Root,
    domain: str,
    intermediates: Sequence[bytes] = (),
    keys_in_force: Sequence[KeyInfo] | None = None,
) -> list[Enrolled]:
    """Certificates for these agents, in their order, each checked against the pinned root.

    `keys_in_force`: theirs, by whoever knows them already; to list all of a vault takes long where it has many.
    `intermediates`: certificates (DER) between the chip's and its maker's root, where the authority may not have them.
    Raises AttestationError with the authority's reason, or `untrusted` for a certificate that is not what was asked for;
    TpmError. What was enrolled before a failure stays so: asking again is harmless.
    """
    if len({wish.name for wish in wishes}) != len(wishes):
        raise ValueError("each agent is enrolled once")
    known = await engine.keys() if keys_in_force is None else keys_in_force
    keys = {info.name: info for info in known if info.ends_ms is None}
    for wish in wishes:
        if wish.name not in keys:
            raise TpmRefusedError("unknown_key", f"{wish.name} has no identity key yet: make it with `tpmbus provision`")
    done: dict[str, Enrolled] = {}
    for group in await _by_chip(engine, wishes, keys):
        for start in range(0, len(group), MAX_AGENTS):
            part = group[start : start + MAX_AGENTS]
            chip = await _chip(engine, keys[part[0].name], intermediates)
            ders = await _enroll(engine, part, keys, chip, exchange)
            for wish, der in zip(part, ders, strict=True):
                info = keys[wish.name]
                done[wish.name] = Enrolled(wish.name, info, _checked(der, info, root=root, domain=domain))
    return [done[wish.name] for wish in wishes]


async def _enroll(
    engine: TpmEngine, wishes: Sequence[Wish], keys: dict[str, KeyInfo], chip: Chip | None, exchange: Exchange
) -> tuple[bytes, ...]:
    half = AgentHalf()
    applicants = [_applicant(wish, keys[wish.name]) for wish in wishes]
    opening = half.challenge(await exchange(half.request(chip, applicants)))
    secret = b""
    if chip is not None:
        beside = keys[wishes[0].name].id
        secret = await engine.activate(opening.id_object, opening.encrypted_secret, beside=beside)
    evidence = [await _evidence(engine, wish, keys[wish.name], task) for wish, task in zip(wishes, opening.tasks, strict=True)]
    return half.granted(await exchange(half.proof(secret, evidence)))


async def _by_chip(engine: TpmEngine, wishes: Sequence[Wish], keys: dict[str, KeyInfo]) -> list[list[Wish]]:
    """Those of each chip together, since a chip vouches for what lives in it; those of the software keystore come last."""
    chips: dict[bytes, list[Wish]] = {}
    in_software = []
    for wish in wishes:
        info = keys[wish.name]
        if info.origin == SOFTWARE:
            in_software.append(wish)
        else:
            chips.setdefault((await engine.endorsement(beside=info.id)).public, []).append(wish)
    return [*chips.values(), in_software]


async def _chip(engine: TpmEngine, key: KeyInfo, intermediates: Sequence[bytes]) -> Chip | None:
    """The one that this key lives in; None for the software keystore."""
    if key.origin == SOFTWARE:
        return None
    endorsement, attester = await engine.endorsement(beside=key.id), await engine.attestation_key(beside=key.id)
    return Chip(endorsement.certificate, tuple(intermediates), endorsement.public, attester.public)


def _applicant(wish: Wish, info: KeyInfo) -> Applicant:
    public = b"" if info.origin == SOFTWARE else info.public
    token = wish.token if wish.way == TOKEN else b""
    return Applicant(wish.name, public, info.spki, IDENTITY_SUITES[info.suite], wish.kem, wish.inbox_key, wish.way, token)


async def _evidence(engine: TpmEngine, wish: Wish, info: KeyInfo, task: Task) -> Evidence:
    succession = None
    if task.needs_succession:
        if wish.predecessor is None:
            detail = "the name is held: enrol with the key that has it as predecessor, or have the authority revoke it"
            raise AttestationError("name_taken", agent=wish.name, detail=detail)
        succession = await _succession(wish.predecessor, task)
    if info.origin == SOFTWARE:
        return Evidence(own=await _signed(engine, info, task), succession=succession)
    said = await engine.certify(info.id, qualifying=task.binding.qualifying)
    return Evidence(said.attest, said.signature, succession=succession)


async def _succession(predecessor: Predecessor, task: Task) -> Proof:
    for info in await predecessor.engine.keys():
        if info.id == predecessor.key:
            return await _signed(predecessor.engine, info, task)
    raise TpmRefusedError("unknown_key", f"the vault has no key {predecessor.key}: `tpmbus keys list` shows what it has")


async def _signed(engine: TpmEngine, info: KeyInfo, task: Task) -> Proof:
    """By the bare key, whose digest is the signer: for enrolments, verifiers want no other."""
    blind = os.urandom(BLIND_BYTES)
    content = task.binding.content(IDENTITY_SUITES[info.suite], blind=blind)
    (proof,) = await engine.sign_many(info.id, Purpose.ENROLL, [content], priority=Priority.RENEWAL)
    return Proof.of(proof, blind=blind)


def _checked(der: bytes, info: KeyInfo, *, root: Root, domain: str) -> Certificate:
    certificate = certificates.read(der, root=root, domain=domain, profile=Profile.AGENT)
    if (certificate.name, certificate.spki, certificate.suite.name) != (info.name, info.spki, info.suite):
        raise AttestationError("untrusted", agent=info.name, detail="the authority certified something else than was asked for")
    return certificate

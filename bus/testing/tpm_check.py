"""One check for every engine: hardware, swtpm, software keystore, slow, fake, here or behind the service.

`await check_tpm(make)` runs it; `make()` gives an async context manager with a fresh engine. It raises AssertionError with
what is wrong, or what the engine raised where it had no reason to. An engine without a TPM behind it may refuse attestation,
and then only with "not_a_tpm".
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from bus.errors import BusError, TpmRefusedError, VerificationError
from bus.protocol import signatures
from bus.protocol.contexts import Purpose
from bus.protocol.proof import BatchProof, key_signer
from bus.protocol.suites import HASHES, IDENTITY_SUITES, Suite
from bus.tpm.interface import SOFTWARE, KeyInfo, TpmEngine, name_of

_FAR_FUTURE_MS = 4_000_000_000_000
_QUICK = IDENTITY_SUITES["ecc256/sha256"]


async def check_tpm(
    make: Callable[[], AbstractAsyncContextManager[TpmEngine]],
    *,
    suites: Sequence[str] = tuple(IDENTITY_SUITES),
    patience_seconds: float = 60.0,
) -> None:
    """Check an engine. `suites` may be fewer where time is short; RSA keys take a TPM a good part of a second each.

    `patience_seconds` is how long a caller may wait after others were cancelled, before they pass for lost.
    """
    async with make() as engine:
        for name in suites:
            await _check_suite(engine, IDENTITY_SUITES[name])
        await _check_keys_are_made_once(engine)
        await _check_batches(engine)
        await _check_cancellation(engine, patience_seconds)
        await _check_rotation(engine)
        await _check_refusals(engine)
        await _check_sealing(engine)
        await _check_attestation(engine)
        await _check_statistics(engine)
        await _check_keys_differ(engine)


def check_proof(found: BatchProof, key: KeyInfo, purpose: Purpose, content: bytes) -> None:
    """What a receiver does with a proof. Raises VerificationError("bad_proof")."""
    signatures.verify(IDENTITY_SUITES[key.suite], signatures.load_public(key.spki), found.tbs(purpose, content), found.signature)


def contents_for(suite: Suite, count: int, *, seed: str = "") -> list[bytes]:
    return [bytes(HASHES[suite.hash](f"{seed} {number}".encode()).digest()) for number in range(count)]


async def _check_suite(engine: TpmEngine, suite: Suite) -> None:
    name = "SUITE" + str(suite.number)
    key = await engine.create(name, suite)
    _require(key.suite == suite.name and key.name == name and key.generation == 1, f"create gave {key.id} with {key.suite}")
    _require(signatures.kind_of(signatures.load_public(key.spki)) == suite.kind, f"{suite}: the public key is of another kind")
    for count in (1, 2, 3, 7):
        contents = contents_for(suite, count)
        proofs = await engine.sign_many(name, Purpose.ENVELOPE, contents)
        _require(len(proofs) == count, f"{suite}: {count} contents, {len(proofs)} proofs")
        for found, content in zip(proofs, contents, strict=True):
            _require(found.suite == suite.number and len(found.signature) == suite.signature_bytes, f"{suite}: wrong form")
            _holds(found, key, Purpose.ENVELOPE, content)
            _refuses_proof(found, key, Purpose.SESSION, content, what="another purpose")
            _refuses_proof(found, key, Purpose.ENVELOPE, bytes(len(content)), what="another content")
            _require(found.signer == key_signer(key.spki), f"{suite}: without a certificate, the bare key signs")
    certificate = hashlib.sha256(b"a certificate").digest()
    (certified,) = await engine.sign_many(name, Purpose.ENVELOPE, contents_for(suite, 1), signer=certificate)
    _require(certified.signer == certificate, f"{suite}: the signer is another one than was asked for")


async def _check_keys_are_made_once(engine: TpmEngine) -> None:
    first = await engine.create("ONCE", _QUICK)
    made: list[KeyInfo] = []

    async def again() -> None:
        made.append(await engine.create("ONCE", _QUICK))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(again)
    _require({info.id for info in made} == {first.id}, "a key that was there was made again")
    _require([info.id for info in await engine.keys() if info.name == "ONCE"] == [first.id], "the list of keys disagrees")


async def _check_batches(engine: TpmEngine) -> None:
    """Many callers of one key, at once: everybody gets proofs for their own contents, and none is lost."""
    key = await engine.create("BATCH", _QUICK)
    before = await engine.statistics()

    proofs: dict[int, list[BatchProof]] = {}

    def wish(number: int) -> tuple[Purpose, list[bytes]]:
        return list(Purpose)[number % len(Purpose)], contents_for(_QUICK, 1 + number % 5, seed=f"caller {number}")

    async def caller(number: int) -> None:
        proofs[number] = await engine.sign_many("BATCH", *wish(number))

    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(caller, number)
    for number, given in proofs.items():
        purpose, contents = wish(number)
        _require(len(given) == len(contents), f"{len(contents)} contents, {len(given)} proofs")
        for found, content in zip(given, contents, strict=True):
            _holds(found, key, purpose, content)
    signed = {found.signature for given in proofs.values() for found in given}
    _require(len(signed) < 40, "nothing was batched: each of 40 callers at once had a signature of its own")
    after = await engine.statistics()
    _require(
        after.signed_contents - before.signed_contents == sum(1 + number % 5 for number in range(40)), "contents do not add up"
    )
    _require(after.signatures - before.signatures == len(signed), "signatures do not add up")


async def _check_cancellation(engine: TpmEngine, patience_seconds: float) -> None:
    key = await engine.create("CANCEL", _QUICK)
    content = contents_for(_QUICK, 1)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(engine.sign_many, "CANCEL", Purpose.ENVELOPE, content)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    with anyio.move_on_after(patience_seconds):
        _holds((await engine.sign_many("CANCEL", Purpose.ENVELOPE, content))[0], key, Purpose.ENVELOPE, content[0])
        return
    raise AssertionError("after others were cancelled, a caller waits for ever")


async def _check_rotation(engine: TpmEngine) -> None:
    old = await engine.create("ROTATE", _QUICK)
    new = await engine.rotate("ROTATE", keep_until_ms=_FAR_FUTURE_MS)
    _require(
        (new.name, new.generation, new.suite) == (old.name, old.generation + 1, old.suite), f"rotated to {new.id}, {new.suite}"
    )
    _require(new.spki != old.spki, "rotation kept the key")
    content = contents_for(_QUICK, 1)
    _holds((await engine.sign_many("ROTATE", Purpose.ENROLL, content))[0], new, Purpose.ENROLL, content[0])
    _holds((await engine.sign_many(old.id, Purpose.ENROLL, content))[0], old, Purpose.ENROLL, content[0])
    await engine.rotate("ROTATE", keep_until_ms=1)
    await _refuses("key_ended", lambda: engine.sign_many(new.id, Purpose.ENROLL, content))


async def _check_refusals(engine: TpmEngine) -> None:
    await engine.create("REFUSE", _QUICK)
    content = contents_for(_QUICK, 1)
    await _refuses("unknown_key", lambda: engine.sign_many("NOBODY", Purpose.ENVELOPE, content))
    await _refuses("unknown_key", lambda: engine.sign_many("REFUSE.9", Purpose.ENVELOPE, content))
    await _is_misuse(lambda: engine.sign_many("REFUSE", Purpose.ENVELOPE, []), "no contents")
    await _is_misuse(lambda: engine.sign_many("REFUSE", Purpose.ENVELOPE, [b"short"]), "a content that is no digest")
    await _is_misuse(lambda: engine.sign_many("REFUSE", Purpose.ENVELOPE, content, signer=b"short"), "a signer that is none")
    await _is_misuse(lambda: engine.create("not a name", _QUICK), "a name that is none")


async def _check_sealing(engine: TpmEngine) -> None:
    for secret in (b"s", bytes(range(32)), b"\0" * 128):
        blob = await engine.seal(secret)
        _require(secret not in blob or len(secret) == 1, "what is sealed can be read")
        _require(await engine.unseal(blob) == secret, "unseal gave something else")
        await _refuses(None, lambda blob=blob: engine.unseal(blob[:-1]))  # type: ignore[misc]  # mypy cannot infer a default
        await _refuses(None, lambda blob=blob: engine.unseal(blob[:-1] + bytes([blob[-1] ^ 1])))  # type: ignore[misc]  # the same
    await _is_misuse(lambda: engine.seal(b""), "nothing to seal")
    await _is_misuse(lambda: engine.seal(bytes(129)), "more than a TPM seals")


async def _check_attestation(engine: TpmEngine) -> None:
    key = await engine.create("ATTEST", _QUICK)
    qualifying = hashlib.sha256(b"qualifying").digest()
    if not await _is_a_tpm(engine):
        await _refuses("not_a_tpm", lambda: engine.certify("ATTEST", qualifying=qualifying))
        await _refuses("not_a_tpm", lambda: engine.quote([0], qualifying=qualifying))
        await _refuses("not_a_tpm", engine.endorsement)
        return
    attester = await engine.attestation_key(beside="ATTEST")
    _require(attester.name == name_of(attester.public), "the attestation key's Name is not its hash")
    endorsement = await engine.endorsement(beside="ATTEST")
    _require(bool(endorsement.spki), "no endorsement key")
    certified = await engine.certify("ATTEST", qualifying=qualifying)
    quoted = await engine.quote([0, 7], qualifying=qualifying, beside="ATTEST")
    for attested in (certified, quoted):
        _require(attested.attest[:4] == b"\xffTCG", "what the TPM attests begins with its magic number")
        _require(qualifying in attested.attest, "the qualifying data is missing")
        half = 32  # TPMT_SIGNATURE of ECDSA: u16 algorithm, u16 hash, two TPM2B
        r_size = int.from_bytes(attested.signature[4:6], "big")
        r, s = attested.signature[6 : 6 + r_size], attested.signature[8 + r_size :]
        fixed = r.rjust(half, b"\0") + s.rjust(half, b"\0")
        _verifies(attester.spki, attested.attest, fixed, what="an attestation")
    _require(
        name_of(key.public) in (await engine.certify("ATTEST", qualifying=qualifying)).attest, "the certified key's Name is missing"
    )
    await _refuses(None, lambda: engine.activate(b"\0\0", b"\0\0"))


async def _check_statistics(engine: TpmEngine) -> None:
    statistics = await engine.statistics()
    _require(sum(statistics.algorithms.values()) == statistics.signatures, "signatures by algorithm do not add up")
    _require(sum(statistics.batch_sizes.values()) == statistics.signatures, "batches by size do not add up")
    _require(statistics.signed_contents >= statistics.signatures > 0, "fewer contents than signatures")
    _require(statistics.waiting <= 1, "somebody still waits")


async def _check_keys_differ(engine: TpmEngine) -> None:
    keys = await engine.keys()
    _require(len({info.spki for info in keys}) == len(keys), "two keys of different names or generations are one and the same")


async def _is_a_tpm(engine: TpmEngine) -> bool:
    try:
        await engine.attestation_key()
    except TpmRefusedError as error:
        _require(error.code == "not_a_tpm", f"attestation was refused with {error.code}")
        _require(
            (await engine.facts()).origin == SOFTWARE or "fake" in (await engine.facts()).description, "a TPM that does not attest"
        )
        return False
    return True


def _holds(found: BatchProof, key: KeyInfo, purpose: Purpose, content: bytes) -> None:
    try:
        check_proof(found, key, purpose, content)
    except VerificationError as error:
        raise AssertionError(f"a proof of {key.id} does not hold for what was signed: {error}") from error


def _verifies(spki: bytes, signed: bytes, signature: bytes, *, what: str) -> None:
    try:
        signatures.verify(_QUICK, signatures.load_public(spki), signed, signature)
    except VerificationError as error:
        raise AssertionError(f"the signature of {what} does not fit: {error}") from error


def _refuses_proof(found: BatchProof, key: KeyInfo, purpose: Purpose, content: bytes, *, what: str) -> None:
    try:
        check_proof(found, key, purpose, content)
    except VerificationError:
        return
    raise AssertionError(f"a proof of {key.id} also holds for {what}")


async def _refuses(code: str | None, call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except BusError as error:
        found = getattr(error, "code", type(error).__name__)
        _require(code is None or found == code, f"refused with {found}, not {code}")
        return
    raise AssertionError(f"should have been refused ({code or 'with any code'})")


async def _is_misuse(call: Callable[[], Awaitable[Any]], what: str) -> None:
    try:
        await call()
    except ValueError:
        return
    raise AssertionError(f"{what} should be a ValueError")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)

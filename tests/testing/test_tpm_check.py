"""The conformance check is a check: each engine here is broken in one way, and each is found out."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from bus.errors import TpmRefusedError
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, check_tpm
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE_TPM, Attested
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.anyio
SUITES = ["ecc256/sha256", "ecc256/sha384", "ecc384/sha3-256"]


class Broken(Engine):
    """An engine on a fake; what follows breaks it, each in one way."""

    def __init__(self, open_tpm=FakeTpm) -> None:
        super().__init__(open_tpm, MemoryVault())


class GivesWrongSignatures(Broken):
    async def sign_many(self, *arguments, **options):
        found = await super().sign_many(*arguments, **options)
        return [replace(proof, signature=proof.signature[:-1] + bytes([proof.signature[-1] ^ 1])) for proof in found]


class SignsOneByOne(Broken):
    """Each caller alone, so that nothing gathers."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = anyio.Lock()

    async def sign_many(self, *arguments, **options):
        async with self._turn:
            return await super().sign_many(*arguments, **options)


class SignsOneByOneAndLiesAboutIt(SignsOneByOne):
    async def statistics(self):
        true = await super().statistics()
        return replace(true, signatures=1, algorithms={"ecc256/sha256": 1}, batch_sizes={1: 1})


class SharesProofs(Broken):
    async def sign_many(self, *arguments, **options):
        found = await super().sign_many(*arguments, **options)
        return [found[0]] * len(found)


class MixesUpTheOrder(Broken):
    async def sign_many(self, *arguments, **options):
        return (await super().sign_many(*arguments, **options))[::-1]


class LosesOne(Broken):
    async def sign_many(self, *arguments, **options):
        found = await super().sign_many(*arguments, **options)
        return found[:-1] if len(found) > 1 else found


class ForgetsThePurpose(Broken):
    async def sign_many(self, key, purpose, contents, **options):
        return await super().sign_many(key, 4, contents, **options)


class ForgetsTheSigner(Broken):
    async def sign_many(self, key, purpose, contents, *, signer=None, **options):
        return await super().sign_many(key, purpose, contents, **options)


class OneKeyForAll(Broken):
    """Every name of a kind gets the same key."""

    def __init__(self) -> None:
        kept = {}

        class Lazy(FakeTpm):
            def create(self, suite, *, auth):
                key = super().create(suite, auth=auth)
                return kept.setdefault(suite.kind, key)

        super().__init__(Lazy)
        self._keyring.vault.auth = lambda _: b"the same for all"


class MakesKeysTwice(Broken):
    async def create(self, name, suite, *, origin=None):
        info = await super().create(name, suite, origin=origin)
        return await self.rotate(name, keep_until_ms=2**60) if name == "ONCE" else info


class MakesAnotherSuite(Broken):
    async def create(self, name, suite, *, origin=None):
        return await super().create(name, IDENTITY_SUITES["ecc256/sha256"], origin=origin)


class RotatesNothing(Broken):
    async def rotate(self, name, *, keep_until_ms, suite=None):
        return next(info for info in await self.keys() if info.name == name)


class ForgetsOldKeysAtOnce(Broken):
    async def rotate(self, name, *, keep_until_ms, suite=None):
        return await super().rotate(name, keep_until_ms=0, suite=suite)


class SignsForEver(Broken):
    async def rotate(self, name, *, keep_until_ms, suite=None):
        return await super().rotate(name, keep_until_ms=2**60, suite=suite)


class TakesUnknownKeys(Broken):
    async def sign_many(self, key, *arguments, **options):
        return await super().sign_many("REFUSE" if key == "NOBODY" else key, *arguments, **options)


class RefusesWithAnotherCode(Broken):
    async def sign_many(self, key, *arguments, **options):
        if key == "NOBODY":
            raise TpmRefusedError("no_idea", "never heard of it")
        return await super().sign_many(key, *arguments, **options)


class TakesNoContents(Broken):
    async def sign_many(self, key, purpose, contents, **options):
        return await super().sign_many(key, purpose, contents, **options) if contents else []


class TakesAnyContents(Broken):
    """An oracle for whoever can choose what is no digest."""

    async def sign_many(self, key, purpose, contents, **options):
        contents = [content.ljust(32, b"\0") for content in contents]
        return await super().sign_many(key, purpose, contents, **options)


class TakesAnyName(Broken):
    async def create(self, name, suite, *, origin=None):
        return await super().create(name.replace(" ", "").upper(), suite, origin=origin)


class SealsInClear(Broken):
    async def seal(self, secret, *, pcrs=()):
        return b"sealed: " + secret + (await super().seal(secret, pcrs=pcrs))

    async def unseal(self, blob):
        head = blob.index(b"sealed: ") + 8
        for size in (1, 32, 128):
            try:
                if await super().unseal(blob[head + size :]) == blob[head : head + size]:
                    return blob[head : head + size]
            except TpmRefusedError:
                continue
        raise TpmRefusedError("malformed_blob", "no")


class UnsealsSomethingElse(Broken):
    async def unseal(self, blob):
        return (await super().unseal(blob))[::-1] + b"?"


class UnsealsAnything(Broken):
    def __init__(self) -> None:
        super().__init__()
        self._sealed = b""

    async def seal(self, secret, *, pcrs=()):
        self._sealed = secret
        return await super().seal(secret, pcrs=pcrs)

    async def unseal(self, blob):
        return self._sealed


class SealsTooMuch(Broken):
    async def seal(self, secret, *, pcrs=()):
        return await super().seal(secret[:128], pcrs=pcrs)


class CountsWrong(Broken):
    async def statistics(self):
        true = await super().statistics()
        return replace(true, signed_contents=true.signatures)


class CountsOtherAlgorithms(Broken):
    async def statistics(self):
        return replace(await super().statistics(), algorithms={"ecc256/sha256": 1})


class LosesWhoIsServedAfterACancellation(Broken):
    def __init__(self) -> None:
        super().__init__()
        self._cancelled = False

    async def sign_many(self, key, *arguments, **options):
        try:
            if self._cancelled:
                await anyio.sleep_forever()
            return await super().sign_many(key, *arguments, **options)
        except anyio.get_cancelled_exc_class():
            self._cancelled = True
            raise


class AttestsThoughItIsNoTpm(Broken):
    async def certify(self, key, *, qualifying):
        return Attested(b"\xffTCG" + qualifying, bytes(72))


class RefusesToAttestWithAnotherCode(Broken):
    async def attestation_key(self, *, beside=None):
        raise TpmRefusedError("refused", "no")


BROKEN = [kind for kind in Broken.__subclasses__() + SignsOneByOne.__subclasses__() if kind.__module__ == Broken.__module__]


async def test_what_is_broken_below_is_whole_before():
    await check_tpm(Broken, suites=SUITES)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
async def test_an_engine_that_is_broken_in_one_way_is_found_out(broken):
    wanted = TpmRefusedError if broken is ForgetsOldKeysAtOnce else AssertionError
    with pytest.raises(wanted) as caught:
        await check_tpm(broken, suites=SUITES, patience_seconds=0.2)
    assert str(caught.value)


# ---- attestation, which takes a TPM --------------------------------------------------------------------------------------------


class CertifiesAnotherKey(Engine):
    async def certify(self, key, *, qualifying):
        return await super().certify("ONCE", qualifying=qualifying)


class ForgetsWhatWasAsked(Engine):
    async def quote(self, pcrs, *, qualifying, beside=None):
        return await super().quote(pcrs, qualifying=qualifying[::-1], beside=beside)


class AttestsWithoutMagic(Engine):
    async def certify(self, key, *, qualifying):
        true = await super().certify(key, qualifying=qualifying)
        return replace(true, attest=b"\xffXCG" + true.attest[4:])


class SignsAttestationsWrong(Engine):
    async def quote(self, pcrs, *, qualifying, beside=None):
        true = await super().quote(pcrs, qualifying=qualifying, beside=beside)
        return replace(true, attest=true.attest[:-1] + bytes([true.attest[-1] ^ 1]))


class HasNoEndorsement(Engine):
    async def endorsement(self, *, beside=None):
        return replace(await super().endorsement(beside=beside), spki=b"")


class ActivatesAnything(Engine):
    async def activate(self, credential, secret, *, beside=None):
        return b"a secret"


class TellsAnotherName(Engine):
    async def attestation_key(self, *, beside=None):
        true = await super().attestation_key(beside=beside)
        return replace(true, name=true.name[:-1] + bytes([true.name[-1] ^ 1]))


ATTESTING = [kind for kind in Engine.__subclasses__() if kind.__module__ == Broken.__module__ and kind is not Broken]


@pytest.mark.parametrize("broken", ATTESTING, ids=lambda kind: kind.__name__)
async def test_a_tpm_that_attests_wrongly_is_found_out(broken, swtpm):
    from bus.tpm.esapi import EsapiTpm

    with pytest.raises(AssertionError) as caught:
        await check_tpm(lambda: broken(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), MemoryVault()), suites=[])
    assert str(caught.value)

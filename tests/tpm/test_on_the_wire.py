"""What somebody sees who sits between us and the chip, and what they can change: no secret, and nothing."""

from __future__ import annotations

import random

import pytest
from relay import CREATE, RSA_DECRYPT, SIGN, UNSEAL, code_of

from bus.errors import TpmError, TpmRefusedError
from bus.protocol import signatures
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE_TPM
from bus.tpm.vault import MemoryVault

pytss = pytest.importorskip("tpm2_pytss", exc_type=ImportError)

from bus.tpm.esapi import EsapiTpm  # noqa: E402  only where the library is there

QUICK, BARE = IDENTITY_SUITES["ecc256/sha256"], IDENTITY_SUITES["rsa3072/sha3-256"]
AUTH = b"auth value of a key in a test..."
SECRET, ACTIVATED = b"a secret that is sealed in a test", b"a credential, 32 bytes, for test"


@pytest.fixture
def tpm(relay):
    chip = EsapiTpm(relay.tcti, origin=SOFTWARE_TPM)
    yield chip
    relay.before, relay.after = lambda command: command, lambda _, answer: answer
    chip.close()


@pytest.mark.anyio
async def test_no_secret_is_ever_on_the_wire(relay):
    vault = MemoryVault()
    async with Engine(lambda: EsapiTpm(relay.tcti, origin=SOFTWARE_TPM), vault) as engine:
        for name, suite in {"ALPHA": QUICK, "BETA": BARE}.items():
            await engine.create(name, suite)
            await engine.sign_many(name, Purpose.ENVELOPE, [bytes(32)])
        await engine.rotate("ALPHA", keep_until_ms=2**60)
        await engine.sign_many("ALPHA.1", Purpose.ENVELOPE, [bytes(32)])
        for pcrs in ([], [7, 16]):
            assert await engine.unseal(await engine.seal(SECRET, pcrs=pcrs)) == SECRET
        await engine.certify("ALPHA", qualifying=b"q")
        await engine.quote([0], qualifying=b"q")
        endorsement, attester = await engine.endorsement(), await engine.attestation_key()
        ek = pytss.TPM2B_PUBLIC.unmarshal(endorsement.public)[0]
        credential, encrypted = pytss.utils.make_credential(ek, ACTIVATED, pytss.TPM2B_NAME(attester.name))
        assert await engine.activate(credential.marshal(), encrypted.marshal()) == ACTIVATED
        infos = [entry.info for entry in vault.entries()]  # the attestation key's too
    secrets = [vault.auth(info) for info in infos] + [SECRET, ACTIVATED]
    assert len(secrets) == 6
    for code in (CREATE, SIGN, RSA_DECRYPT, UNSEAL, 0x147, 0x148, 0x158):
        assert relay.count(code), f"command 0x{code:x} did not come by here"
    assert attester.public[2:] in relay.wire, "what is public is there to be seen, so secrets would be"
    for secret in secrets:
        assert secret not in relay.wire
        assert secret[:16] not in relay.wire


def test_no_nonce_of_ours_is_used_twice(relay, tpm):
    keys = [tpm.create(QUICK, auth=AUTH) for _ in range(3)]
    for turn in range(60):
        tpm.sign(keys[turn % 3], QUICK, bytes(32), auth=AUTH)
    nonces = [command[24:56] for command in relay.commands if code_of(command) == SIGN]
    assert len(nonces) == 60
    assert len(set(nonces)) == 60
    assert bytes(32) not in nonces


def flip(dice, data, first=0):
    place = dice.randrange(first, len(data))
    return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]


@pytest.mark.parametrize("suite", [QUICK, BARE], ids=str)
@pytest.mark.parametrize("what", ["command", "answer"])
def test_a_signature_that_was_tampered_with_is_refused_or_right(relay, tpm, suite, what):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, key, refused = random.Random(seed), tpm.create(suite, auth=AUTH), 0
    public = signatures.load_public(key.spki)

    def change(data):
        """Behind the header: a wrong size there would only make the other end wait."""
        return flip(dice, data, 10) if len(data) > 10 else data

    for turn in range(60):
        signed = f"turn {turn}".encode()
        if what == "command":
            relay.before = lambda command: change(command) if code_of(command) in (SIGN, RSA_DECRYPT) else command
        else:
            relay.after = lambda command, answer: change(answer) if code_of(command) in (SIGN, RSA_DECRYPT) else answer
        try:
            signature = tpm.sign(key, suite, suite.digest(signed), auth=AUTH)
            signatures.verify(suite, public, signed, signature)
        except TpmError:
            refused += 1
        relay.before, relay.after = lambda command: command, lambda _, answer: answer
    assert refused >= 55
    signatures.verify(suite, public, b"after", tpm.sign(key, suite, suite.digest(b"after"), auth=AUTH))


def test_a_signature_that_was_changed_on_its_way_is_told_as_such(relay, tpm):
    key = tpm.create(QUICK, auth=AUTH)
    relay.after = lambda command, answer: (
        answer[:30] + bytes([answer[30] ^ 1]) + answer[31:] if code_of(command) == SIGN else answer
    )
    with pytest.raises(TpmRefusedError) as caught:
        tpm.sign(key, QUICK, bytes(32), auth=AUTH)
    assert caught.value.code == "tampered"


def test_an_old_answer_is_not_taken_for_a_new_one(relay, tpm):
    key = tpm.create(QUICK, auth=AUTH)
    tpm.sign(key, QUICK, bytes(32), auth=AUTH)
    old = next(answer for command, answer in zip(relay.commands, relay.answers, strict=True) if code_of(command) == SIGN)
    relay.after = lambda command, answer: old if code_of(command) == SIGN else answer
    with pytest.raises(TpmRefusedError) as caught:
        tpm.sign(key, QUICK, bytes(32), auth=AUTH)
    assert caught.value.code == "tampered"


def test_an_old_command_is_not_served_again(relay, tpm):
    """Whoever recorded a signature's command gets no second signature with it."""
    key = tpm.create(QUICK, auth=AUTH)
    tpm.sign(key, QUICK, bytes(32), auth=AUTH)
    old = next(command for command in relay.commands if code_of(command) == SIGN)
    assert relay._ask(old)[6:10] != bytes(4)


def test_an_answer_cut_short_is_refused(relay, tpm):
    key = tpm.create(QUICK, auth=AUTH)
    for size in (10, 12, 14, 20, 60):
        cut = lambda answer, size=size: answer[:2] + size.to_bytes(4, "big") + answer[6:size]  # noqa: E731  one of several
        relay.after = lambda command, answer, cut=cut: cut(answer) if code_of(command) == SIGN else answer
        with pytest.raises(TpmRefusedError) as caught:
            tpm.sign(key, QUICK, bytes(32), auth=AUTH)
        assert caught.value.code == "tampered"


@pytest.mark.anyio
@pytest.mark.parametrize("code", [CREATE, UNSEAL])
async def test_a_secret_that_was_tampered_with_is_refused_or_right(relay, code):
    """The library is confused by such answers; the engine opens it again."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, refused = random.Random(seed), 0

    def change(command, answer):
        return flip(dice, answer, 10) if code_of(command) == code and len(answer) > 10 else answer

    async with Engine(lambda: EsapiTpm(relay.tcti, origin=SOFTWARE_TPM), MemoryVault()) as engine:
        blob = await engine.seal(SECRET)
        for _ in range(20):
            relay.after = change
            try:
                assert await engine.unseal(await engine.seal(SECRET) if code == CREATE else blob) == SECRET
            except TpmError:
                refused += 1
            relay.after = lambda _, answer: answer
        assert refused >= 15
        assert await engine.unseal(blob) == SECRET

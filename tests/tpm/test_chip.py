"""A real TPM, the software one, with everything that can be wrong with it: full, locked, foreign, shared, gone."""

from __future__ import annotations

import os
import struct
import subprocess
from contextlib import suppress

import pytest
from relay import LOAD, SIGN, START_AUTH_SESSION, Answer, code_of

from bus.errors import TpmRefusedError, TpmUnavailableError, VaultError
from bus.protocol import signatures
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import SOFTWARE_TPM, WrappedKey

pytss = pytest.importorskip("tpm2_pytss", exc_type=ImportError)

from bus.tpm.esapi import EsapiTpm  # noqa: E402  only where the library is there

QUICK = IDENTITY_SUITES["ecc256/sha256"]
AUTH = b"auth value of a key in a test..."


def opened(tcti, **options):
    return EsapiTpm(tcti, origin=SOFTWARE_TPM, **options)


@pytest.fixture
def tpm(swtpm):
    chip = opened(swtpm.tcti)
    yield chip
    chip.close()


@pytest.fixture
def stranger(swtpm):
    """Another client of the same TPM, without a resource manager between us."""
    with pytss.ESAPI(swtpm.tcti) as esys:
        yield esys


@pytest.fixture
def tools(swtpm, tmp_path):
    def run(*command, check=True):
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"TPM2TOOLS_TCTI": swtpm.tcti}, capture_output=True, timeout=30, check=check
        )

    return run


def sign(chip, key, auth=AUTH):
    signature = chip.sign(key, QUICK, QUICK.digest(b"signed"), auth=auth)
    signatures.verify(QUICK, signatures.load_public(key.spki), b"signed", signature)


def handles(esys, first):
    _, data = esys.get_capability(pytss.TPM2_CAP.HANDLES, first, 64)
    return [int(handle) for handle in data.data.handles]


TRANSIENT, LOADED_SESSIONS, SAVED_SESSIONS = 0x80000000, 0x02000000, 0x03000000


def some_object(esys):
    return esys.create_primary(pytss.TPM2B_SENSITIVE_CREATE(), "ecc256:aes128cfb")[0]


def some_session(esys):
    return esys.start_auth_session(
        tpm_key=pytss.ESYS_TR.NONE,
        bind=pytss.ESYS_TR.NONE,
        session_type=pytss.TPM2_SE.HMAC,
        symmetric=pytss.TPMT_SYM_DEF(algorithm=pytss.TPM2_ALG.NULL),
        auth_hash=pytss.TPM2_ALG.SHA256,
    )


# ---- what it makes -------------------------------------------------------------------------------------------------------------


def test_it_tells_what_it_is(tpm):
    facts = tpm.facts()
    assert facts.origin == SOFTWARE_TPM
    assert facts.kinds == {"ecc256", "ecc384", "rsa3072"}
    assert {"sha256", "sha384"} <= facts.hashes
    assert facts.transient_slots == 3
    assert facts.primary_handle == 0x81000001
    assert len(facts.primary_name) == 34
    assert (facts.lockout.failed_tries, facts.lockout.locked) == (0, False)


@pytest.mark.parametrize("name", [*IDENTITY_SUITES, None])
def test_keys_stay_in_their_chip_and_cannot_lock_it(tpm, name):
    key = tpm.create(IDENTITY_SUITES[name] if name else None, auth=AUTH)
    attributes = pytss.TPM2B_PUBLIC.unmarshal(key.public)[0].publicArea.objectAttributes
    kinds = pytss.TPMA_OBJECT
    for wanted in (
        kinds.FIXEDTPM,
        kinds.FIXEDPARENT,
        kinds.NODA,
        kinds.SENSITIVEDATAORIGIN,
        kinds.USERWITHAUTH,
        kinds.SIGN_ENCRYPT,
    ):
        assert attributes & wanted
    assert bool(attributes & kinds.RESTRICTED) is (name is None)
    # Bare RSA, a decryption oracle if it were let out, only where the chip cannot pad itself.
    assert bool(attributes & kinds.DECRYPT) is (name in {"rsa3072/sha3-256", "rsa3072/sha3-384"})


def test_it_leaves_nothing_in_the_chip(swtpm, stranger):
    chip = opened(swtpm.tcti)
    keys = [chip.create(QUICK, auth=AUTH) for _ in range(5)]
    attester = chip.create(None, auth=AUTH)
    for key in keys * 2:
        sign(chip, key)
    chip.unseal(chip.seal(b"secret", pcrs=[]))
    chip.unseal(chip.seal(b"secret", pcrs=[16]))
    chip.certify(keys[0], attester, qualifying=b"", auth=AUTH, attester_auth=AUTH)
    chip.quote([0], attester, qualifying=b"", attester_auth=AUTH)
    chip.endorsement()
    with pytest.raises(TpmRefusedError):
        sign(chip, keys[0], auth=b"wrong")
    sign(chip, keys[0])
    chip.close()
    for kind in (TRANSIENT, LOADED_SESSIONS, SAVED_SESSIONS):
        assert handles(stranger, kind) == []


def test_ten_keys_take_turns_in_three_places(tpm):
    keys = [tpm.create(QUICK, auth=AUTH) for _ in range(10)]
    for _ in range(3):
        for key in keys:
            sign(tpm, key)
    statistics = tpm.statistics()
    assert (statistics["places"], statistics["loads"], statistics["recoveries"]) == (3, 10, 0)
    assert statistics["hits"] + statistics["restores"] == 20
    assert statistics["loaded"] <= 3


def test_sessions_are_renewed_now_and_then_and_none_is_left_over(swtpm, stranger, monkeypatch):
    monkeypatch.setattr("bus.tpm.esapi_chip.SESSION_USES", 3)
    chip = opened(swtpm.tcti)
    key = chip.create(QUICK, auth=AUTH)
    for _ in range(10):
        sign(chip, key)
        chip.unseal(chip.seal(b"secret", pcrs=[]))
    assert len(handles(stranger, LOADED_SESSIONS)) <= 2
    assert chip.statistics()["recoveries"] == 0
    chip.close()


# ---- others in the same chip ---------------------------------------------------------------------------------------------------


def test_what_a_client_that_died_left_behind_is_cleared_away(swtpm, stranger):
    for _ in range(3):
        some_object(stranger)
        some_session(stranger)
    chip = opened(swtpm.tcti)
    sign(chip, chip.create(QUICK, auth=AUTH))
    assert chip.statistics()["recoveries"] == 0
    chip.close()


def test_object_memory_that_others_fill_is_won_back(tpm, stranger):
    """0x902."""
    key = tpm.create(QUICK, auth=AUTH)
    for _ in range(3):
        some_object(stranger)
    sign(tpm, key)
    assert tpm.statistics()["recoveries"] == 1
    sign(tpm, key)
    assert tpm.statistics()["recoveries"] == 1


def test_session_memory_that_others_fill_is_won_back(tpm, stranger):
    """0x903."""
    key = tpm.create(QUICK, auth=AUTH)
    for _ in range(2):
        some_session(stranger)
    sign(tpm, key)
    tpm.unseal(tpm.seal(b"secret", pcrs=[7]))
    assert tpm.statistics()["recoveries"] >= 1


def test_session_handles_that_others_use_up_are_won_back(tpm, stranger):
    """0x905: there are 64, and a saved session keeps its own."""
    key = tpm.create(QUICK, auth=AUTH)
    with pytest.raises(pytss.TSS2_Exception) as caught:  # noqa: PT012  until there are no more
        while True:
            stranger.context_save(some_session(stranger))
    assert caught.value.rc == 0x905
    sign(tpm, key)
    assert tpm.statistics()["recoveries"] == 1


@pytest.mark.parametrize("whose", ["all", "first", "second"])
def test_handles_that_others_flush_are_loaded_again(tpm, stranger, whose):
    """0x910, 0x911: another engine that opens the same chip clears away what it takes for left behind."""
    key, attester = tpm.create(QUICK, auth=AUTH), tpm.create(None, auth=AUTH)

    def certify():
        tpm.certify(key, attester, qualifying=b"q", auth=AUTH, attester_auth=AUTH)

    certify()
    there = handles(stranger, TRANSIENT)
    for handle in {"all": there, "first": there[:1], "second": there[1:]}[whose]:
        stranger.flush_context(stranger.tr_from_tpmpublic(handle))
    certify()
    sign(tpm, key)


def test_two_engines_on_one_chip_without_a_resource_manager_sign_right_or_not_at_all(swtpm):
    """Handles of one become handles of the other. Hence one engine for a state folder; what matters is that it fails closed."""
    first, second = opened(swtpm.tcti), opened(swtpm.tcti)
    keys, signed = {chip: chip.create(QUICK, auth=AUTH) for chip in (first, second)}, 0
    for _ in range(30):
        for chip, key in keys.items():
            with suppress(TpmRefusedError, TpmUnavailableError):
                sign(chip, key)  # what it gives is verified
                signed += 1
            with suppress(TpmRefusedError, TpmUnavailableError):
                assert chip.unseal(chip.seal(b"secret", pcrs=[])) == b"secret"
    assert signed > 0
    first.close()
    with suppress(TpmRefusedError):
        sign(second, keys[first])
    sign(second, keys[first])
    assert second.unseal(second.seal(b"secret", pcrs=[])) == b"secret"
    second.close()


@pytest.mark.parametrize(("rc", "code"), [(0x902, LOAD), (0x903, START_AUTH_SESSION), (0x901, START_AUTH_SESSION), (0x910, SIGN)])
def test_a_chip_that_is_full_once_is_asked_again_and_one_that_stays_full_is_unavailable(relay, rc, code):
    """A context gap (0x901) takes 65,000 sessions to make, so here the relay says it."""
    left = 0

    def full(command):
        nonlocal left
        if code_of(command) == code and left:
            left -= 1
            return Answer(rc)
        return command

    chip = opened(relay.tcti)
    key = chip.create(QUICK, auth=AUTH)
    chip._chip._forget_sessions()
    relay.before, left = full, 1
    sign(chip, key)
    assert (left, chip.statistics()["recoveries"]) == (0, 1)
    chip._chip.slots.flush_all()
    chip._chip.slots.forget_all()
    chip._chip._forget_sessions()
    left = 1_000
    with pytest.raises(TpmUnavailableError) as caught:
        sign(chip, key)
    assert (caught.value.code, caught.value.rc) == ("tpm_memory", rc)
    assert left == 998, "it went on asking"
    left = 0
    sign(chip, key)
    chip.close()


@pytest.mark.parametrize("rc", [0x908, 0x90A, 0x922])
def test_a_chip_that_is_busy_is_asked_a_few_times_and_not_for_ever(relay, rc):
    left = 3

    def busy(command):
        nonlocal left
        if code_of(command) == SIGN and left:
            left -= 1
            return Answer(rc)
        return command

    chip = opened(relay.tcti)
    key = chip.create(QUICK, auth=AUTH)
    relay.before = busy
    sign(chip, key)
    asked = [command for command in relay.commands if code_of(command) == SIGN]
    assert len(asked) == 4
    assert len(set(asked)) == 1, "the same bytes again, else a nonce would count twice"
    left, before = 1_000, relay.count(SIGN)
    with pytest.raises((TpmRefusedError, TpmUnavailableError)):
        sign(chip, key)
    assert relay.count(SIGN) - before <= 5
    left = 0
    chip.close()


# ---- auth values and lockout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ecc256/sha256", "rsa3072/sha3-256"])
def test_a_wrong_auth_value_is_refused_and_never_tried_twice(relay, name):
    suite = IDENTITY_SUITES[name]
    chip = opened(relay.tcti)
    key = chip.create(suite, auth=AUTH)
    chip.sign(key, suite, bytes(suite.digest_bytes), auth=AUTH)
    before = len(relay.commands)
    with pytest.raises(TpmRefusedError) as caught:
        chip.sign(key, suite, bytes(suite.digest_bytes), auth=b"wrong")
    assert caught.value.code == "auth_fail"
    used = [code_of(command) for command in relay.commands[before:]]
    assert used.count(SIGN) + used.count(0x159) == 1
    assert chip.facts().lockout.failed_tries == 0, "our keys are exempt"
    chip.sign(key, suite, bytes(suite.digest_bytes), auth=AUTH)
    chip.close()


def test_a_locked_chip_is_told_and_our_keys_sign_on(tpm, tools, tmp_path):
    """Somebody else's key, without NODA, whose auth value was guessed at too often."""
    ours = tpm.create(QUICK, auth=AUTH)
    make = ["tpm2_create", "-C", "0x81000001", "-G", "ecc256", "-p", "right", "-u", "k.pub", "-r", "k.priv"]
    tools(*make, "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")
    public, private = (tmp_path / "k.pub").read_bytes(), (tmp_path / "k.priv").read_bytes()
    pem = pytss.tsskey.TSSPrivKey(
        pytss.TPM2B_PRIVATE.unmarshal(private)[0], pytss.TPM2B_PUBLIC.unmarshal(public)[0], empty_auth=False, parent=0x81000001
    ).to_pem()
    protected = WrappedKey(pem, public, pytss.TPM2B_PUBLIC.unmarshal(public)[0].to_der(), SOFTWARE_TPM)
    sign(tpm, protected, auth=b"right")
    codes = []
    for _ in range(10):
        with pytest.raises(TpmRefusedError) as caught:
            sign(tpm, protected, auth=b"wrong")
        codes.append(caught.value.code)
        if codes[-1] == "lockout":
            break
    assert codes[0] == "auth_fail"
    assert codes[-1] == "lockout"
    assert tpm.facts().lockout.locked
    sign(tpm, ours)
    tpm.unseal(tpm.seal(b"secret", pcrs=[]))
    with pytest.raises(TpmRefusedError) as caught:
        sign(tpm, protected, auth=b"right")
    assert (caught.value.code, caught.value.rc) == ("lockout", 0x921)
    tools("tpm2_dictionarylockout", "-c")
    sign(tpm, protected, auth=b"right")


def test_the_attestation_key_signs_nothing_that_came_from_outside(tpm):
    attester = tpm.create(None, auth=AUTH)
    with pytest.raises(TpmRefusedError):
        tpm.sign(attester, QUICK, QUICK.digest(b"\xffTCG and so on"), auth=AUTH)


# ---- whose TPM -----------------------------------------------------------------------------------------------------------------


def test_a_foreign_object_at_our_handle_is_refused_and_left_alone(swtpm, tools, stranger):
    tools("tpm2_createprimary", "-C", "o", "-G", "rsa2048", "-c", "primary.ctx")
    tools("tpm2_evictcontrol", "-C", "o", "-c", "primary.ctx", "0x81000001")
    before = bytes(stranger.tr_get_name(stranger.tr_from_tpmpublic(0x81000001)))
    with pytest.raises(TpmRefusedError) as caught:
        opened(swtpm.tcti)
    assert caught.value.code == "foreign_primary"
    assert bytes(stranger.tr_get_name(stranger.tr_from_tpmpublic(0x81000001))) == before
    assert handles(stranger, TRANSIENT) == []
    chip = opened(swtpm.tcti, primary_handle=0x81000002)
    assert chip.facts().primary_handle == 0x81000002
    sign(chip, chip.create(QUICK, auth=AUTH))
    chip.close()


def test_the_standard_storage_root_key_that_others_made_is_shared(swtpm, tools, tmp_path):
    point = struct.pack("<H", 32) + bytes(128)  # the library's own memory: a size, then room for the largest curve
    (tmp_path / "unique").write_bytes(point + point)
    attributes = "fixedtpm|fixedparent|noda|restricted|decrypt|userwithauth|sensitivedataorigin"
    tools("tpm2_createprimary", "-C", "o", "-G", "ecc256:null:aes128cfb", "-a", attributes, "-u", "unique", "-c", "primary.ctx")
    tools("tpm2_evictcontrol", "-C", "o", "-c", "primary.ctx", "0x81000001")
    tools("tpm2_readpublic", "-c", "0x81000001", "-n", "name")
    chip = opened(swtpm.tcti)
    assert chip.facts().primary_name == (tmp_path / "name").read_bytes()
    sign(chip, chip.create(QUICK, auth=AUTH))
    chip.close()


def test_a_key_of_another_tpm_is_refused(tpm, stranger):
    """As if the owner had cleared the chip: the same template gives another primary."""
    key = tpm.create(QUICK, auth=AUTH)
    tpm.close()
    stranger.clear(pytss.ESYS_TR.PLATFORM)
    other = opened(tpm.tcti)
    with pytest.raises(VaultError) as caught:
        sign(other, key)
    assert caught.value.code == "wrong_tpm"
    sign(other, other.create(QUICK, auth=AUTH))
    other.close()
    tpm._chip = opened(tpm.tcti)._chip  # for the fixture to close


@pytest.mark.parametrize("tcti", ["swtpm:path=/nowhere/x.sock", "nonsense:x", "device:/dev/null", "swtpm:host=127.0.0.1,port=1"])
def test_a_tpm_that_does_not_answer_is_unavailable(tcti):
    with pytest.raises(TpmUnavailableError) as caught:
        opened(tcti)
    assert caught.value.code == "no_tpm"


def test_a_tpm_that_is_gone_is_unavailable_and_can_be_closed(swtpm):
    chip = opened(swtpm.tcti)
    key = chip.create(QUICK, auth=AUTH)
    swtpm.stop()
    for use in (
        lambda: sign(chip, key),
        lambda: chip.create(QUICK, auth=AUTH),
        chip.facts,
        lambda: chip.seal(b"s", pcrs=[]),
        chip.endorsement,
    ):
        with pytest.raises(TpmUnavailableError) as caught:
            use()
        assert caught.value.code == "no_tpm"
    chip.close()


# ---- seals ---------------------------------------------------------------------------------------------------------------------


def test_a_seal_on_registers_breaks_with_them(tpm, tools):
    blob = tpm.seal(b"secret", pcrs=[16, 7, 16])
    assert tpm.unseal(blob) == b"secret"
    tools("tpm2_pcrextend", "16:sha256=" + "ab" * 32)
    with pytest.raises(TpmRefusedError) as caught:
        tpm.unseal(blob)
    assert caught.value.code == "policy_fail"
    tools("tpm2_pcrreset", "16")
    assert tpm.unseal(blob) == b"secret"


def test_registers_that_change_while_a_secret_is_unsealed_are_asked_again(relay, tools):
    """0x128."""
    chip = opened(relay.tcti)
    blob, left = chip.seal(b"secret", pcrs=[16]), 3

    def change(command):
        nonlocal left
        if code_of(command) == 0x15E and left:
            left -= 1
            tools("tpm2_pcrextend", "17:sha1=" + "00" * 20, check=False)
            tools("tpm2_pcrextend", "23:sha256=" + "ab" * 32)
        return command

    relay.before = change
    assert chip.unseal(blob) == b"secret"
    chip.close()


def test_a_seal_on_registers_does_not_open_with_a_password(tpm, stranger):
    """userWithAuth must be clear, or the policy is never asked for."""
    from bus.tpm.esapi_types import open_sealed_blob

    _, private, public = open_sealed_blob(tpm.seal(b"secret", pcrs=[16]))
    handle = stranger.load(stranger.tr_from_tpmpublic(0x81000001), private, public)
    with pytest.raises(pytss.TSS2_Exception):
        stranger.unseal(handle)
    stranger.flush_context(handle)

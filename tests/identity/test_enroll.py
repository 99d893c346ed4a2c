"""Enrolment end to end: real software TPMs, a real authority, and everybody who wants a name that is not theirs."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from enrolling_world import DOMAIN, NOW, SEAL, engine_of, roots_of, wish, world_of

from bus.errors import AttestationError, TpmRefusedError, VaultError, VerificationError
from bus.identity.authority import open_authority
from bus.identity.authority.desk import LIST_FILE, MAX_PENDING, OVERLAP_MS, Desk
from bus.identity.enroll import Predecessor
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock
from bus.tpm.interface import SOFTWARE
from bus.tpm.swtpm import Swtpm, manufacture
from bus.trust.endorsement import Roots
from bus.trust.enrolment_authority import NONCE_MS
from bus.trust.enrolment_list import EVERY_NAME, TOKEN_MS
from bus.trust.enrolment_messages import (
    LOCAL,
    RENEWAL,
    REQUEST,
    TOKEN,
    Answer,
    Granted,
    Refused,
    kind_of,
)
from bus.trust.revocations import Reason

pytestmark = pytest.mark.anyio
P256, RSA = IDENTITY_SUITES["ecc256/sha256"], IDENTITY_SUITES["rsa3072/sha3-384"]
UID = 1000


@pytest.fixture(scope="session")
def made_authority(tmp_path_factory):
    """Its RSA key takes seconds; each test opens a copy."""
    folder = tmp_path_factory.mktemp("authority") / "trust"

    async def make():
        async with open_authority(folder, domain=DOMAIN, protection=SEAL, clock=ManualClock(NOW)):
            pass

    anyio.run(make)
    return folder


@pytest.fixture(scope="session")
def other_made_swtpm(tmp_path_factory):
    """Another machine's: it has another CA."""
    folder = tmp_path_factory.mktemp("other") / "swtpm"
    manufacture(folder)
    return folder


@pytest.fixture
def other_swtpm(other_made_swtpm, tmp_path, runtime):
    shutil.copytree(other_made_swtpm, tmp_path / "other")
    process = Swtpm(tmp_path / "other", socket_path=runtime / "other.sock")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def authority_folder(made_authority, tmp_path):
    shutil.copytree(made_authority, tmp_path / "trust")
    return tmp_path / "trust"


@pytest.fixture
async def engine(swtpm, tmp_path):
    async with engine_of(swtpm, tmp_path / "vault") as engine:
        yield engine


@pytest.fixture
async def other(other_swtpm, tmp_path):
    """An engine over the other machine's TPM."""
    async with engine_of(other_swtpm, tmp_path / "other-vault") as engine:
        yield engine


@pytest.fixture
async def world(engine, authority_folder, swtpm_folder):
    async with world_of(engine, authority_folder, roots_of(swtpm_folder)) as world:
        yield world


async def refused(call, *arguments, **options) -> str:
    with pytest.raises(AttestationError) as caught:
        await call(*arguments, **options)
    return caught.value.reason


# ---- what is granted -----------------------------------------------------------------------------------------------------------


async def test_a_listed_chip_enrols_its_agents_each_with_its_own_suite(world):
    await world.engine.create("LEAD", P256)
    strong = await world.engine.create("STRONG", RSA)
    chip = await world.list_chip("LEAD", "STRONG")
    done = await world.enroll(wish("STRONG"), wish("LEAD"))
    assert [one.name for one in done] == ["STRONG", "LEAD"]
    certificate = done[0].certificate
    assert (certificate.name, certificate.spki, certificate.suite) == ("STRONG", strong.spki, RSA)
    assert (certificate.origin, certificate.level, certificate.domain) == ("software-tpm", 1, DOMAIN)
    assert world.authority.holder("STRONG") == (chip, certificate.der)
    assert len(world.sent) == 2, "one request and one proof for both"


async def test_a_token_enrols_once(world):
    await world.engine.create("LEAD", P256)
    token = await anyio.to_thread.run_sync(world.desk.new_token, "LEAD")
    assert (await world.enroll(wish("LEAD", TOKEN, token=token)))[0].certificate.name == "LEAD"
    assert await refused(world.enroll, wish("LEAD", TOKEN, token=token)) == "token_used"


async def test_a_token_ends_and_is_for_its_name_alone(world):
    for name in ("LEAD", "FREE"):
        await world.engine.create(name, P256)
    token = await anyio.to_thread.run_sync(world.desk.new_token, "LEAD")
    assert await refused(world.enroll, wish("FREE", TOKEN, token=token)) == "token_other_name"
    assert (await world.enroll(wish("LEAD", TOKEN, token=token)))[0].certificate.name == "LEAD", "the failure did not use it up"
    late = await anyio.to_thread.run_sync(world.desk.new_token, "LEAD")
    world.clock.advance(TOKEN_MS / 1000)
    assert await refused(world.enroll, wish("LEAD", TOKEN, token=late)) == "token_expired"
    assert await refused(world.enroll, wish("LEAD", TOKEN, token=bytes(16))) == "token_unknown"


async def test_a_token_is_used_up_on_disk_before_anything_is_certified(world, swtpm_folder, monkeypatch):
    """So a second process, or this one after it was killed, does not take it again."""
    await world.engine.create("LEAD", P256)
    token = await anyio.to_thread.run_sync(world.desk.new_token, "LEAD")

    def killed(*_: object, **__: object) -> bytes:
        raise VaultError("disk", "the disk is gone", path="")

    with monkeypatch.context() as patch:
        patch.setattr(world.authority, "issue_identity", killed)
        assert await refused(world.enroll, wish("LEAD", TOKEN, token=token)) == "failed"
    world.desk = await anyio.to_thread.run_sync(
        lambda: Desk(world.authority, policy=world.desk._policy, roots=roots_of(swtpm_folder), clock=world.clock)
    )
    assert await refused(world.enroll, wish("LEAD", TOKEN, token=token)) == "token_used"


async def test_what_fails_does_not_use_up_a_token(world, swtpm_folder):
    """A chip that is not believed yet, a line that is cut, a proof that is none: then what is wrong is put right."""
    await world.engine.create("LEAD", P256)
    token = await anyio.to_thread.run_sync(world.desk.new_token, "LEAD")
    world.desk.believe(Roots())
    assert await refused(world.enroll, wish("LEAD", TOKEN, token=token)) == "ek_untrusted"
    world.desk.believe(roots_of(swtpm_folder))

    def cut(message: bytes) -> bytes:
        raise EOFError("the line is cut after the request")

    world.tamper = lambda message: message if kind_of(message) == REQUEST else cut(message)
    for _ in range(3):
        with pytest.raises(EOFError):
            await world.enroll(wish("LEAD", TOKEN, token=token))
    assert len(world.desk._pending) == 1, "who has one token has one place among those who are waited for"
    world.tamper = lambda message: message
    assert (await world.enroll(wish("LEAD", TOKEN, token=token)))[0].certificate.name == "LEAD"
    assert await refused(world.enroll, wish("LEAD", TOKEN, token=token)) == "token_used"


async def test_whoever_asks_in_vain_fills_no_log(world, caplog):
    for number in range(50):
        await anyio.to_thread.run_sync(world.desk.answer, b"no request %d" % number)
    await world.engine.create("LEAD", P256)
    for _ in range(3):
        assert await refused(world.enroll, wish("LEAD", LOCAL)) != ""
    assert len(caplog.records) == 2, "one of each reason"
    world.clock.advance(60)
    await anyio.to_thread.run_sync(world.desk.answer, b"no request")
    assert len(caplog.records) == 3


async def test_a_local_user_enrols_keys_in_the_tpm_and_in_software(world):
    await world.engine.create("LEAD", P256)
    await world.engine.create("FREE", P256, origin=SOFTWARE)
    world.uid = UID
    assert await refused(world.enroll, wish("LEAD", LOCAL)) == "uid_unknown"
    await anyio.to_thread.run_sync(world.desk.list_uid, EVERY_NAME, UID)
    done = await world.enroll(wish("LEAD", LOCAL), wish("FREE", LOCAL))
    assert [(one.certificate.origin, one.certificate.level) for one in done] == [("software-tpm", 1), ("software", 0)]


async def test_a_certificate_is_renewed_with_its_own_keys_word_and_no_list(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")
    (first,) = await world.enroll(wish("LEAD"))
    await anyio.to_thread.run_sync(world.desk.unlist, "LEAD")
    assert await refused(world.enroll, wish("LEAD")) == "not_listed"
    (again,) = await world.enroll(wish("LEAD", RENEWAL, predecessor=Predecessor(world.engine, "LEAD.1")))
    assert again.certificate.serial != first.certificate.serial
    assert not world.authority.revocations().revoked


# ---- names ---------------------------------------------------------------------------------------------------------------------


async def test_no_chip_gets_a_name_that_is_not_its_own_free_or_taken(world, other, swtpm_folder, tmp_path):
    world.desk._roots = roots_of(swtpm_folder, tmp_path / "other")
    await world.engine.create("LEAD", P256)
    await other.create("LEAD", P256)
    assert await refused(world.enroll, wish("LEAD"), engine=other) == "not_listed"
    await world.list_chip("LEAD")
    await world.enroll(wish("LEAD"))
    assert await refused(world.enroll, wish("LEAD"), engine=other) == "not_listed"
    await world.list_chip("LEAD", engine=other)
    assert await refused(world.enroll, wish("LEAD"), engine=other) == "name_taken"


async def test_the_old_identity_key_signs_its_successor_in_another_tpm(world, other, swtpm_folder, tmp_path):
    world.desk._roots = roots_of(swtpm_folder, tmp_path / "other")
    await world.engine.create("LEAD", P256)
    await other.create("LEAD", P256)
    await world.list_chip("LEAD")
    (first,) = await world.enroll(wish("LEAD"))
    await world.list_chip("LEAD", engine=other)
    wrong = await other.create("FREE", P256)
    assert await refused(world.enroll, wish("LEAD", predecessor=Predecessor(other, wrong.id)), engine=other) == "wrong_successor"
    moved = wish("LEAD", predecessor=Predecessor(world.engine, "LEAD.1"))
    (second,) = await world.enroll(moved, engine=other)
    revocation = world.authority.revocations().revoked[first.certificate.serial]
    assert revocation.reason is Reason.ROTATED
    assert revocation.date_ms == NOW + OVERLAP_MS
    assert (await anyio.to_thread.run_sync(world.authority.holder, "LEAD")).der == second.certificate.der


async def test_an_agent_moves_between_the_tpm_and_software(world):
    """Policy lets it: its old key, wherever that is, signs for the new one."""
    world.uid = UID
    await anyio.to_thread.run_sync(world.desk.list_uid, "FREE", UID)
    tpm = await world.engine.create("FREE", P256)
    await world.enroll(wish("FREE", LOCAL))
    software = await world.engine.create("FREE", P256, origin=SOFTWARE)
    assert await refused(world.enroll, wish("FREE", LOCAL)) == "name_taken"
    (moved,) = await world.enroll(wish("FREE", LOCAL, predecessor=Predecessor(world.engine, tpm.id)))
    assert moved.certificate.origin == "software"
    back = await world.engine.create("FREE", P256)
    assert back.id == tpm.id
    (home,) = await world.enroll(wish("FREE", LOCAL, predecessor=Predecessor(world.engine, software.id)))
    assert (home.certificate.origin, home.certificate.spki) == ("software-tpm", tpm.spki)


async def test_a_revoked_name_is_free_for_who_is_listed_and_nobody_else(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")
    await world.enroll(wish("LEAD"))
    await anyio.to_thread.run_sync(world.authority.revoke, "LEAD", Reason.COMPROMISED)
    await anyio.to_thread.run_sync(world.desk.unlist, "LEAD")
    renewal = wish("LEAD", RENEWAL, predecessor=Predecessor(world.engine, "LEAD.1"))
    assert await refused(world.enroll, renewal) == "not_listed"
    assert await refused(world.enroll, wish("LEAD")) == "not_listed"


# ---- policy --------------------------------------------------------------------------------------------------------------------


async def test_no_environment_takes_a_critical_agent_off_the_tpm(world, monkeypatch):
    """The process was started with TPM_ENABLED=false and made itself a software key: the desk asks the signed policy."""
    monkeypatch.setenv("TPM_ENABLED", "false")
    monkeypatch.setenv("TPM_ENABLE_PERCENT", "0")
    world.uid = UID
    await anyio.to_thread.run_sync(world.desk.list_uid, EVERY_NAME, UID)
    await world.engine.create("LEAD", P256, origin=SOFTWARE)
    assert await refused(world.enroll, wish("LEAD", LOCAL)) == "origin_refused"


async def test_a_software_tpm_is_no_hardware_and_another_suite_none_of_the_roles(world):
    await world.engine.create("HARD", P256)
    await world.engine.create("STRONG", P256)
    await world.list_chip("HARD", "STRONG")
    assert await refused(world.enroll, wish("HARD")) == "origin_refused"
    assert await refused(world.enroll, wish("STRONG")) == "suite_refused"


async def test_the_root_that_verifies_says_what_is_hardware_and_not_the_enrollee(engine, authority_folder, swtpm_folder):
    software = roots_of(swtpm_folder)
    asserted = replace(software, hardware=software.software, software=())
    async with world_of(engine, authority_folder, asserted) as world:
        await engine.create("HARD", P256)
        await world.list_chip("HARD")
        (done,) = await world.enroll(wish("HARD"))
        assert (done.certificate.origin, done.certificate.level) == ("hardware", 2)


# ---- chips and keys ------------------------------------------------------------------------------------------------------------


async def test_a_tpm_under_another_ca_is_not_believed(world, other):
    await other.create("LEAD", P256)
    await world.list_chip("LEAD", engine=other)
    assert await refused(world.enroll, wish("LEAD"), engine=other) == "ek_untrusted"


async def test_under_no_root_nobody_enrols(engine, authority_folder):
    async with world_of(engine, authority_folder, Roots()) as world:
        await engine.create("LEAD", P256)
        await world.list_chip("LEAD")
        assert await refused(world.enroll, wish("LEAD")) == "ek_untrusted"


class Lying:
    """An engine of which some answers come from another: the thief's own, in most of these tests."""

    def __init__(self, engine, **other):
        self._engine, self._other = engine, other

    def __getattr__(self, verb):
        return getattr(self._other.get(verb, self._engine), verb)


async def test_the_certificate_of_another_endorsement_key_does_not_help(world, other, swtpm_folder, tmp_path):
    """The thief shows the good chip's certificate with the public area of his own, and the other way round."""
    world.desk._roots = roots_of(swtpm_folder, tmp_path / "other")
    await other.create("LEAD", P256)
    good, own = await world.engine.endorsement(), await other.endorsement()

    class Mixed(Lying):
        shown = None

        async def endorsement(self, *, beside=None):
            return self.shown

    for shown in (replace(good, public=own.public), replace(own, public=good.public)):
        mixed = Mixed(other)
        mixed.shown = shown
        assert await refused(world.enroll, wish("LEAD"), engine=mixed) == "ek_mismatch"


async def test_an_identity_key_of_another_tpm_than_the_attested_one_is_refused(world, other):
    """Chip and attestation key are the good ones, and open the credential; the key, and its certification, are the thief's."""
    await world.list_chip("LEAD")
    await world.engine.attestation_key()
    await other.create("LEAD", P256)
    thief = Lying(world.engine, keys=other, certify=other)
    assert await refused(world.enroll, wish("LEAD"), engine=thief) == "not_certified"


async def test_the_good_chip_does_not_certify_a_key_that_it_does_not_have(world, other):
    """The good chip certifies a key of its own instead."""
    await world.list_chip("LEAD")
    await world.engine.create("LEAD", P256)
    await other.create("LEAD", P256)
    assert await refused(world.enroll, wish("LEAD"), engine=Lying(world.engine, keys=other)) == "wrong_identity_key"


async def test_the_good_chip_opens_no_credential_for_another_chips_attestation_key(world, other):
    await world.list_chip("LEAD")
    await other.create("LEAD", P256)
    thief = Lying(other, endorsement=world.engine, activate=world.engine)
    with pytest.raises(TpmRefusedError) as caught:
        await world.enroll(wish("LEAD"), engine=thief)
    assert caught.value.code == "wrong_credential"
    guessing = Lying(other, endorsement=world.engine, activate=Guess())
    assert await refused(world.enroll, wish("LEAD"), engine=guessing) == "wrong_secret"


class Guess:
    async def activate(self, credential: bytes, secret: bytes, *, beside: str | None = None) -> bytes:
        return bytes(32)


async def test_an_identity_key_does_not_serve_as_attestation_key(world):
    """It is not restricted, so it would sign whatever looks like an attestation."""
    info = await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")

    class Posing(Lying):
        async def attestation_key(self, *, beside=None):
            return replace(await self._engine.attestation_key(beside=beside), spki=info.spki, public=info.public)

    assert await refused(world.enroll, wish("LEAD"), engine=Posing(world.engine)) == "ak_unrestricted"


async def test_a_software_key_does_not_pass_as_one_of_the_tpm(world):
    """It is shown beside the good chip, under a public area that says the best of it."""
    await world.list_chip("FREE")
    real = await world.engine.create("LEAD", P256)
    await world.engine.create("FREE", P256, origin=SOFTWARE)
    soft = next(info for info in await world.engine.keys() if info.name == "FREE")

    class Claiming(Lying):
        """Its public area: that of a real key with the software key's point put in."""

        async def keys(self):
            public = real.public[:-68] + b"\0\x20" + soft.spki[-64:-32] + b"\0\x20" + soft.spki[-32:]
            return [replace(soft, origin="software-tpm", public=public)]

        async def certify(self, key, *, qualifying):
            return await self._engine.certify("LEAD", qualifying=qualifying)

    assert await refused(world.enroll, wish("FREE"), engine=Claiming(world.engine)) == "wrong_identity_key"


async def test_what_was_certified_over_another_nonce_is_refused(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")

    class Earlier(Lying):
        async def certify(self, key, *, qualifying):
            return await self._engine.certify(key, qualifying=bytes(32))

    assert await refused(world.enroll, wish("LEAD"), engine=Earlier(world.engine)) == "wrong_qualifying"


# ---- messages that come again, late, or changed --------------------------------------------------------------------------------


async def test_a_proof_that_comes_again_is_no_proof(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")
    await world.enroll(wish("LEAD"))
    assert Refused.parse(await world.ask(world.sent[1])) == ("nonce_unknown", "")


async def test_a_challenge_ends_after_five_minutes(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")

    def late(message: bytes) -> bytes:
        if kind_of(message) == 3:
            world.clock.advance(NONCE_MS / 1000)
        return message

    world.tamper = late
    assert await refused(world.enroll, wish("LEAD")) == "nonce_expired"


async def test_after_a_failure_in_the_middle_the_same_proof_made_right_is_too_late(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")

    def spoil(message: bytes) -> bytes:
        if kind_of(message) != 3:
            return message
        answer = Answer.parse(message)
        return answer._replace(evidence=(answer.evidence[0]._replace(attest=b""),)).encode()

    world.tamper = spoil
    assert await refused(world.enroll, wish("LEAD")) == "malformed"
    assert Refused.parse(await world.ask(world.sent[1])).reason == "nonce_unknown"
    assert world.authority.holder("LEAD") is None
    world.tamper = lambda message: message
    assert (await world.enroll(wish("LEAD")))[0].name == "LEAD"


async def test_one_agent_of_many_that_fails_fails_for_all(world):
    for name in ("LEAD", "FREE"):
        await world.engine.create(name, P256)
    await world.list_chip("LEAD")
    with pytest.raises(AttestationError) as caught:
        await world.enroll(wish("LEAD"), wish("FREE"))
    assert (caught.value.reason, caught.value.agent) == ("not_listed", "FREE")
    assert world.authority.holder("LEAD") is None


async def test_what_is_no_message_is_answered_and_nothing_comes_of_it(world):
    for message in (b"", b"\xc0", b"\x90", Granted(()).encode(), Refused("busy", "").encode(), bytes(2 << 20)):
        assert Refused.parse(await world.ask(message)).reason == "malformed"


async def test_only_so_many_enrolments_wait_and_old_ones_make_room(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")
    world.tamper = lambda message: message if kind_of(message) == 1 else b""
    assert await refused(world.enroll, wish("LEAD")) == "malformed"
    request = world.sent[0]
    for _ in range(MAX_PENDING - 1):
        assert kind_of(await world.ask(request)) == 2
    assert Refused.parse(await world.ask(request)).reason == "busy"
    world.clock.advance(NONCE_MS / 1000)
    assert kind_of(await world.ask(request)) == 2


async def test_an_authority_that_certifies_something_else_is_not_believed(world):
    for name in ("LEAD", "FREE"):
        await world.engine.create(name, P256)
    await world.list_chip("LEAD", "FREE")
    exchange = world.exchange

    async def swapped(message: bytes) -> bytes:
        answer = await exchange(message)
        return answer if kind_of(answer) != 4 else Granted(Granted.parse(answer).certificates[::-1]).encode()

    world.exchange = swapped
    assert await refused(world.enroll, wish("LEAD"), wish("FREE")) == "untrusted"

    async def invented(message: bytes) -> bytes:
        answer = await exchange(message)
        return answer if kind_of(answer) != 4 else Granted((b"x", b"y")).encode()

    world.exchange = invented
    with pytest.raises(VerificationError) as caught:
        await world.enroll(wish("LEAD"), wish("FREE"))
    assert caught.value.reason == "untrusted"


async def test_what_the_authority_meets_itself_is_not_told_to_strangers(world, caplog):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")

    def full(*_, **__):
        raise VaultError("disk_full", "no room in /secret/place", path="/secret/place")

    world.authority.issue_identity = full
    assert await refused(world.enroll, wish("LEAD")) == "failed"
    assert b"secret" not in world.heard[-1]
    assert "no room in" in caplog.text


# ---- the desk and the agent's side, used wrongly -------------------------------------------------------------------------------


async def test_an_agent_without_a_key_or_twice_is_not_enrolled(world):
    with pytest.raises(TpmRefusedError) as caught:
        await world.enroll(wish("LEAD"))
    assert caught.value.code == "unknown_key"
    await world.engine.create("LEAD", P256)
    with pytest.raises(ValueError, match="once"):
        await world.enroll(wish("LEAD"), wish("LEAD"))


async def test_a_predecessor_that_is_not_there_is_said_so(world):
    await world.engine.create("LEAD", P256)
    await world.list_chip("LEAD")
    await world.enroll(wish("LEAD"))
    with pytest.raises(TpmRefusedError) as caught:
        await world.enroll(wish("LEAD", RENEWAL, predecessor=Predecessor(world.engine, "LEAD.7")))
    assert caught.value.code == "unknown_key"


async def test_a_list_that_was_changed_on_disk_stops_the_desk(world):
    path = world.authority.private / LIST_FILE
    await anyio.to_thread.run_sync(world.desk.list_uid, "LEAD", UID)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{}")
    with pytest.raises(VaultError) as caught:
        await anyio.to_thread.run_sync(lambda: Desk(world.authority, policy=world.desk._policy, roots=Roots()))
    assert caught.value.code == "damaged"


async def test_the_list_is_there_again_after_a_restart(engine, authority_folder, swtpm_folder):
    async with world_of(engine, authority_folder, roots_of(swtpm_folder)) as world:
        await world.list_chip("LEAD")
        listed = world.desk.listed
    async with world_of(engine, authority_folder, roots_of(swtpm_folder)) as world:
        assert world.desk.listed == listed
        await engine.create("LEAD", P256)
        assert (await world.enroll(wish("LEAD")))[0].name == "LEAD"

"""The authority: whom it certifies, for how long, what takes a certificate back, and that it forgets nothing."""

from __future__ import annotations

import shutil
import stat
import sys
import threading
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

sys.path.insert(0, str(Path(__file__).parent))

from authorities import DAY, DOMAIN, EK, KEYS, OTHER_EK, P384, PASSPHRASE, RSA3072, SUITE, copied, enroll, let_days_pass, opened

from bus.errors import AttestationError, VerificationError
from bus.identity.authority import open_authority
from bus.protocol import contexts, cosign, signatures
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock
from bus.trust import certificates, revocations, root_signature
from bus.trust.certificates import Profile, Root
from bus.trust.revocations import Reason

RSA = IDENTITY_SUITES["rsa3072/sha3-384"]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority") / "trust"
    with opened(folder):
        return folder


@pytest.fixture
def folder(made, tmp_path):
    return copied(made, tmp_path / "trust")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def authority(folder, clock):
    with opened(folder, clock=clock) as authority:
        yield authority


def read(authority, der, **wanted):
    return certificates.read(der, root=authority.root, domain=DOMAIN, **wanted)


def shown(authority, name):
    """The certificate that others find in trust/public; None if there is none."""
    path = authority.public / "certificates" / f"{name}.pem"
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER) if path.exists() else None


def shown_list(authority):
    crl = x509.load_pem_x509_crl((authority.public / "crl.pem").read_bytes())
    return revocations.read(crl.public_bytes(Encoding.DER), root=authority.root)


def refused(code, call, *arguments, **named):
    with pytest.raises(AttestationError) as caught:
        call(*arguments, **named)
    assert caught.value.reason == code


def stands(authority, der, at_ms):
    try:
        authority.revocations().verdict(read(authority, der).serial, at_ms)
    except VerificationError:
        return False
    return True


# ---- certificates --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("domain", ["", "Tpmbus.test", "a/b", "a b", "-a", "a" * 254])
async def test_what_is_no_domain_is_a_mistake(tmp_path, clock, domain):
    with pytest.raises(ValueError, match="domain"):
        async with open_authority(tmp_path, domain=domain, protection=PASSPHRASE, clock=clock):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_a_new_authority_has_a_root_for_ten_years_and_an_empty_list(tmp_path, clock):
    async with open_authority(tmp_path / "trust", domain=DOMAIN, protection=PASSPHRASE, clock=clock) as authority:
        assert authority.root.not_after_ms - authority.root.not_before_ms == 3_652 * DAY
        assert authority.root.not_before_ms == clock.ms - 60_000
        assert len(authority.ml_dsa_root) == 1_952
        assert (authority.standings(), authority.ml_dsa_hashes(), authority.issued()) == ({}, {}, [])
    pem = (tmp_path / "trust" / "public" / "root.pem").read_bytes()
    assert Root.of(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)) == authority.root
    assert shown_list(authority).revoked == {}


def test_an_identity_is_certified_for_a_year_and_shown(authority, clock):
    hosts = {"dns": ["bus.example"], "ips": [ip_address("::1")]}
    der = authority.issue_identity("ALPHA", RSA3072, RSA, "hardware", 3, EK, **hosts)
    found = read(authority, der, profile=Profile.AGENT)
    assert (found.name, found.spki, found.suite, found.origin, found.level) == ("ALPHA", RSA3072, RSA, "hardware", 3)
    assert (found.not_before_ms, found.not_after_ms) == (clock.ms - 60_000, clock.ms - 60_000 + 365 * DAY)
    assert authority.holder("ALPHA") == (EK, der)
    assert shown(authority, "ALPHA") == der
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["bus.example"]


def test_a_broker_has_a_profile_and_a_name_of_its_own(authority):
    agent, broker = enroll(authority), enroll(authority, ek=OTHER_EK, profile=Profile.BROKER)
    assert read(authority, broker).profile is Profile.BROKER
    assert (authority.holder("ALPHA").der, authority.holder("ALPHA", profile=Profile.BROKER).der) == (agent, broker)
    assert (shown(authority, "ALPHA"), shown(authority, "broker.ALPHA")) == (agent, broker)
    authority.revoke("ALPHA", Reason.COMPROMISED, profile=Profile.BROKER)
    assert (authority.holder("ALPHA").der, authority.standings()) == (agent, {})


def test_tls_is_for_a_day_and_for_whom_has_an_identity(authority, clock):
    refused("not_enrolled", authority.issue_tls, "ALPHA", KEYS[0])
    enroll(authority)
    found = read(authority, authority.issue_tls("ALPHA", KEYS[1], ["bus.example"]), profile=Profile.TLS)
    assert (found.spki, found.origin, found.level) == (KEYS[1], "software", 0)
    assert (found.not_before_ms, found.not_after_ms) == (clock.ms - 60_000, clock.ms - 60_000 + DAY)
    for key in (P384, RSA3072):
        with pytest.raises(VerificationError) as caught:
            authority.issue_tls("ALPHA", key)
        assert caught.value.reason == "untrusted"
    authority.revoke("ALPHA", Reason.RETIRED)
    refused("not_enrolled", authority.issue_tls, "ALPHA", KEYS[1])


def test_nothing_is_kept_of_a_certificate_that_readers_would_refuse(authority):
    for key, suite in ((KEYS[0], RSA), (P384, SUITE)):
        with pytest.raises(VerificationError) as caught:
            authority.issue_identity("ALPHA", key, suite, "software", 0, EK)
        assert caught.value.reason == "untrusted"
    assert (authority.issued(), authority.holder("ALPHA"), shown(authority, "ALPHA")) == ([], None, None)


@pytest.mark.parametrize("name", ["alpha", "A_B", "", "A" * 33, "../A", "A\n"])
def test_a_name_that_no_agent_has_is_a_mistake(authority, name):
    for call in (
        lambda: enroll(authority, name),
        lambda: authority.end_sessions(name),
        lambda: authority.register_ml_dsa(name, bytes(32)),
    ):
        with pytest.raises(ValueError, match="no name"):
            call()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("DNS", {"dns": ["*.example"]}),
        ("DNS", {"dns": ["Bus.example"]}),
        ("at most", {"dns": [f"h{n}" for n in range(17)]}),
        ("profile", {"profile": Profile.TLS}),
        ("profile", {"profile": Profile.TRUST}),
    ],
)
def test_what_no_certificate_may_have_is_a_mistake(authority, what, change):
    with pytest.raises(ValueError, match=what):
        enroll(authority, **change)


def test_near_the_roots_end_certificates_end_with_it(folder):
    late = ManualClock()
    late.advance(3_600 * 86_400)
    with opened(folder, clock=late, clock_is_right=True) as authority:
        assert read(authority, enroll(authority)).not_after_ms == authority.root.not_after_ms


def test_a_clock_that_was_set_back_makes_nothing_older_than_the_root(folder):
    early = ManualClock()
    early.ms -= 10 * DAY
    with opened(folder, clock=early) as authority:
        assert read(authority, enroll(authority)).not_before_ms == authority.root.not_before_ms


# ---- whose name it is ----------------------------------------------------------------------------------------------------------


def test_a_name_belongs_to_the_tpm_that_has_it(authority):
    der = enroll(authority)
    refused("name_taken", enroll, authority, ek=OTHER_EK)
    refused("name_taken", enroll, authority, key=KEYS[1], ek=b"")
    refused("name_taken", enroll, authority, ek=b"")
    assert authority.holder("ALPHA") == (EK, der)


def test_without_a_tpm_it_belongs_to_the_key(authority):
    enroll(authority, ek=b"")
    refused("name_taken", enroll, authority, key=KEYS[1], ek=b"")
    refused("name_taken", enroll, authority, ek=EK)
    enroll(authority, ek=b"")


def test_a_name_stays_taken_when_its_certificate_has_ended(authority, clock):
    enroll(authority)
    let_days_pass(authority, clock, 500)
    refused("name_taken", enroll, authority, ek=OTHER_EK)


def test_the_old_key_may_name_its_successor_on_another_tpm(authority, clock):
    old = enroll(authority)
    new = enroll(authority, key=KEYS[1], ek=OTHER_EK, successor=True, overlap_ms=DAY)
    assert authority.holder("ALPHA") == (OTHER_EK, new)
    assert stands(authority, old, clock.ms)
    assert authority.standings() == {}


# ---- renewal and rotation ------------------------------------------------------------------------------------------------------


def test_renewal_leaves_the_old_certificate_to_run_out(authority, clock):
    old, number = enroll(authority), authority.revocations().number
    clock.advance(3_600)
    new = enroll(authority)
    assert read(authority, new).not_after_ms == read(authority, old).not_after_ms + 3_600_000
    assert (authority.holder("ALPHA").der, shown(authority, "ALPHA")) == (new, new)
    assert (authority.revocations().number, authority.revocations().revoked) == (number, {})


def test_a_certificate_is_renewed_as_it_was(authority, clock):
    refused("not_enrolled", authority.renew, "ALPHA")
    hosts = {"dns": ["bus.example"], "ips": [ip_address("::1")]}
    old = authority.issue_identity("ALPHA", RSA3072, RSA, "hardware", 3, EK, **hosts)
    let_days_pass(authority, clock, 300)
    new = authority.renew("ALPHA")
    before, after = read(authority, old), read(authority, new)
    assert (after.spki, after.suite, after.origin, after.level) == (before.spki, before.suite, before.origin, before.level)
    assert certificates.hosts(new) == certificates.hosts(old) == (hosts["dns"], hosts["ips"])
    assert authority.holder("ALPHA") == (EK, new)
    assert authority.revocations().revoked == {}


def test_a_rotated_key_counts_until_the_overlap_ends(authority, clock):
    old, before = enroll(authority), authority.revocations()
    clock.advance(10.5)
    new = enroll(authority, key=KEYS[1], overlap_ms=DAY)
    ends = -(-(clock.ms + DAY) // 1000) * 1000
    assert stands(authority, old, ends - 1)
    assert not stands(authority, old, ends)
    assert stands(authority, new, ends)
    assert authority.revocations().number > before.number
    assert shown_list(authority) == authority.revocations()
    assert authority.holder("ALPHA").der == new
    assert authority.standings() == {}, "a rotation is no revocation of the name"


def test_the_same_key_with_something_else_pinned_is_rotated_too(authority, clock):
    """Else the old certificate would go on to allow what the new one does not."""
    old = enroll(authority)
    authority.issue_identity("ALPHA", KEYS[0], IDENTITY_SUITES["ecc256/sha3-384"], "software-tpm", 1, EK)
    assert not stands(authority, old, clock.ms + 1000)


def test_rotating_twice_moves_no_date(authority, clock):
    first = enroll(authority)
    enroll(authority, key=KEYS[1], overlap_ms=DAY)
    date = authority.revocations().revoked[read(authority, first).serial]
    clock.advance(60)
    enroll(authority, key=KEYS[2], overlap_ms=DAY)
    assert authority.revocations().revoked[read(authority, first).serial] == date
    assert len(authority.revocations().revoked) == 2


# ---- revocation ----------------------------------------------------------------------------------------------------------------


def test_revoking_a_name_takes_back_all_that_it_has(authority, clock):
    rotated = enroll(authority)
    renewed = enroll(authority, key=KEYS[1], overlap_ms=DAY)
    current, tls, other = enroll(authority, key=KEYS[1]), authority.issue_tls("ALPHA", KEYS[2]), enroll(authority, "BETA")
    authority.register_ml_dsa("ALPHA", bytes(32))
    crl = authority.revoke("ALPHA", Reason.COMPROMISED)
    assert crl == authority.revocations() == shown_list(authority)
    for der in (rotated, renewed, current, tls):
        assert not stands(authority, der, 0), "whatever the date"
    assert stands(authority, other, clock.ms)
    assert (authority.holder("ALPHA"), shown(authority, "ALPHA"), authority.ml_dsa_hashes()) == (None, None, {})
    assert authority.standings() == {"ALPHA": (1, 0)}


def test_a_revoked_name_is_free_and_its_generation_rises_each_time(authority, clock):
    for generation in (1, 2, 3):
        enroll(authority, ek=bytes([generation]) * 32)
        authority.revoke("ALPHA", Reason.RETIRED)
        assert authority.standings() == {"ALPHA": (generation, 0)}
    new = enroll(authority, ek=OTHER_EK)
    assert authority.standings() == {"ALPHA": (3, 0)}
    assert stands(authority, new, clock.ms)


def test_reason_rotated_raises_no_generation(authority):
    enroll(authority)
    authority.revoke("ALPHA", Reason.ROTATED)
    assert authority.standings() == {}
    refused("not_enrolled", authority.revoke, "ALPHA", Reason.ROTATED)


def test_whoever_has_nothing_cannot_be_revoked(authority):
    number = authority.revocations().number
    refused("not_enrolled", authority.revoke, "ALPHA", Reason.RETIRED)
    enroll(authority)
    authority.revoke("ALPHA", Reason.RETIRED)
    refused("not_enrolled", authority.revoke, "ALPHA", Reason.COMPROMISED)
    assert authority.standings() == {"ALPHA": (1, 0)}
    assert authority.revocations().number > number


def test_the_list_is_made_anew_at_half_its_life(authority, clock):
    first = authority.revocations()
    assert (first.this_update_ms, first.next_update_ms) == (clock.ms - 60_000, clock.ms - 60_000 + 7 * DAY)
    clock.advance(3.4 * 86_400)
    assert authority.revocations() == first
    clock.advance(0.1 * 86_400)
    second = authority.revocations()
    assert second.number > first.number
    assert second.this_update_ms == clock.ms - 60_000
    assert shown_list(authority) == second


# ---- what statements say -------------------------------------------------------------------------------------------------------


def test_sessions_of_an_agent_are_ended(authority, clock):
    clock.advance(5)
    assert authority.end_sessions("BETA") == clock.ms
    enroll(authority)
    authority.revoke("ALPHA", Reason.WITHDRAWN)
    assert authority.standings() == {"ALPHA": (1, 0), "BETA": (0, clock.ms)}


def test_sessions_that_were_ended_stay_so_when_the_clock_is_turned_back(authority, clock):
    ended = authority.end_sessions("BETA")
    clock.ms -= DAY
    assert authority.end_sessions("BETA") == ended
    assert authority.standings() == {"BETA": (0, ended)}


def test_ml_dsa_keys_are_registered_by_their_hash(authority):
    authority.register_ml_dsa("BETA", b"b" * 32)
    authority.register_ml_dsa("ALPHA", b"a" * 32)
    assert list(authority.ml_dsa_hashes().items()) == [("ALPHA", b"a" * 32), ("BETA", b"b" * 32)]
    with pytest.raises(ValueError, match="32"):
        authority.register_ml_dsa("ALPHA", b"a" * 31)


def test_numbers_rise_and_versions_count(folder, clock):
    seen = []
    for _ in range(3):
        with opened(folder, clock=clock) as authority:
            seen += [authority.next_statement_number() for _ in range(3)]
            seen_version = authority.next_policy_version()
    assert seen == sorted(set(seen))
    assert seen_version == 3


def test_an_authority_that_was_restored_from_a_backup_repeats_no_number(folder, clock, tmp_path):
    backup = copied(folder, tmp_path / "backup")
    with opened(folder, clock=clock) as authority:
        before = [authority.next_statement_number() for _ in range(5)], authority.revocations().number
    clock.advance(60)
    with opened(backup, clock=clock) as authority:
        enroll(authority)
        authority.revoke("ALPHA", Reason.RETIRED)
        assert authority.next_statement_number() > max(before[0])
        assert authority.revocations().number > before[1]


def test_who_was_revoked_after_the_backup_stays_out_where_the_list_tells(folder, clock, tmp_path):
    """trust/private comes from a backup, trust/public is as it was left."""
    with opened(folder, clock=clock) as authority:
        alpha = read(authority, enroll(authority)).serial
        backup = copied(folder / "private", tmp_path / "backup")
        beta = read(authority, enroll(authority, "BETA", KEYS[1], OTHER_EK)).serial
        authority.revoke("ALPHA", Reason.COMPROMISED)
        revoked = authority.revoke("BETA", Reason.RETIRED)
    shutil.rmtree(folder / "private")
    copied(backup, folder / "private")
    clock.ms -= DAY
    with opened(folder, clock=clock) as authority:
        assert authority.holder("ALPHA") is None
        for _ in range(1_200):  # until the journal is rewritten
            authority.next_policy_version()
        authority.end_sessions("ALPHA")
        enroll(authority)
        authority.revoke("ALPHA", Reason.WITHDRAWN)
        assert authority.revocations().number > revoked.number
        assert {alpha, beta} < authority.revocations().revoked.keys()
        assert shown_list(authority) == authority.revocations()


# ---- signatures ----------------------------------------------------------------------------------------------------------------


def test_a_statement_is_signed_by_the_trust_signer_and_by_ml_dsa(authority):
    signed = authority.sign_statement(b"body")
    signer = read(authority, signed.signer, profile=Profile.TRUST)
    assert (signer.name, signer.suite.name) == ("TRUST", "ecc384/sha3-384")
    tbs = contexts.TRUST + b"body"
    signatures.verify(signer.suite, signer.public_key, tbs, signed.signature)
    cosign.verify(authority.ml_dsa_root, tbs, signed.cosignature)
    assert authority.sign_statement(b"other").signer == signed.signer
    assert shown(authority, "trust.TRUST") == signed.signer


def test_policy_is_signed_by_the_root_and_by_ml_dsa(authority):
    signed, tbs = authority.sign_policy(b"body"), contexts.POLICY + b"body"
    authority.root.public_key.verify(signed.signature, tbs, root_signature.PSS, root_signature.HASH)
    cosign.verify(authority.ml_dsa_root, tbs, signed.cosignature)


def test_the_trust_signer_has_a_new_key_in_time_and_the_old_one_is_gone(authority, clock):
    first = authority.sign_statement(b"").signer
    let_days_pass(authority, clock, 334)
    assert authority.sign_statement(b"").signer == first
    clock.advance(2 * 86_400)
    second = authority.sign_statement(b"").signer
    assert read(authority, second).spki != read(authority, first).spki
    assert len(list(authority.private.glob("trust-*.key"))) == 1
    assert stands(authority, first, clock.ms), "what it signed stays good"


def test_a_revoked_trust_signer_signs_no_more(folder, clock):
    with opened(folder, clock=clock) as authority:
        first = authority.sign_statement(b"").signer
        authority.revoke("TRUST", Reason.COMPROMISED, profile=Profile.TRUST)
        second = authority.sign_statement(b"").signer
        assert second != first
        assert not stands(authority, first, clock.ms)
        assert authority.standings() == {}
    with opened(folder, clock=clock) as authority:
        assert authority.sign_statement(b"").signer == second
        assert len(list(authority.private.glob("trust-*.key"))) == 1


# ---- nothing is forgotten ------------------------------------------------------------------------------------------------------


def everything(authority):
    issued = authority.issued()
    return issued, authority.standings(), authority.ml_dsa_hashes(), authority.revocations(), authority.holder("ALPHA")


def fill(authority):
    enroll(authority)
    enroll(authority, key=KEYS[1], overlap_ms=DAY)
    enroll(authority, "BETA", ek=b"")
    authority.issue_tls("BETA", KEYS[2])
    authority.revoke("BETA", Reason.COMPROMISED)
    authority.end_sessions("GAMMA")
    authority.register_ml_dsa("ALPHA", b"a" * 32)
    authority.sign_statement(b"")


def test_all_of_it_is_there_after_opening_again(folder, clock):
    with opened(folder, clock=clock) as authority:
        fill(authority)
        before = everything(authority)
    with opened(folder, clock=clock) as authority:
        assert everything(authority) == before


def test_a_long_life_leaves_a_short_journal(folder, clock):
    with opened(folder, clock=clock) as authority:
        fill(authority)
        before, number = everything(authority), 0
        for _ in range(2_500):
            number = authority.next_statement_number()
        assert everything(authority) == before
    assert (folder / "private" / "issued.log").read_bytes().count(b"\n") < 1_500
    with opened(folder, clock=clock) as authority:
        assert everything(authority) == before
        assert authority.next_statement_number() > number


def names_and_profiles(authority):
    return [(one.name, one.profile) for one, _ in authority.issued()]


def test_what_ended_long_ago_is_forgotten_but_not_who_holds_a_name(folder, clock):
    def tidy(authority):
        for _ in range(1_200):
            authority.next_policy_version()

    with opened(folder, clock=clock) as authority:
        fill(authority)
        clock.advance(2 * 86_400)
        tidy(authority)
        assert ("BETA", Profile.TLS) not in names_and_profiles(authority)
        assert ("BETA", Profile.AGENT) in names_and_profiles(authority)
        let_days_pass(authority, clock, 500)
        tidy(authority)
        revoked = [one.name for one, revocation in authority.issued() if revocation]
        assert sorted(revoked) == ["ALPHA", "BETA"], "what it signed may still lie somewhere"
        before = authority.revocations().revoked
        let_days_pass(authority, clock, 300)
        tidy(authority)
        tidy(authority)
        assert [(one.name, revocation) for one, revocation in authority.issued() if one.profile is Profile.AGENT] == [
            ("ALPHA", None)
        ]
        refused("name_taken", enroll, authority, ek=OTHER_EK)
        assert authority.standings()["BETA"][0] == 1
        assert len(before) == 3
        assert authority.revocations().revoked == before, "no clock lets anybody in again"


def test_a_certificate_costs_the_same_whether_ten_or_a_thousand_came_before(authority):
    """In what is written: one line, and its own file."""
    journal, sizes = authority.private / "issued.log", []
    for _ in range(40):
        enroll(authority)
        sizes.append(journal.stat().st_size)
    steps = {later - earlier for earlier, later in pairwise(sizes)}
    assert max(steps) - min(steps) < 16, "a serial may begin with zeros"


def test_threads_may_issue_at_once(authority):
    done = []

    def work(number):
        done.extend((name, enroll(authority, name)) for name in (f"A{number}X{turn}" for turn in range(5)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 20
    for name, der in done:
        assert authority.holder(name).der == der


# ---- its folder ----------------------------------------------------------------------------------------------------------------


def test_nobody_else_can_read_it(authority, folder):
    fill(authority)
    authority.publish("inbox/ALPHA.bin", b"1")
    authority.keep("list.json", b"2")
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_was_open_to_others_is_closed(folder):
    (folder / "private").chmod(0o755)
    folder.chmod(0o777)
    with opened(folder):
        assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "private")} == {0o700}


def test_small_files_are_replaced_and_read(authority):
    assert (authority.published("statement.bin"), authority.kept("list.json")) == (None, None)
    for data in (b"1", b"22"):
        authority.publish("statement.bin", data)
        authority.keep("list.json", data)
        assert (authority.published("statement.bin"), authority.kept("list.json")) == (data, data)


@pytest.mark.parametrize("path", ["../private/x", "/etc/x", "inbox/../x", "a/b/c", "", ".hidden", "x\n", "inbox/"])
def test_no_name_leads_out_of_the_folder(authority, path):
    for call in (authority.publish, authority.keep):
        with pytest.raises(ValueError, match="no place"):
            call(path, b"")


def test_what_is_public_is_mended(folder, clock):
    with opened(folder, clock=clock) as authority:
        der = enroll(authority)
        enroll(authority, "BETA")
        crl = authority.revoke("BETA", Reason.RETIRED)
    public = folder / "public"
    (public / "root.pem").unlink()
    (public / "certificates" / "ALPHA.pem").write_bytes(b"")
    (public / "certificates" / "BETA.pem").write_bytes(b"left over")
    (public / "crl.pem").write_bytes(b"-----BEGIN X509 CRL-----\n")
    (public / "certificates" / ".ALPHA.pem.0123.new").write_bytes(b"half")
    with opened(folder, clock=clock) as authority:
        assert (shown(authority, "ALPHA"), shown(authority, "BETA")) == (der, None)
        assert shown_list(authority).revoked == crl.revoked
        assert shown_list(authority).number > crl.number
        assert (public / "root.pem").exists()
        assert {path.name for path in (public / "certificates").iterdir()} == {"ALPHA.pem"}


def test_an_older_list_put_in_its_place_is_replaced(folder, clock):
    with opened(folder, clock=clock) as authority:
        enroll(authority)
        older = (folder / "public" / "crl.pem").read_bytes()
        authority.revoke("ALPHA", Reason.RETIRED)
    (folder / "public" / "crl.pem").write_bytes(older)
    with opened(folder, clock=clock) as authority:
        assert len(shown_list(authority).revoked) == 1


def test_an_older_list_that_says_the_same_is_replaced_too(folder, clock):
    """A statement may have named the newer one, by its digest."""
    with opened(folder, clock=clock):
        older = (folder / "public" / "crl.pem").read_bytes()
        clock.advance(3.5 * 86_400)
    with opened(folder, clock=clock) as authority:
        newer = authority.revocations()
    (folder / "public" / "crl.pem").write_bytes(older)
    clock.ms -= 2 * DAY
    with opened(folder, clock=clock) as authority:
        assert shown_list(authority).number > newer.number

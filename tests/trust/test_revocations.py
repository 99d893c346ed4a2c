"""Revocation lists: what the root took back, from when on it counts, and every list that is wrong in a single way."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import forge as f
from ready_rsa import rsa_key
from small_authority import DAY, NOW

from bus.errors import VerificationError
from bus.trust import revocations
from bus.trust.revocations import Reason, Revocation

RSA4096 = rsa_key(4096)
PKCS1 = bytes.fromhex("300d0609608648016503040310") + b"\5\0"
FLAG = x509.ReasonFlags


@pytest.fixture(scope="session")
def forge(authority):
    return f.Forge(authority.root, authority.root_key)


@pytest.fixture
def read(forge):
    return lambda der: revocations.read(der, root=forge.root)


# ---- what is right -------------------------------------------------------------------------------------------------------------


def test_a_list_reads_back_as_it_was_made(authority):
    revoked = {number: Revocation(NOW + 1000 * number, reason) for number, reason in enumerate(Reason, start=1)}
    revoked[2**159 - 1] = Revocation(NOW - 1000, Reason.COMPROMISED)
    found = authority.revocations(number=2**40, revoked=revoked)
    assert found.revoked == revoked
    assert (found.number, found.this_update_ms, found.next_update_ms) == (2**40, NOW, NOW + 7 * DAY)
    assert found.digest == hashlib.sha256(found.der).digest()
    with pytest.raises(TypeError):
        found.revoked[5] = Revocation(0, Reason.RETIRED)
    assert len(repr(found)) < 300


def test_an_empty_list_is_one(forge, read):
    assert read(forge.crl()).revoked == {}


def test_rotated_is_what_x509_calls_superseded(forge, read):
    found = read(forge.crl(f.entry(5, (x509.CRLReason(FLAG.superseded), False))))
    assert found.revoked == {5: Revocation(NOW, Reason.ROTATED)}


@given(
    st.dictionaries(
        st.integers(1, 2**159 - 1),
        st.builds(Revocation, st.integers(0, 2**31).map(lambda seconds: seconds * 1000), st.sampled_from(Reason)),
        max_size=20,
    )
)
def test_whatever_is_revoked_reads_back(authority, revoked):
    assert authority.revocations(revoked=revoked).revoked == revoked


# ---- what it says --------------------------------------------------------------------------------------------------------------

VERDICTS = {
    "nothing was said of it": (9, NOW, True),
    "compromised, before the date": (1, NOW - 365 * DAY, False),
    "compromised, at the date": (1, NOW, False),
    "compromised, after the date": (1, NOW + 1, False),
    "retired, before the date": (2, NOW - 1, False),
    "unspecified, before the date": (3, NOW - 1, False),
    "withdrawn, before the date": (4, NOW - 1, False),
    "rotated, before the date": (5, NOW - 1, True),
    "rotated, at the date": (5, NOW, False),
    "rotated, after the date": (5, NOW + 1, False),
    "to be rotated, now": (6, NOW, True),
    "to be rotated, then": (6, NOW + DAY, False),
}


@pytest.mark.parametrize("what", VERDICTS)
def test_a_verdict(authority, what):
    serial, at_ms, stands = VERDICTS[what]
    reasons = [Reason.COMPROMISED, Reason.RETIRED, Reason.UNSPECIFIED, Reason.WITHDRAWN, Reason.ROTATED]
    revoked = {number: Revocation(NOW, reason) for number, reason in enumerate(reasons, start=1)}
    revoked[6] = Revocation(NOW + DAY, Reason.ROTATED)
    found = authority.revocations(revoked=revoked)
    if stands:
        found.verdict(serial, at_ms)
        return
    with pytest.raises(VerificationError) as caught:
        found.verdict(serial, at_ms)
    assert caught.value.reason == "revoked"


# ---- what is wrong with a list -------------------------------------------------------------------------------------------------


def reason(flag, *, critical=False):
    return x509.CRLReason(flag), critical


def without_version(fields):
    del fields[0]


def version_1(fields):
    fields[0] = b"\2\1\0"


def other_algorithm(fields):
    fields[1] = PKCS1


def without_end(fields):
    del fields[4]


def two_entries_of_one_serial(forge):
    return forge.crl(f.entry(5), f.entry(6), f.entry(5, reason(FLAG.key_compromise)))


def with_serial(der_serial):
    """An entry whose serial no builder writes."""

    def make(forge):
        def change(fields):
            (one,) = f.elements(f.content(fields[5]))
            fields[5] = f.tlv(0x30, f.tlv(0x30, der_serial + f.elements(f.content(one))[1]))

        return forge.resigned(forge.crl(f.entry(5)), change)

    return make


def with_many_entries(forge):
    def change(fields):
        (one,) = f.elements(f.content(fields[5]))
        date = f.elements(f.content(one))[1]
        entries = [f.tlv(0x30, f.tlv(2, (2**150 + number).to_bytes(19, "big")) + date) for number in range(120_000)]
        fields[5] = f.tlv(0x30, b"".join(entries))

    return forge.resigned(forge.crl(f.entry(5)), change)


WRONG = {
    "nothing": lambda _: b"",
    "a byte behind the end": lambda forge: forge.crl() + b"\0",
    "another algorithm outside": lambda forge: f.rewrapped(forge.crl(), algorithm=PKCS1),
    "another algorithm inside": lambda forge: forge.resigned(forge.crl(), other_algorithm),
    "another root": lambda forge: forge.crl(signing_key=RSA4096),
    "a leaf": lambda forge: forge.crl(signing_key=f.RSA3072),
    "another issuer": lambda forge: forge.crl(issuer=f.name("another")),
    "no version": lambda forge: forge.resigned(forge.crl(), without_version),
    "version 1": lambda forge: forge.resigned(forge.crl(), version_1),
    "no end": lambda forge: forge.resigned(forge.crl(), without_end),
    "more than seven days": lambda forge: forge.crl(following=NOW + 7 * DAY + 1000),
    "an end before its beginning": lambda forge: forge.resigned(
        forge.crl(), lambda fields: fields.__setitem__(slice(3, 5), [fields[4], fields[3]])
    ),
    "no time at all": lambda forge: forge.resigned(forge.crl(), lambda fields: fields.__setitem__(4, fields[3])),
    "no number": lambda forge: forge.crl(number=None),
    "number 0": lambda forge: forge.crl(number=0),
    "number 2^63": lambda forge: forge.crl(number=2**63),
    "no authority key": lambda forge: forge.crl(aki=None),
    "another authority key": lambda forge: forge.crl(aki=bytes(20)),
    "a list of some certificates only": lambda forge: forge.crl(
        extra=[(x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True)]
    ),
    "a list of changes": lambda forge: forge.crl(extra=[(x509.DeltaCRLIndicator(2), True)]),
    "a list of changes that is not critical": lambda forge: forge.crl(extra=[(x509.DeltaCRLIndicator(2), False)]),
    "a list of some certificates only, not critical": lambda forge: forge.crl(
        extra=[(x509.IssuingDistributionPoint(None, None, True, False, None, False, False), False)]
    ),
    "a serial twice": two_entries_of_one_serial,
    "serial 0": with_serial(b"\2\1\0"),
    "a negative serial": with_serial(b"\2\1\x85"),
    "an entry on hold": lambda forge: forge.crl(f.entry(5, reason(FLAG.certificate_hold))),
    "an entry that takes itself back": lambda forge: forge.crl(f.entry(5, reason(FLAG.remove_from_crl))),
    "an entry for no reason, said aloud": lambda forge: forge.crl(f.entry(5, reason(FLAG.unspecified))),
    "an entry with a critical reason": lambda forge: forge.crl(f.entry(5, reason(FLAG.superseded, critical=True))),
    "an entry of another issuer": lambda forge: forge.crl(
        f.entry(5, (x509.CertificateIssuer([x509.DirectoryName(f.name("another"))]), True))
    ),
    "an entry with another date": lambda forge: forge.crl(
        f.entry(5, reason(FLAG.superseded), (x509.InvalidityDate(f.date(NOW).replace(tzinfo=None)), False))
    ),
    "something else": lambda forge: forge.crl(extra=[(x509.UnrecognizedExtension(f.own(99), b"\5\0"), False)]),
    "more than 4 MiB": with_many_entries,
    "a certificate": lambda forge: forge.certificate(),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_list_is_refused_for(forge, read, what):
    der = WRONG[what](forge)
    with pytest.raises(VerificationError) as caught:
        read(der)
    assert caught.value.reason == "untrusted"


def test_the_limits_themselves_are_kept_to(forge, read):
    assert read(forge.crl(number=1)).number == 1
    assert read(forge.crl(number=2**63 - 1)).number == 2**63 - 1
    assert read(forge.crl(following=NOW + 1000)).next_update_ms == NOW + 1000


def test_every_single_bit_counts(forge, read):
    der = forge.crl(f.entry(5, reason(FLAG.superseded)))
    for place in range(len(der) * 8):
        changed = bytearray(der)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(VerificationError) as caught:
            read(bytes(changed))
        assert caught.value.reason == "untrusted"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(authority, data):
    with pytest.raises(VerificationError) as caught:
        revocations.read(data, root=authority.root)
    assert caught.value.reason == "untrusted"

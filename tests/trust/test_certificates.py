"""Certificates: each profile reads back as it was made, and one that is wrong in a single way is refused, whoever signed it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import forge as f
from ready_rsa import rsa_key
from small_authority import DAY, DOMAIN, NOW, spki

from bus.errors import VerificationError
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust import certificates, x509_form
from bus.trust.certificates import Pinned, Profile, Root
from bus.trust.profiles import RULES
from bus.trust.root_signature import ALGORITHM, HASH, PSS

RSA4096 = rsa_key(4096)
KEYS = {"rsa3072": f.RSA3072, "ecc256": f.P256, "ecc384": f.P384}


@pytest.fixture(scope="session")
def forge(authority):
    return f.Forge(authority.root, authority.root_key)


@pytest.fixture
def read(forge):
    def read(der, *, domain=DOMAIN, profile=None):
        return certificates.read(der, root=forge.root, domain=domain, profile=profile)

    return read


# ---- what is right -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [Profile.AGENT, Profile.BROKER])
@pytest.mark.parametrize("suite", IDENTITY_SUITES)
def test_an_identity_of_every_suite_reads_back_as_it_was_made(authority, read, profile, suite):
    key, pinned = KEYS[suite.split("/")[0]], Pinned(IDENTITY_SUITES[suite], "hardware", 6)
    hosts = {"dns": ["bus.example", "a.b-c.example"], "ips": [IPv4Address("192.0.2.1"), ip_address("2001:db8::1")]}
    der = authority.certificate(profile, name="DIRECTOR", spki=spki(key), pinned=pinned, serial=2**159 - 1, **hosts)
    found = read(der, profile=profile)
    assert (found.der, found.signer) == (der, hashlib.sha256(der).digest())
    assert (found.profile, found.domain, found.name) == (profile, DOMAIN, "DIRECTOR")
    assert (found.suite, found.origin, found.level) == (pinned.suite, "hardware", 6)
    assert (found.spki, found.public_key) == (spki(key), key.public_key())
    assert (found.serial, found.not_before_ms) == (2**159 - 1, NOW - 3_600_000)
    assert found.not_after_ms - found.not_before_ms == 365 * DAY


@pytest.mark.parametrize("make", ["tls", "trust", "certificate", "root_certificate"])
def test_what_the_forge_makes_without_a_change_is_right(forge, read, make):
    der = getattr(forge, make)()
    if make == "root_certificate":
        assert Root.of(der).public_key == forge.root_key.public_key()
    else:
        assert read(der).name == "DIRECTOR"


def test_a_tls_certificate_names_hosts(forge, read):
    assert read(forge.tls(san=f.names(x509.DNSName("bus.example"), path="tls"))).profile is Profile.TLS


def test_an_unknown_extension_that_is_not_critical_changes_nothing(forge, read):
    assert read(forge.certificate(extra=[(x509.UnrecognizedExtension(f.own(99), b"\5\0"), False)])).name == "DIRECTOR"


def test_values_cannot_be_changed_and_show_no_bytes(forge, read):
    found = read(forge.certificate())
    with pytest.raises(FrozenInstanceError):
        found.name = "OTHER"
    assert len(repr(found)) < 600
    assert len(repr(forge.root)) < 200


def test_profiles_have_nothing_in_common():
    ekus = [rules.ekus for rules in RULES.values()]
    assert len({eku for several in ekus for eku in several if eku not in (f.SERVER, f.CLIENT)}) == 4
    assert {profile.path for profile in Profile} == {"agent", "tls", "broker", "trust"}
    assert [profile.eku.dotted_string.rsplit(".", 1)[1] for profile in Profile] == ["1", "2", "3", "4"]


# ---- what is wrong with a certificate ------------------------------------------------------------------------------------------


def set_field(place, value):
    def change(fields):
        fields[place] = value

    return change


def insert_field(place, value):
    return lambda fields: fields.insert(place, value)


def drop(*places):
    def change(fields):
        for place in sorted(places, reverse=True):
            del fields[place]

    return change


VERSION, SERIAL, INNER, ISSUER, SUBJECT, KEY, EXTENSIONS = 0, 1, 2, 3, 5, 6, 7
PKCS1 = bytes.fromhex("300d0609608648016503040310") + b"\5\0"
PSS_SHA256_ABSENT = bytes.fromhex("300b06092a864886f70d01010a")
ANY_USE = x509.ObjectIdentifier("2.5.29.37.0")


def even(forge):
    """A certificate whose signature ends in a 0 bit, which may then be called unused."""
    while (der := forge.certificate())[-1] & 1:
        pass
    tbs, _, signature = f.elements(f.content(der))
    return f.wrapped(tbs, ALGORITHM, f.content(signature)[1:], unused_bits=1)


def long_length(der):
    """The same, its length in one octet more than it needs."""
    body = f.content(der)
    return b"\x30\x83" + len(body).to_bytes(3, "big") + body


def by_another_root(forge):
    """Same name, same key identifier: only the key is another."""
    return forge.certificate(signing_key=RSA4096)


def by_a_leaf(forge):
    return forge.certificate(signing_key=f.RSA3072, issuer=f.name("DIRECTOR"))


def by_a_leaf_in_the_roots_name(forge):
    return forge.certificate(signing_key=f.P384, algorithm=hashes.SHA384(), padding=None)


def flipped(forge):
    der = bytearray(forge.certificate())
    der[der.index(b"DIRECTOR")] ^= 1
    return bytes(der)


def pss(algorithm, salt):
    return padding.PSS(padding.MGF1(algorithm), salt)


def private(data):
    return lambda forge: forge.certificate(pinned=f.private(bytes.fromhex(data)))


FORM = {
    "nothing": lambda _: b"",
    "no DER": lambda _: b"-----BEGIN CERTIFICATE-----\n",
    "a byte behind the end": lambda forge: forge.certificate() + b"\0",
    "the last byte missing": lambda forge: forge.certificate()[:-1],
    "a fourth element": lambda forge: f.rewrapped(forge.certificate(), b"\5\0"),
    "a length with a zero before it": lambda forge: long_length(forge.certificate()),
    "no end of its length": lambda forge: b"\x30\x80" + f.content(forge.certificate()) + b"\0\0",
    "longer than 8 KiB": lambda forge: forge.certificate(extra=[(x509.UnrecognizedExtension(f.own(99), bytes(8_000)), False)]),
    "another algorithm outside": lambda forge: f.rewrapped(forge.certificate(), algorithm=PKCS1),
    "another algorithm inside": lambda forge: forge.resigned(forge.certificate(), set_field(INNER, PKCS1)),
    "PSS without its parameters outside": lambda forge: f.rewrapped(forge.certificate(), algorithm=PSS_SHA256_ABSENT),
    "PSS without its parameters inside": lambda forge: forge.resigned(forge.certificate(), set_field(INNER, PSS_SHA256_ABSENT)),
    "bits of the signature that do not count": even,
    "version 1": lambda forge: forge.resigned(forge.certificate(), drop(VERSION, EXTENSIONS)),
    "version 1 that says so": lambda forge: forge.resigned(forge.certificate(), set_field(VERSION, bytes.fromhex("a003020100"))),
    "version 1 with extensions": lambda forge: forge.resigned(forge.certificate(), drop(VERSION)),
    "version 2": lambda forge: forge.resigned(forge.certificate(), set_field(VERSION, bytes.fromhex("a003020101"))),
    "version 4": lambda forge: forge.resigned(forge.certificate(), set_field(VERSION, bytes.fromhex("a003020103"))),
    "no extensions": lambda forge: forge.resigned(forge.certificate(), drop(EXTENSIONS)),
    "a unique identifier": lambda forge: forge.resigned(forge.certificate(), insert_field(EXTENSIONS, bytes.fromhex("81020001"))),
    "something behind the extensions": lambda forge: forge.resigned(forge.certificate(), insert_field(8, b"\5\0")),
    "serial 0": lambda forge: forge.resigned(forge.certificate(), set_field(SERIAL, b"\2\1\0")),
    "a negative serial": lambda forge: forge.resigned(forge.certificate(), set_field(SERIAL, b"\2\1\xff")),
    "a serial of 21 octets": lambda forge: forge.resigned(forge.certificate(), set_field(SERIAL, b"\2\x15\1" + bytes(20))),
    "a serial with a zero before it": lambda forge: forge.resigned(forge.certificate(), set_field(SERIAL, b"\2\2\0\1")),
}
SIGNATURE = {
    "another root of the same name": by_another_root,
    "a leaf that signs": by_a_leaf,
    "a leaf that signs in the root's name": by_a_leaf_in_the_roots_name,
    "a leaf that signs in the root's name, and says PSS": lambda forge: f.wrapped(
        f.elements(f.content(forge.certificate()))[0], ALGORITHM, f.RSA3072.sign(b"", PSS, HASH)
    ),
    "one bit of what is signed": flipped,
    "PKCS1v15": lambda forge: forge.certificate(padding=padding.PKCS1v15(), algorithm=hashes.SHA384()),
    "PKCS1v15 that calls itself PSS": lambda forge: f.wrapped(
        f.elements(f.content(forge.certificate()))[0],
        ALGORITHM,
        forge.root_key.sign(f.elements(f.content(forge.certificate()))[0], padding.PKCS1v15(), HASH),
    ),
    "SHA-256": lambda forge: forge.certificate(algorithm=hashes.SHA256(), padding=pss(hashes.SHA256(), 32)),
    "SHA3-256": lambda forge: forge.certificate(algorithm=hashes.SHA3_256(), padding=pss(hashes.SHA3_256(), 32)),
    "SHA-384": lambda forge: forge.certificate(algorithm=hashes.SHA384(), padding=pss(hashes.SHA384(), 48)),
    "another hash in MGF1": lambda forge: forge.certificate(padding=padding.PSS(padding.MGF1(hashes.SHA256()), 48)),
    "a salt of 32": lambda forge: forge.certificate(padding=pss(HASH, 32)),
    "a salt of 47": lambda forge: forge.certificate(padding=pss(HASH, 47)),
    "no salt": lambda forge: forge.certificate(padding=pss(HASH, 0)),
    "a salt of 32 that calls itself 48": lambda forge: f.wrapped(
        tbs := f.elements(f.content(forge.certificate()))[0], ALGORITHM, forge.root_key.sign(tbs, pss(HASH, 32), HASH)
    ),
    "another issuer": lambda forge: forge.certificate(issuer=f.name("another")),
    "the root's name in another order": lambda forge: forge.certificate(
        issuer=x509.Name([*forge.root.certificate.subject, *f.name("more")])
    ),
}
USE = {
    "no extended key usage": lambda forge: forge.certificate(eku=None),
    "two of our own": lambda forge: forge.certificate(eku=x509.ExtendedKeyUsage([f.own(1), f.own(3)])),
    "one of our own twice": lambda forge: forge.certificate(eku=x509.ExtendedKeyUsage([f.own(1), f.own(1)])),
    "one that nobody has": lambda forge: forge.certificate(eku=x509.ExtendedKeyUsage([f.own(5)])),
    "any use": lambda forge: forge.certificate(eku=x509.ExtendedKeyUsage([f.own(1), ANY_USE])),
    "an agent that serves TLS": lambda forge: forge.certificate(eku=x509.ExtendedKeyUsage([f.own(1), f.SERVER])),
    "TLS for servers alone": lambda forge: forge.tls(eku=x509.ExtendedKeyUsage([f.own(2), f.SERVER])),
    "TLS without our own": lambda forge: forge.tls(eku=x509.ExtendedKeyUsage([f.SERVER, f.CLIENT])),
    "TLS in another order": lambda forge: forge.tls(eku=x509.ExtendedKeyUsage([f.SERVER, f.CLIENT, f.own(2)])),
    "a critical extended key usage": lambda forge: forge.certificate(eku=(x509.ExtendedKeyUsage([f.own(1)]), True)),
    "no key usage": lambda forge: forge.certificate(usage=None),
    "key usage that is not critical": lambda forge: forge.certificate(usage=(f.use(digital_signature=True), False)),
    "a leaf that may certify": lambda forge: forge.certificate(usage=f.use(digital_signature=True, key_cert_sign=True)),
    "a leaf that may list": lambda forge: forge.certificate(usage=f.use(digital_signature=True, crl_sign=True)),
    "a leaf that may encipher": lambda forge: forge.certificate(usage=f.use(digital_signature=True, key_encipherment=True)),
    "a leaf that may not sign": lambda forge: forge.certificate(usage=f.use(content_commitment=True)),
    "no basic constraints": lambda forge: forge.certificate(constraints=None),
    "an authority": lambda forge: forge.certificate(constraints=x509.BasicConstraints(ca=True, path_length=None)),
    "an authority of length 0": lambda forge: forge.certificate(constraints=x509.BasicConstraints(ca=True, path_length=0)),
    "basic constraints that are not critical": lambda forge: forge.certificate(
        constraints=(x509.BasicConstraints(ca=False, path_length=None), False)
    ),
    "no authority key": lambda forge: forge.certificate(aki=None),
    "another authority key": lambda forge: forge.certificate(aki=x509.AuthorityKeyIdentifier(bytes(20), None, None)),
    "an authority key with name and serial": lambda forge: forge.certificate(
        aki=x509.AuthorityKeyIdentifier(forge.ski, [x509.DirectoryName(forge.root.certificate.subject)], 1)
    ),
    "no subject key": lambda forge: forge.certificate(ski=None),
    "another subject key": lambda forge: forge.certificate(ski=x509.SubjectKeyIdentifier(bytes(20))),
    "a critical extension that nobody knows": lambda forge: forge.certificate(
        extra=[(x509.UnrecognizedExtension(f.own(99), b"\5\0"), True)]
    ),
    "a critical extension that we do not use": lambda forge: forge.certificate(
        extra=[(x509.NameConstraints([x509.DNSName("example")], None), True)]
    ),
}
NAMES = {
    "no names": lambda forge: forge.certificate(san=None),
    "critical names": lambda forge: forge.certificate(san=(f.names(), True)),
    "no URI": lambda forge: forge.certificate(san=x509.SubjectAlternativeName([x509.DNSName("director")])),
    "two URIs": lambda forge: forge.certificate(san=f.names(f.uri(f"spiffe://{DOMAIN}/agent/MONITOR"))),
    "the same URI twice": lambda forge: forge.certificate(san=f.names(f.uri(f"spiffe://{DOMAIN}/agent/DIRECTOR"))),
    "a URI of another kind beside": lambda forge: forge.certificate(san=f.names(f.uri("https://example.com"))),
    "a mail address beside": lambda forge: forge.certificate(san=f.names(x509.RFC822Name("director@example.com"))),
    "another domain": lambda forge: forge.certificate(
        san=x509.SubjectAlternativeName([f.uri("spiffe://other.test/agent/DIRECTOR")])
    ),
    "a domain that begins like ours": lambda forge: forge.certificate(
        san=x509.SubjectAlternativeName([f.uri(f"spiffe://{DOMAIN}.other.test/agent/DIRECTOR")])
    ),
    "a bare name": lambda forge: forge.certificate(san=x509.SubjectAlternativeName([f.uri("DIRECTOR")])),
    "another scheme": lambda forge: forge.certificate(san=x509.SubjectAlternativeName([f.uri(f"https://{DOMAIN}/agent/DIRECTOR")])),
    "an agent's use with a broker's path": lambda forge: forge.certificate(san=f.names(path="broker")),
    "TLS use with an agent's path": lambda forge: forge.tls(san=f.names()),
    "an agent's use with the path of TLS": lambda forge: forge.certificate(san=f.names(path="tls")),
    "a trust signer's use with an agent's path": lambda forge: forge.trust(san=f.names()),
    "a path of no profile": lambda forge: forge.certificate(san=f.names(path="root")),
    "small letters": lambda forge: forge.certificate(san=f.names(named="director"), subject=f.name("director")),
    "33 letters": lambda forge: forge.certificate(san=f.names(named="A" * 33), subject=f.name("A" * 33)),
    "a digit first": lambda forge: forge.certificate(san=f.names(named="1A"), subject=f.name("1A")),
    "a path in the name": lambda forge: forge.certificate(san=f.names(named="A/B"), subject=f.name("A/B")),
    "a query behind the name": lambda forge: forge.certificate(san=f.names(named="A?B"), subject=f.name("A?B")),
    "a new line behind the name": lambda forge: forge.certificate(san=f.names(named="A\n"), subject=f.name("A\n")),
    "another subject": lambda forge: forge.certificate(subject=f.name("MONITOR")),
    "two subjects": lambda forge: forge.certificate(subject=f.name("DIRECTOR", "MONITOR")),
    "a subject in another string type": lambda forge: forge.certificate(
        subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "DIRECTOR", x509.name._ASN1Type.PrintableString)])
    ),
    "a host of a trust signer": lambda forge: forge.trust(san=f.names(x509.DNSName("bus.example"), path="trust")),
    "an address of a trust signer": lambda forge: forge.trust(san=f.names(x509.IPAddress(ip_address("::1")), path="trust")),
    "17 hosts": lambda forge: forge.certificate(
        san=f.names(*(x509.DNSName(f"h{n}") for n in range(9)), *(x509.IPAddress(IPv4Address(n)) for n in range(8)))
    ),
    "a wildcard": lambda forge: forge.tls(san=f.names(x509.DNSName("*.example"), path="tls")),
    "a host in capitals": lambda forge: forge.tls(san=f.names(x509.DNSName("BUS.example"), path="tls")),
    "a host with a final dot": lambda forge: forge.tls(san=f.names(x509.DNSName("bus.example."), path="tls")),
    "a host with a label of 64": lambda forge: forge.tls(san=f.names(x509.DNSName("a" * 64 + ".example"), path="tls")),
    "a host of 254 letters": lambda forge: forge.tls(san=f.names(x509.DNSName("a." * 126 + "ab"), path="tls")),
    "a network for an address": lambda forge: forge.tls(san=f.names(x509.IPAddress(ip_network("10.0.0.0/8")), path="tls")),
}
PINNED = {
    "nothing pinned": lambda forge: forge.certificate(pinned=None),
    "pinned critically": lambda forge: forge.certificate(pinned=(f.pins(), True)),
    "pinned: version 0": private("300c 020100 020120 0a0101 020101"),
    "pinned: version 2": private("300c 020102 020120 0a0101 020101"),
    "pinned: the suite of host keys": private("300c 020101 020101 0a0101 020101"),
    "pinned: a suite that nobody has": private("300c 020101 020163 0a0101 020101"),
    "pinned: origin 3": private("300c 020101 020120 0a0103 020101"),
    "pinned: a negative origin": private("300c 020101 020120 0a01ff 020101"),
    "pinned: origin as INTEGER": private("300c 020101 020120 020101 020101"),
    "pinned: level 7": private("300c 020101 020120 0a0101 020107"),
    "pinned: a negative level": private("300c 020101 020120 0a0101 0201ff"),
    "pinned: a number with a zero before it": private("300d 020101 02020020 0a0101 020101"),
    "pinned: a number of no octets": private("300b 020101 020120 0a0101 0200"),
    "pinned: a length in two octets": private("30810c 020101 020120 0a0101 020101"),
    "pinned: a field more": private("300f 020101 020120 0a0101 020101 020100"),
    "pinned: a field less": private("3009 020101 020120 0a0101"),
    "pinned: bytes behind": private("300c 020101 020120 0a0101 020101 00"),
    "pinned: a SET": private("310c 020101 020120 0a0101 020101"),
    "pinned: nothing in it": private(""),
}
KEY_AND_TIME = {
    "RSA-3072 under a suite of P-256": lambda forge: forge.certificate(key=f.RSA3072),
    "P-384 under a suite of P-256": lambda forge: forge.certificate(key=f.P384),
    "P-256 under a suite of RSA": lambda forge: forge.certificate(pinned=f.pins("rsa3072/sha3-384")),
    "RSA-2048": lambda forge: forge.certificate(key=f.RSA2048, pinned=f.pins("rsa3072/sha3-384")),
    "RSA-4096": lambda forge: forge.certificate(key=RSA4096, pinned=f.pins("rsa3072/sha3-384")),
    "RSA with e = 3": lambda forge: forge.certificate(key=f.RSA3072_E3, pinned=f.pins("rsa3072/sha3-384")),
    "Ed25519": lambda forge: forge.certificate(key=f.ED25519),
    "P-521": lambda forge: forge.certificate(key=f.P521, pinned=f.pins("ecc384/sha384")),
    "TLS with P-384": lambda forge: forge.tls(key=f.P384, pinned=f.pins("ecc384/sha384", "software", 0)),
    "TLS with RSA": lambda forge: forge.tls(key=f.RSA3072, pinned=f.pins("rsa3072/sha256", "software", 0)),
    "TLS with P-256 and another hash": lambda forge: forge.tls(pinned=f.pins("ecc256/sha384", "software", 0)),
    "TLS from hardware": lambda forge: forge.tls(pinned=f.pins(origin="hardware", level=0)),
    "a trust signer with P-256": lambda forge: forge.trust(key=f.P256, pinned=f.pins("ecc256/sha256", "software", 0)),
    "a trust signer with SHA-384": lambda forge: forge.trust(pinned=f.pins("ecc384/sha384", "software", 0)),
    "a trust signer from a TPM": lambda forge: forge.trust(pinned=f.pins("ecc384/sha3-384", "software-tpm", 0)),
    "an agent for a second more than a year": lambda forge: forge.certificate(ends=NOW + 365 * DAY + 1000),
    "TLS for a second more than a day": lambda forge: forge.tls(ends=NOW + DAY + 1000),
    "a trust signer for a second more than a year": lambda forge: forge.trust(ends=NOW + 365 * DAY + 1000),
    "an end before its beginning": lambda forge: forge.resigned(
        forge.certificate(), lambda fields: fields.__setitem__(4, f.tlv(0x30, b"".join(reversed(f.elements(f.content(fields[4]))))))
    ),
    "no time at all": lambda forge: forge.resigned(
        forge.certificate(), lambda fields: fields.__setitem__(4, f.tlv(0x30, f.elements(f.content(fields[4]))[0] * 2))
    ),
    "older than the root": lambda forge: forge.certificate(begins=NOW - DAY - 1000, ends=NOW),
    "outliving the root": lambda forge: forge.certificate(begins=NOW + 2_900 * DAY, ends=NOW + 3_000 * DAY + 1000),
}
WRONG = FORM | SIGNATURE | USE | NAMES | PINNED | KEY_AND_TIME


@pytest.mark.parametrize("what", WRONG)
def test_a_certificate_is_refused_for(forge, read, what):
    der = WRONG[what](forge)
    with pytest.raises(VerificationError) as caught:
        read(der)
    assert caught.value.reason == "untrusted"


@pytest.mark.parametrize("what", FORM)
def test_a_wrong_form_is_seen_before_any_library_looks(forge, what):
    with pytest.raises(ValueError):  # noqa: PT011  every fault is one
        x509_form.take_apart(FORM[what](forge))


def test_the_limits_themselves_are_kept_to(forge, read):
    for der in (
        forge.certificate(ends=NOW + 365 * DAY),
        forge.certificate(begins=NOW - DAY, ends=NOW),
        forge.certificate(begins=NOW + 2_900 * DAY, ends=NOW + 3_000 * DAY),
        forge.certificate(san=f.names(named="A" * 32), subject=f.name("A" * 32)),
        forge.certificate(san=f.names(*(x509.DNSName(f"h{n}") for n in range(16)))),
        forge.tls(san=f.names(x509.DNSName("a." * 126 + "a"), path="tls")),
        forge.certificate(pinned=f.private(bytes.fromhex("300c 020101 020120 0a0100 020100"))),
    ):
        assert read(der).domain == DOMAIN


@pytest.mark.parametrize("made", Profile)
@pytest.mark.parametrize("wanted", Profile)
def test_no_profile_passes_for_another(forge, read, made, wanted):
    der = {
        Profile.AGENT: forge.certificate,
        Profile.TLS: forge.tls,
        Profile.BROKER: lambda: forge.certificate(eku=x509.ExtendedKeyUsage([f.own(3)]), san=f.names(path="broker")),
        Profile.TRUST: forge.trust,
    }[made]()
    if made is wanted:
        assert read(der, profile=wanted).profile is made
        return
    with pytest.raises(VerificationError) as caught:
        read(der, profile=wanted)
    assert (caught.value.reason, caught.value.agent) == ("untrusted", "DIRECTOR")


def test_a_certificate_of_one_domain_is_none_of_another(forge, read):
    with pytest.raises(VerificationError) as caught:
        read(forge.certificate(), domain="other.test")
    assert caught.value.reason == "untrusted"


def test_a_key_in_another_than_its_one_encoding_is_refused(forge, read):
    """RSA keys that may be used with PSS alone have another identifier; readers would disagree on the key's digest."""
    der = forge.certificate(key=f.RSA3072, pinned=f.pins("rsa3072/sha3-384"))
    assert read(der).suite.name == "rsa3072/sha3-384"
    plain, restricted = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d01010a")

    def change(fields):
        fields[KEY] = f.tlv(0x30, f.content(fields[KEY]).replace(plain, restricted))

    with pytest.raises(VerificationError) as caught:
        read(forge.resigned(der, change))
    assert caught.value.reason == "untrusted"


def test_every_single_bit_counts(forge, read):
    """So nobody but the root can make a second certificate, with another digest, out of one."""
    der = forge.certificate()
    for place in range(len(der) * 8):
        changed = bytearray(der)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(VerificationError) as caught:
            read(bytes(changed))
        assert caught.value.reason == "untrusted"


def test_no_beginning_of_a_certificate_is_one(forge, read):
    der = forge.certificate()
    for length in range(len(der)):
        with pytest.raises(VerificationError):
            read(der[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(authority, data):
    for reader in (lambda: certificates.read(data, root=authority.root, domain=DOMAIN), lambda: Root.of(data)):
        with pytest.raises(VerificationError) as caught:
            reader()
        assert caught.value.reason == "untrusted"


@given(st.sampled_from(sorted(IDENTITY_SUITES)), st.sampled_from(["software", "software-tpm", "hardware"]), st.integers(0, 6))
def test_what_is_pinned_has_one_encoding(suite, origin, level):
    pinned = Pinned(IDENTITY_SUITES[suite], origin, level)
    assert Pinned.parse(pinned.encode()) == pinned


@given(st.binary(max_size=20))
def test_what_parses_as_pinned_encodes_identically(data):
    try:
        pinned = Pinned.parse(data)
    except ValueError:
        return
    assert pinned.encode() == data


@pytest.mark.parametrize(
    "pinned", [("ecc256/sha256", "paper", 0), ("ecc256/sha256", "software", 7), ("ecc256/sha256", "software", -1)]
)
def test_what_cannot_be_pinned_is_not_encoded(pinned):
    with pytest.raises(ValueError, match="pins"):
        Pinned(IDENTITY_SUITES[pinned[0]], *pinned[1:]).encode()


def test_the_builder_takes_no_key_that_no_certificate_has(authority):
    from cryptography.hazmat.primitives.asymmetric import x25519

    with pytest.raises(ValueError, match="kind"):
        authority.certificate(Profile.AGENT, spki=spki(x25519.X25519PrivateKey.generate()))


# ---- roots -----------------------------------------------------------------------------------------------------------------------

ROOT = {
    "nothing": lambda _: b"",
    "a byte behind the end": lambda forge: forge.root_certificate() + b"\0",
    "RSA-3072": lambda forge: forge.root_certificate(f.RSA3072),
    "P-384": lambda forge: forge.root_certificate(f.P384, padding=None, algorithm=hashes.SHA384()),
    "P-384, signed by RSA-4096": lambda forge: forge.root_certificate(f.P384, signing_key=RSA4096),
    "RSA-3072, signed by RSA-4096": lambda forge: forge.root_certificate(f.RSA3072, signing_key=RSA4096),
    "e = 3": lambda forge: forge.root_certificate(rsa_key(4096, exponent=3)),
    "signed by another": lambda forge: forge.root_certificate(signing_key=RSA4096),
    "issued by another": lambda forge: forge.root_certificate(issuer=f.name("another")),
    "another algorithm inside": lambda forge: forge.resigned(forge.root_certificate(), set_field(INNER, PKCS1)),
    "PKCS1v15": lambda forge: forge.root_certificate(padding=padding.PKCS1v15(), algorithm=hashes.SHA384()),
    "no authority": lambda forge: forge.root_certificate(constraints=x509.BasicConstraints(ca=False, path_length=None)),
    "any length of path": lambda forge: forge.root_certificate(constraints=x509.BasicConstraints(ca=True, path_length=None)),
    "a path of two": lambda forge: forge.root_certificate(constraints=x509.BasicConstraints(ca=True, path_length=1)),
    "constraints that are not critical": lambda forge: forge.root_certificate(
        constraints=(x509.BasicConstraints(ca=True, path_length=0), False)
    ),
    "no key usage": lambda forge: forge.root_certificate(usage=None),
    "no lists": lambda forge: forge.root_certificate(usage=f.use(key_cert_sign=True)),
    "signatures of its own": lambda forge: forge.root_certificate(
        usage=f.use(key_cert_sign=True, crl_sign=True, digital_signature=True)
    ),
    "no subject key": lambda forge: forge.root_certificate(ski=None),
    "another subject key": lambda forge: forge.root_certificate(ski=x509.SubjectKeyIdentifier(bytes(20))),
    "an extended key usage": lambda forge: forge.root_certificate(eku=x509.ExtendedKeyUsage([f.SERVER])),
    "a critical extension": lambda forge: forge.root_certificate(
        extra=[(x509.NameConstraints([x509.DNSName("example")], None), True)]
    ),
    "more than ten years": lambda forge: forge.root_certificate(ends=NOW + 3_652 * DAY + 1000),
    "a leaf": lambda forge: forge.certificate(),
}


@pytest.mark.parametrize("what", ROOT)
def test_a_root_is_refused_for(forge, what):
    with pytest.raises(VerificationError) as caught:
        Root.of(ROOT[what](forge))
    assert caught.value.reason == "untrusted"


def test_the_roots_own_certificate_is_no_certificate_of_a_profile(forge, read):
    with pytest.raises(VerificationError) as caught:
        read(forge.root.der)
    assert caught.value.reason == "untrusted"

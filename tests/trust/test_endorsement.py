"""Which root vouches for a chip decides what its keys may be called; what breaks a rule of the path is not believed at all."""

from __future__ import annotations

from datetime import timedelta
from math import gcd

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from made_chip import EK_ATTRIBUTES, NOW, SIGN, MadeChip, Maker, ca_certificate, moment, public_area, rsa_key, spki_of

from bus.errors import AttestationError, RemoteProtocolError
from bus.trust import endorsement
from bus.trust.endorsement import Roots

MAKER, OTHER = Maker(), Maker("other")
CHIP = MadeChip(MAKER)
ROOTS = Roots.of(software=[MAKER.root], intermediates=[MAKER.ca])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def verify(certificate=CHIP.certificate, public=CHIP.ek_public, *, roots=ROOTS, now_ms=NOW, **options):
    return endorsement.verify(certificate, public, roots=roots, now_ms=now_ms, **options)


def reason(*arguments, **options) -> str:
    with pytest.raises(AttestationError) as caught:
        verify(*arguments, **options)
    return caught.value.reason


# ---- who is believed -----------------------------------------------------------------------------------------------------------


def test_the_root_that_verifies_decides_what_keys_may_be_called():
    for roots, origin in (
        (Roots.of(software=[MAKER.root], hardware=[OTHER.root], intermediates=[MAKER.ca]), "software-tpm"),
        (Roots.of(hardware=[MAKER.root], software=[OTHER.root], intermediates=[MAKER.ca]), "hardware"),
    ):
        endorsed = verify(roots=roots)
        assert (endorsed.origin, endorsed.hash) == (origin, CHIP.ek_hash)
        assert endorsed.key.spki == spki_of(CHIP.ek)


def test_under_no_root_nobody_is_believed():
    assert reason(roots=Roots()) == "ek_untrusted"
    assert reason(roots=Roots.of(software=[OTHER.root], intermediates=[OTHER.ca, MAKER.ca])) == "ek_untrusted"


def test_the_enrollee_may_bring_what_lies_between():
    roots = Roots.of(software=[MAKER.root])
    assert reason(roots=roots) == "ek_untrusted"
    assert verify(roots=roots, intermediates=[OTHER.ca, MAKER.ca]).origin == "software-tpm"
    assert reason(roots=Roots.of(software=[OTHER.root]), intermediates=[MAKER.root, MAKER.ca]) == "ek_untrusted"


def test_another_maker_of_the_same_names_is_another_maker():
    assert reason(MadeChip(Maker()).certificate) == "ek_untrusted"


def test_a_root_may_sign_for_a_chip_itself():
    alone = Maker("alone")
    alone.ca_key, alone.name = alone.root_key, "alone"
    certificate = alone.certify(CHIP.ek, issuer="alone root")
    assert verify(certificate, roots=Roots.of(hardware=[alone.root])).origin == "hardware"


def test_a_key_on_p_384_is_as_good():
    chip = MadeChip(MAKER, ec.derive_private_key(6, ec.SECP384R1()), ek_hash_name="sha384", ek_bits=256)
    assert verify(chip.certificate, chip.ek_public).hash == chip.ek_hash


# ---- the path ------------------------------------------------------------------------------------------------------------------


def path_of(maker, **options):
    return {"roots": Roots.of(software=[maker.root], intermediates=[maker.ca]), **options}


BAD_MAKERS = {
    "a root whose path is too short": Maker(pathlen=0),
    "a CA that may not sign certificates": Maker(key_cert_sign=False),
}


@pytest.mark.parametrize("maker", BAD_MAKERS.values(), ids=BAD_MAKERS)
def test_a_maker_that_breaks_a_rule_is_not_believed(maker):
    assert reason(maker.certify(CHIP.ek), **path_of(maker)) == "ek_untrusted"


def test_a_signature_over_sha_1_is_none():
    maker = Maker()
    maker.ca_key = rsa_key(2)
    maker.ca = ca_certificate("maker ca", maker.ca_key, "maker root", maker.root_key)
    modern = maker.certify(CHIP.ek)
    assert verify(modern, **path_of(maker)).origin == "software-tpm"
    old = modern.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105"))  # as long, so lengths stay
    signed = x509.load_der_x509_certificate(old).tbs_certificate_bytes
    old = old[:-256] + maker.ca_key.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    assert reason(old, **path_of(maker)) == "ek_untrusted"


BAD_CAS = {
    "no CA": {"ca": False},
    "ended": {"ends": moment(-1)},
    "with a critical extension that nobody reads": {"edit": lambda builder: builder.add_extension(UNKNOWN, critical=True)},
}


@pytest.mark.parametrize("options", BAD_CAS.values(), ids=BAD_CAS)
def test_an_intermediate_that_breaks_a_rule_leads_nowhere(options):
    maker = Maker()
    maker.ca = ca_certificate("maker ca", maker.ca_key, "maker root", maker.root_key, **options)
    assert reason(maker.certify(CHIP.ek), **path_of(maker)) == "ek_untrusted"


def test_an_intermediate_without_its_rules_or_with_a_weak_key_leads_nowhere():
    bare = Maker()
    builder = x509.CertificateBuilder().subject_name(x509.load_der_x509_certificate(bare.ca).subject)
    builder = builder.issuer_name(x509.load_der_x509_certificate(bare.root).subject).serial_number(3)
    builder = builder.not_valid_before(moment(-9)).not_valid_after(moment(9)).public_key(bare.ca_key.public_key())
    bare.ca = builder.sign(bare.root_key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert reason(bare.certify(CHIP.ek), **path_of(bare)) == "ek_untrusted"
    for key in (
        rsa_key(0, 1024),
        ec.generate_private_key(ec.SECP192R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ):
        weak = Maker()
        weak.ca_key, weak.hash = key, None if isinstance(key, ed25519.Ed25519PrivateKey) else weak.hash
        weak.ca = ca_certificate("maker ca", key, "maker root", weak.root_key)
        assert reason(weak.certify(CHIP.ek), **path_of(weak)) == "ek_untrusted"


def test_an_exponent_that_makes_strangers_expensive_leads_nowhere():
    """With a short private exponent the public one is as long as the modulus, and each verification a hundred times as long."""
    numbers = rsa_key(1).private_numbers()
    p, q, n = numbers.p, numbers.q, numbers.public_numbers.n
    d = next(d for d in range((1 << 255) + 1, 1 << 256, 2) if gcd(d, (p - 1) * (q - 1)) == 1)
    public = rsa.RSAPublicNumbers(pow(d, -1, (p - 1) * (q - 1)), n)
    dear = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), numbers.iqmp, public)
    for key, believed in ((rsa_key(1), True), (dear.private_key(unsafe_skip_rsa_key_validation=True), False)):
        maker = Maker()
        maker.ca_key = key
        maker.ca = ca_certificate("maker ca", key, "maker root", maker.root_key)
        certificate = maker.certify(CHIP.ek)
        if believed:
            assert verify(certificate, **path_of(maker)).origin == "software-tpm"
        else:
            assert reason(certificate, **path_of(maker)) == "ek_untrusted"


def test_a_path_is_four_intermediates_long_at_most_and_no_circle():
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(6)]
    maker = Maker()
    for count, believed in ((4, True), (5, False)):
        names = ["maker root", *(f"step {place}" for place in range(count - 1)), "maker ca"]
        signers = [maker.root_key, *keys[: count - 1], maker.ca_key]
        between = [ca_certificate(names[place + 1], signers[place + 1], names[place], signers[place]) for place in range(count)]
        roots = Roots.of(software=[maker.root], intermediates=between)
        certificate = maker.certify(CHIP.ek)
        if believed:
            assert verify(certificate, roots=roots).origin == "software-tpm"
        else:
            assert reason(certificate, roots=roots) == "ek_untrusted"
    circle = [
        ca_certificate("maker ca", maker.ca_key, "second", keys[0]),
        ca_certificate("second", keys[0], "maker ca", maker.ca_key),
    ]
    assert reason(maker.certify(CHIP.ek), roots=Roots.of(software=[OTHER.root], intermediates=circle)) == "ek_untrusted"


# ---- the endorsement certificate itself ----------------------------------------------------------------------------------------

BAD_LEAVES = {
    "that is the platform's": {"purpose": x509.ObjectIdentifier("2.23.133.8.2")},
    "without a purpose": {"purpose": None},
    "without a use": {"usage": None},
    "that only signs": {"usage": "digital_signature"},
    "of a CA": {"edit": lambda builder: builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)},
    "with a critical extension that nobody reads": {"edit": lambda builder: builder.add_extension(UNKNOWN, critical=True)},
    "that has ended": {"ends": moment(-0.5)},
    "that has not begun": {"begins": moment(0.5)},
}


@pytest.mark.parametrize("options", BAD_LEAVES.values(), ids=BAD_LEAVES)
def test_a_certificate_is_not_believed(options):
    assert reason(MAKER.certify(CHIP.ek, **options)) == "ek_untrusted"


def test_what_a_certificate_may_have_besides():
    def edit(builder):
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        return builder.add_extension(UNKNOWN, critical=False)

    assert verify(MAKER.certify(CHIP.ek, edit=edit)).origin == "software-tpm"


def test_it_ends_when_it_says():
    certificate = MAKER.certify(CHIP.ek, ends=moment(1))
    day = timedelta(days=1) // timedelta(milliseconds=1)
    assert verify(certificate, now_ms=NOW + day)
    assert reason(certificate, now_ms=NOW + day + 1000) == "ek_untrusted"


def test_a_certificate_for_another_key_is_a_mismatch():
    assert reason(MAKER.certify(rsa_key(1))) == "ek_mismatch"
    assert reason(public=MadeChip(MAKER, rsa_key(1)).ek_public) == "ek_mismatch"


BAD_AREAS = {
    "that may leave": public_area(CHIP.ek, EK_ATTRIBUTES & ~0x02, symmetric=128),
    "that is not restricted": public_area(CHIP.ek, EK_ATTRIBUTES & ~(1 << 16), symmetric=128),
    "that signs": public_area(CHIP.ek, EK_ATTRIBUTES | SIGN, symmetric=128),
    "that wraps nothing": public_area(CHIP.ek, EK_ATTRIBUTES),
}


@pytest.mark.parametrize("public", BAD_AREAS.values(), ids=BAD_AREAS)
def test_a_key_is_no_endorsement_key(public):
    assert reason(public=public) == "ek_mismatch"


def test_what_is_no_certificate_is_not_believed():
    for der in (b"", b"x", CHIP.certificate[:-1], CHIP.certificate + b"x", bytes(5000)):
        assert reason(der) == "ek_untrusted"
    assert reason(intermediates=[b"x"]) == "ek_untrusted"
    twice = CHIP.certificate.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d0f"))
    assert twice != CHIP.certificate
    assert reason(twice) == "ek_untrusted"
    with pytest.raises(RemoteProtocolError):
        verify(public=b"x")
    with pytest.raises(ValueError, match="no certificate"):
        Roots.of(hardware=[b"x"])


def test_the_last_bits_of_a_signature_cannot_be_called_unused():
    chip = next(chip for chip in iter(lambda: MadeChip(MAKER), None) if not chip.certificate[-1] & 1)  # so DER lets the last one be
    place = -1 - len(x509.load_der_x509_certificate(chip.certificate).signature)
    assert chip.certificate[place] == 0
    assert verify(chip.certificate).hash == chip.ek_hash
    assert reason(chip.certificate[:place] + b"\x01" + chip.certificate[place + 1 :]) == "ek_untrusted"


@given(st.integers(0, len(CHIP.certificate) - 1), st.integers(1, 255))
def test_no_byte_of_a_certificate_can_change(place, bits):
    changed = CHIP.certificate[:place] + bytes([CHIP.certificate[place] ^ bits]) + CHIP.certificate[place + 1 :]
    assert reason(changed) in ("ek_untrusted", "ek_mismatch")

"""Sealing to a reader's key: one encoding a key, one way to open, and no secret that shows."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from nacl.bindings import crypto_scalarmult

from bus.errors import RemoteProtocolError, VerificationError
from bus.identity.kem_keys import generate
from bus.protocol import kem
from bus.protocol.kem import PrivateKey, PublicKey

KEMS = pytest.mark.parametrize("which", [kem.X25519, kem.HYBRID], ids=["x25519", "hybrid"])
INFO = b"what it is for"
BODY = b"a secret" * 25
P = (1 << 255) - 19


@KEMS
def test_what_is_sealed_to_a_key_opens_with_it(which):
    key = generate(which)
    sealed = kem.seal(which, key.public, BODY, INFO)
    assert key.open(sealed, INFO) == BODY
    assert len(sealed) == kem.ENC_BYTES[which] + len(BODY) + kem.TAG_BYTES


@KEMS
def test_a_parsed_key_seals_many_times_and_never_twice_the_same(which):
    key = generate(which)
    public = PublicKey(which, key.public)
    several = {public.seal(BODY, INFO) for _ in range(5)}
    assert len(several) == 5
    assert {key.open(sealed, INFO) for sealed in several} == {BODY}


@KEMS
def test_nothing_opens_after_any_bit_of_it_changed(which):
    key = generate(which)
    sealed = kem.seal(which, key.public, b"short", INFO)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1 << position % 8
        with pytest.raises(VerificationError) as caught:
            key.open(bytes(changed), INFO)
        assert caught.value.reason == "bad_seal"


@KEMS
def test_the_unused_top_bit_of_what_was_encapsulated_counts_too(which):
    key = generate(which)
    changed = bytearray(kem.seal(which, key.public, BODY, INFO))
    changed[kem.ENC_BYTES[which] - 1] ^= 0x80
    with pytest.raises(VerificationError) as caught:
        key.open(bytes(changed), INFO)
    assert caught.value.reason == "bad_seal"


@KEMS
def test_nothing_opens_when_cut_or_longer(which):
    key = generate(which)
    sealed = kem.seal(which, key.public, BODY, INFO)
    for wrong in [sealed[:length] for length in range(0, len(sealed), 7)] + [sealed[:-1], sealed + b"\x00"]:
        with pytest.raises(VerificationError) as caught:
            key.open(wrong, INFO)
        assert caught.value.reason == "bad_seal"


@KEMS
def test_nothing_opens_for_another_purpose_or_with_another_key(which):
    key, other = generate(which), generate(which)
    sealed = kem.seal(which, key.public, BODY, INFO)
    for opener, info in [(key, INFO + b"!"), (key, b""), (other, INFO)]:
        with pytest.raises(VerificationError) as caught:
            opener.open(sealed, info)
        assert caught.value.reason == "bad_seal"


@KEMS
def test_a_point_of_small_order_opens_nothing(which):
    key = generate(which)
    sealed = kem.seal(which, key.public, BODY, INFO)
    end = kem.ENC_BYTES[which]
    with pytest.raises(VerificationError) as caught:
        key.open(sealed[: end - 32] + bytes(32) + sealed[end:], INFO)
    assert caught.value.reason == "bad_seal"


@KEMS
def test_a_private_key_survives_its_bytes(which):
    key = generate(which)
    again = PrivateKey.from_bytes(which, key.to_bytes())
    assert (again.public, again.id, again.kem) == (key.public, key.id, which)
    assert again.open(kem.seal(which, key.public, BODY, INFO), INFO) == BODY
    assert len(key.to_bytes()) == kem.PRIVATE_BYTES[which] <= 128


@KEMS
def test_a_private_key_of_the_wrong_length_is_none(which):
    for length in (0, kem.PRIVATE_BYTES[which] - 1, kem.PRIVATE_BYTES[which] + 1):
        with pytest.raises(ValueError, match="bytes"):
            PrivateKey.from_bytes(which, bytes(length))


@KEMS
def test_a_private_key_shows_no_secret_and_is_not_copied(which):
    key = generate(which)
    assert key.to_bytes().hex() not in repr(key)
    assert str(key.to_bytes()) not in repr(key)
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(key)


@KEMS
def test_a_key_has_the_length_and_the_id_of_the_protocol(which):
    key = generate(which)
    assert len(key.public) == kem.KEY_BYTES[which]
    assert PublicKey(which, key.public).id == key.id == kem.key_id(which, key.public)
    assert key.id == hashlib.sha256(b"tpmbus/1 kem key" + bytes([which]) + key.public).digest()[:16]


def test_the_same_bytes_have_another_id_under_another_kem():
    assert kem.key_id(1, bytes(32)) != kem.key_id(2, bytes(32))


def test_a_stronger_kem_has_the_larger_number():
    assert [kem.BY_WORD[word] for word in ("x25519", "hybrid")] == sorted(kem.KEY_BYTES)


def _x25519_keys_that_are_none():
    yield from {
        "zero": 0,
        "one": 1,
        "minus one": P - 1,
        "p, another zero": P,
        "p + 1, another one": P + 1,
        "the last of another encoding": (1 << 255) - 1,
        "a base point with the unused bit": 9 | 1 << 255,
        "of order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
        "the other of order 8": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }.items()


BAD_X25519 = {name: number.to_bytes(32, "little") for name, number in _x25519_keys_that_are_none()}


@pytest.mark.parametrize("case", BAD_X25519)
@KEMS
def test_an_x25519_key_of_small_order_or_another_encoding_is_refused(case, which):
    key = generate(which).public[:-32] + BAD_X25519[case]
    with pytest.raises(RemoteProtocolError) as caught:
        kem.check_key(which, key)
    assert caught.value.reason == "malformed"


def test_the_list_of_small_orders_is_libsodiums():
    """Every key on our list gives zero there, and none beside it does: 200 random keys, and all small numbers."""
    refused = [data for data in BAD_X25519.values() if int.from_bytes(data, "little") < P]
    assert len(refused) == 5
    for data in refused:
        with pytest.raises(RuntimeError):
            crypto_scalarmult(b"\x07" * 32, data)
    for number in [*range(2, 60), *range(P - 60, P - 1)]:
        data = number.to_bytes(32, "little")
        crypto_scalarmult(b"\x07" * 32, data)
        kem.check_key(kem.X25519, data)


def test_an_ml_kem_key_with_a_coefficient_that_is_not_below_q_is_refused():
    key = generate(kem.HYBRID).public
    for position in (0, 3 * 100, 1_152 - 3):
        for number in (3_329, 4_095):
            wrong = key[:position] + number.to_bytes(2, "little") + key[position + 2 :]
            with pytest.raises(RemoteProtocolError) as caught:
                kem.check_key(kem.HYBRID, wrong)
            assert caught.value.reason == "malformed"


@pytest.mark.parametrize("length", [0, 31, 33, 1_184, 1_215, 1_217])
@KEMS
def test_a_key_of_the_wrong_length_is_refused(length, which):
    with pytest.raises(RemoteProtocolError) as caught:
        kem.check_key(which, bytes(length))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("number", [0, 3, 255])
def test_a_kem_that_nobody_knows_is_refused(number):
    with pytest.raises(RemoteProtocolError) as caught:
        kem.check_key(number, bytes(32))
    assert caught.value.reason == "malformed"


def test_what_is_no_bytes_is_no_key():
    for wrong in ("x" * 32, None, 5, bytearray(32)):
        with pytest.raises(RemoteProtocolError) as caught:
            PublicKey(kem.X25519, wrong)  # type: ignore[arg-type]  # on purpose
        assert caught.value.reason == "malformed"

"""Epochs: the id commits to everything, one type seals and another opens, and a number is used once."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from bus.errors import LocalProtocolError, RemoteProtocolError, VerificationError
from bus.protocol import audience, epochs
from bus.protocol.epochs import AES_256_GCM, XCHACHA20_POLY1305, OpenedEpoch, Params, SealingEpoch

PARAMS = Params("fleet.test", "DIRECTOR", b"a" * 32, 0, 3, 0, AES_256_GCM, 1, 1_000, 2_000)
SECRET = b"s" * 32


def made(**changes: Any) -> SealingEpoch:
    return SealingEpoch.make(os.urandom(32), PARAMS._replace(**changes))


def test_id_and_key_are_what_another_library_derives():
    epoch = SealingEpoch.make(SECRET, PARAMS)
    digest = hashlib.sha256(msgpack.packb(list(PARAMS))).digest()

    def expand(context: bytes) -> bytes:
        return HKDFExpand(SHA256(), 32, context + digest).derive(SECRET)

    assert epoch.id == expand(b"tpmbus/1 epoch id")
    sealed = epoch.seal(b"text", seq=epoch.take(), header=b"header", guard=b"gggg")
    assert AESGCM(expand(b"tpmbus/1 content key")).decrypt(b"gggg" + bytes(8), sealed[4:], b"header") == b"text"


@pytest.mark.parametrize("aead", [AES_256_GCM, XCHACHA20_POLY1305])
def test_what_one_seals_the_other_opens(aead: int):
    epoch = made(aead=aead)
    opened = OpenedEpoch.from_grant(epoch.secret, epoch.params_bytes, id=epoch.id)
    for number in range(3):
        seq, guard = epoch.take(), os.urandom(epoch.guard_bytes)
        assert seq == number
        sealed = epoch.seal(b"text", seq=seq, header=b"header", guard=guard)
        assert opened.open(sealed, seq=seq, header=b"header") == b"text"
        for wrong in (
            {"sealed": sealed[:-1]},
            {"sealed": sealed[:3]},
            {"sealed": b""},
            {"seq": seq + 1},
            {"header": b"other"},
            {"sealed": bytes([sealed[0] ^ 1]) + sealed[1:]},
        ):
            given = {"sealed": sealed, "seq": seq, "header": b"header"} | wrong
            with pytest.raises(VerificationError) as caught:
                opened.open(given["sealed"], seq=given["seq"], header=given["header"])
            assert (caught.value.reason, caught.value.agent) == ("bad_seal", "DIRECTOR")


def test_another_secret_or_parameter_makes_another_id():
    epoch = SealingEpoch.make(SECRET, PARAMS)
    changes = [{"domain": "other.test"}, {"sender": "DEPUTY"}, {"audience": b"b" * 32}, {"class_": 1}, {"priority": 4}]
    changes += [{"signed_by": 1}, {"aead": 2}, {"kem": 2}, {"made_ms": 1}, {"ends_ms": 1}]
    assert len(changes) == len(PARAMS)
    ids = {SealingEpoch.make(SECRET, PARAMS._replace(**change)).id for change in changes}
    assert len(ids | {epoch.id, SealingEpoch.make(b"t" * 32, PARAMS).id}) == len(changes) + 2
    for change in changes:
        with pytest.raises(VerificationError) as caught:
            OpenedEpoch.from_grant(SECRET, PARAMS._replace(**change).encode(), id=epoch.id)
        assert caught.value.reason == "wrong_epoch"


def test_no_secret_of_another_length_is_one():
    with pytest.raises(RemoteProtocolError):
        OpenedEpoch.from_grant(b"short", PARAMS.encode(), id=bytes(32))


def test_a_number_is_given_out_once_and_sealed_under_once():
    epoch = made()
    first, second = epoch.take(), epoch.take()
    epoch.seal(b"x", seq=second, header=b"h", guard=bytes(4))
    epoch.burn(first)
    for used in (first, second, 2):
        with pytest.raises(LocalProtocolError):
            epoch.seal(b"x", seq=used, header=b"h", guard=bytes(4))
    with pytest.raises(ValueError, match="guard"):
        epoch.seal(b"x", seq=epoch.take(), header=b"h", guard=bytes(5))


def test_a_failure_burns_nothing_that_a_later_number_could_repeat():
    epoch = made()
    seq = epoch.take()
    with pytest.raises(TypeError):
        epoch.seal(None, seq=seq, header=b"h", guard=bytes(4))  # type: ignore[arg-type]  # what fails inside
    with pytest.raises(LocalProtocolError):
        epoch.seal(b"x", seq=seq, header=b"h", guard=bytes(4))
    assert epoch.take() == seq + 1


def test_an_epoch_ends_with_its_numbers(monkeypatch: pytest.MonkeyPatch):
    epoch = made()
    epoch.next_seq = epochs.MAX_SEQ
    assert not epoch.is_spent
    assert epoch.take() == epochs.MAX_SEQ
    assert epoch.is_spent
    with pytest.raises(LocalProtocolError):
        epoch.take()


def test_an_epoch_ends_with_what_its_key_may_seal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(epochs, "MAX_SEALED_BYTES", 10)
    epoch = made()
    epoch.seal(bytes(10), seq=epoch.take(), header=b"h", guard=bytes(4))
    assert epoch.is_spent
    with pytest.raises(LocalProtocolError):
        epoch.take()


def test_a_retired_epoch_does_nothing_more():
    epoch = made()
    seq = epoch.take()
    assert epoch.opened.id == epoch.id
    epoch.retire()
    epoch.retire()
    assert epoch.is_spent
    for attempt in (
        epoch.take,
        lambda: epoch.secret,
        lambda: epoch.opened,
        lambda: epoch.seal(b"x", seq=seq, header=b"h", guard=bytes(4)),
        lambda: epoch._cipher.encrypt(bytes(12), b"x", b"h"),
    ):
        with pytest.raises(LocalProtocolError):
            attempt()


def test_an_epoch_never_leaves_its_process():
    epoch = made()
    for thing in (epoch, epoch.opened):
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                attempt(thing)
        assert epoch.secret.hex() not in repr(thing)
        assert epoch.id[:4].hex() in repr(thing)
    assert not hasattr(epoch.opened, "seal")


def test_parameters_parse_as_they_were_encoded():
    for params in (PARAMS, PARAMS._replace(class_=1, signed_by=1, aead=2, kem=2, priority=0, ends_ms=2**64 - 1)):
        assert Params.parse(params.encode()) == params
    assert (PARAMS.is_durable, PARAMS.by_identity) == (False, False)
    assert Params.parse(PARAMS._replace(class_=1, signed_by=1).encode()).is_durable


WRONG: dict[str, dict[str, Any]] = {
    "no domain": {"domain": ""},
    "a domain of 254 bytes": {"domain": "d" * 254},
    "a domain beyond ASCII": {"domain": "dömain"},
    "a domain of bytes": {"domain": b"d"},
    "a small name": {"sender": "director"},
    "an audience of 31 bytes": {"audience": bytes(31)},
    "a third class": {"class_": 2},
    "a class that is true": {"class_": True},
    "a fifth priority": {"priority": 5},
    "a third signer": {"signed_by": 2},
    "no cipher": {"aead": 0},
    "a third cipher": {"aead": 3},
    "no key agreement": {"kem": 0},
    "a third key agreement": {"kem": 3},
    "made before 1970": {"made_ms": -1},
    "ends before 1970": {"ends_ms": -1},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_parameters_that_are_none_are_malformed(changes: dict[str, Any]):
    with pytest.raises(RemoteProtocolError) as caught:
        Params.parse(msgpack.packb(list((PARAMS._asdict() | changes).values())))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("data", [b"", b"\x90", bytes(1025), msgpack.packb([*PARAMS, 1])], ids=["", "empty", "long", "eleven"])
def test_bytes_that_are_no_parameters_are_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        Params.parse(data)
    assert caught.value.reason == "malformed"


# ---- audiences -------------------------------------------------------------------------------------------------------------------


def test_an_audience_is_its_members_by_name_with_their_generations():
    some = audience.members([("B", 2), ("A", 0)])
    assert some == (("A", 0), ("B", 2))
    expected = hashlib.sha256(b"tpmbus/1 audience" + msgpack.packb([["A", 0], ["B", 2]])).digest()
    assert audience.digest(some) == expected
    assert audience.digest(audience.members([("A", 1), ("B", 2)])) != expected, "a name that was enrolled again is another member"
    assert audience.digest(()) != expected


def test_a_list_of_members_travels_as_it_is():
    some = audience.members([("B", 2), ("A", 0)])
    assert audience.parse_members(audience.encode_members(some)) == some
    assert audience.parse_members(audience.encode_members(())) == ()


@pytest.mark.parametrize(
    "value",
    [
        [["B", 0], ["A", 0]],
        [["A", 0], ["A", 0]],
        [["a", 0]],
        [[b"A", 0]],
        [["A", -1]],
        [["A", True]],
        [["A"]],
        [],
        ["A"],
        [["A", 0]] * 16_385,
    ],
)
def test_a_list_that_is_no_audience_is_malformed(value: Any):
    with pytest.raises(RemoteProtocolError) as caught:
        audience.parse_members(msgpack.packb(value))
    assert caught.value.reason == "malformed"

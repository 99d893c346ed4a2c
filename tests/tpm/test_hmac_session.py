"""Our half of a salted HMAC session, against a chip's half that was written from the specification over another library."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import TpmRefusedError
from bus.tpm.hmac_session import SIGN, HmacSession, Opening, ResponseError, opening, response_code, sized, unsized

AUTH, NAME = b"the key's auth value", b"\x00\x0b" + b"n" * 32
PRIMARY = ec.derive_private_key(0x1234_5678_9ABC_DEF0_1234, ec.SECP256R1())


class OtherHalf:
    """What a TPM does with the commands of one session: part 1, sections 11.4.10 (key derivation) and 19 (HMACs)."""

    def __init__(self) -> None:
        self.answers = 0

    def start(self, command: bytes) -> bytes:
        tag, size, code, primary, bind = struct.unpack_from(">HIIII", command)
        assert (tag, size, code, primary, bind) == (0x8001, len(command), 0x176, 0x81000001, 0x40000007)
        self.nonce_caller, rest = unsized(command[18:])
        secret, rest = unsized(rest)
        assert rest == struct.pack(">BHH", 0, 0x10, 0x0B)  # HMAC session, no parameter encryption, SHA-256
        (x, rest), own = unsized(secret), PRIMARY.public_key().public_numbers()
        y, rest = unsized(rest)
        assert rest == b""
        theirs = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()).public_key()
        shared = PRIMARY.exchange(ec.ECDH(), theirs)
        other = b"SECRET\0" + x + own.x.to_bytes(32, "big")
        salt = ConcatKDFHash(hashes.SHA256(), 32, other).derive(shared)
        self.nonce = b"t" * 32
        self.key = KBKDFHMAC(
            hashes.SHA256(), Mode.CounterMode, 32, 4, 4, CounterLocation.BeforeFixed, None, None,
            fixed=b"ATH\0" + self.nonce + self.nonce_caller + struct.pack(">I", 256),
        ).derive(salt)  # fmt: skip
        return struct.pack(">HII", 0x8001, 10 + 4 + 34, 0) + struct.pack(">I", 0x02000007) + sized(self.nonce)

    def serve(self, command: bytes, answer_parameters: bytes) -> bytes | None:
        """The answer; None where the command's HMAC does not hold."""
        tag, size, code, _ = struct.unpack_from(">HIII", command)
        assert (tag, size) == (0x8002, len(command))
        (area_size,) = struct.unpack_from(">I", command, 14)
        area, parameters = command[18 : 18 + area_size], command[18 + area_size :]
        nonce_caller, rest = unsized(area[4:])
        attributes, (proof, end) = rest[:1], unsized(rest[1:])
        assert (area[:4], attributes, end) == (struct.pack(">I", 0x02000007), b"\x01", b"")
        digest = sha256(struct.pack(">I", code) + NAME + parameters)
        if proof != self.hmac(digest + nonce_caller + self.nonce + attributes):
            return None
        self.answers += 1
        self.nonce = sha256(b"nonce %d" % self.answers)
        digest = sha256(struct.pack(">II", 0, code) + answer_parameters)
        proof = self.hmac(digest + self.nonce + nonce_caller + attributes)
        body = struct.pack(">I", len(answer_parameters)) + answer_parameters + sized(self.nonce) + attributes + sized(proof)
        return struct.pack(">HII", 0x8002, 10 + len(body), 0) + body

    def hmac(self, data: bytes) -> bytes:
        mac = hmac.HMAC(self.key + AUTH, hashes.SHA256())
        mac.update(data)
        return mac.finalize()


def sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def started() -> tuple[HmacSession, OtherHalf]:
    other, numbers = OtherHalf(), iter(range(1, 10_000))
    ours = opening(0x81000001, PRIMARY.public_key(), ephemeral=ec.generate_private_key(ec.SECP256R1()), nonce=b"c" * 32)
    return ours.finish(other.start(ours.command), nonce=lambda size: next(numbers).to_bytes(size, "big")), other


def test_both_halves_derive_the_same_key():
    session, other = started()
    assert session.key == other.key
    assert session.handle == 0x02000007
    assert session.nonce_tpm == other.nonce


def test_a_coordinate_with_leading_zeros_keeps_its_length():
    """One ephemeral key in 256 has one; without its zeros the chip would derive another salt."""
    scalar = 1
    while ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers().x >> 248:
        scalar += 1
    ephemeral = ec.derive_private_key(scalar, ec.SECP256R1())
    other = OtherHalf()
    ours = opening(0x81000001, PRIMARY.public_key(), ephemeral=ephemeral, nonce=b"c" * 32)
    assert ours.finish(other.start(ours.command), nonce=bytes).key == other.key


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.binary(max_size=100))
def test_commands_and_answers_go_forth_and_back(answers, parameters):
    session, other = started()
    for answer in answers:
        command, nonce = session.command(SIGN, 0x80000001, NAME, parameters, auth=AUTH)
        assert session.parse(SIGN, other.serve(command, answer), nonce, auth=AUTH) == answer
    assert session.uses == len(answers)


def test_no_nonce_is_used_twice():
    session, other = started()
    nonces = []
    for _ in range(50):
        command, nonce = session.command(SIGN, 0x80000001, NAME, b"", auth=AUTH)
        nonces += [nonce, session.nonce_tpm]
        session.parse(SIGN, other.serve(command, b""), nonce, auth=AUTH)
    assert len(set(nonces)) == 100


def test_neither_auth_value_nor_session_key_is_in_a_command_or_in_what_is_shown_of_a_session():
    session, _ = started()
    command, _ = session.command(SIGN, 0x80000001, NAME, b"parameters", auth=AUTH)
    assert AUTH not in command
    assert session.key not in command
    assert repr(session.key) not in repr(session)
    assert "salt" not in repr(Opening(b"command", b"nonce", b"salt"))


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_command_with_a_bit_turned_is_not_served(place, bit):
    session, other = started()
    command, _ = session.command(SIGN, 0x80000001, NAME, b"a digest to sign", auth=AUTH)
    begin = len(command) - 16  # the parameters: what would be signed
    turned = bytearray(command)
    turned[begin + place % 16] ^= 1 << bit
    assert other.serve(bytes(turned), b"signature") is None


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_an_answer_with_a_bit_turned_is_refused_or_means_the_same(place, bit):
    session, other = started()
    command, nonce = session.command(SIGN, 0x80000001, NAME, b"digest", auth=AUTH)
    answer = bytearray(other.serve(command, b"a signature"))
    place %= len(answer)
    answer[place] ^= 1 << bit
    try:
        assert session.parse(SIGN, bytes(answer), nonce, auth=AUTH) == b"a signature"
    except TpmRefusedError as error:
        if error.code != "tampered":
            raise
    except ResponseError:
        assert 6 <= place < 10
    else:
        assert place < 2, "only the tag says nothing"


def test_the_answer_to_another_command_is_refused():
    session, other = started()
    first, nonce = session.command(SIGN, 0x80000001, NAME, b"first", auth=AUTH)
    answer = other.serve(first, b"signature of the first")
    session.parse(SIGN, answer, nonce, auth=AUTH)
    _, nonce = session.command(SIGN, 0x80000001, NAME, b"second", auth=AUTH)
    for code, found, auth in ((SIGN, nonce, AUTH), (SIGN + 1, nonce, AUTH), (SIGN, nonce, b"another")):
        with pytest.raises(TpmRefusedError) as caught:
            session.parse(code, answer, found, auth=auth)
        assert caught.value.code == "tampered"


def framed(body: bytes, rc: int = 0) -> bytes:
    return struct.pack(">HII", 0x8002, 10 + len(body), rc) + body


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_for_an_answer_are_refused(data, in_a_frame):
    answer = framed(data) if in_a_frame else data
    session, _ = started()
    ours = opening(0x81000001, PRIMARY.public_key(), ephemeral=PRIMARY, nonce=b"c" * 32)
    for read in (
        lambda: response_code(answer),
        lambda: session.parse(SIGN, answer, b"c" * 32, auth=AUTH),
        lambda: ours.finish(answer, nonce=bytes),
    ):
        try:
            read()
        except ResponseError:
            continue
        except TpmRefusedError as error:
            if error.code != "tampered":
                raise


def test_a_response_code_is_told():
    session, _ = started()
    with pytest.raises(ResponseError) as caught:
        session.parse(SIGN, framed(b"", 0x9A2), b"", auth=AUTH)
    assert caught.value.rc == 0x9A2

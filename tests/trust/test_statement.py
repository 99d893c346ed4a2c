"""Trust statements: one encoding, one signer, and nothing believed before it proved itself."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_authority import DAY, HOUR, NOW, POLICY_DIGEST, SmallAuthority

from bus.errors import RemoteProtocolError, VerificationError
from bus.protocol import codec
from bus.protocol.contexts import POLICY
from bus.trust import statement as statements
from bus.trust.certificates import Certificate, Profile

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def refused(authority, data, **changes) -> str:
    with pytest.raises((VerificationError, RemoteProtocolError)) as caught:
        authority.read(data, **changes)
    return caught.value.reason


def test_a_statement_says_what_was_signed(authority):
    data = authority.statement_bytes(agents={"ZED": (0, NOW), "ALPHA": (2, 0), "NEW": (0, 0)})
    statement = authority.read(data)
    assert (statement.domain, statement.number) == ("tpmbus.test", 5)
    assert (statement.issued_ms, statement.next_update_ms) == (NOW, NOW + HOUR)
    assert (statement.policy_version, statement.policy_digest) == (2, POLICY_DIGEST)
    assert (statement.crl_number, statement.crl_digest) == (authority.crl.number, authority.crl.digest)
    assert list(statement.agents.items()) == [("ALPHA", (2, 0)), ("ZED", (0, NOW))]
    assert statement.ml_dsa == {"DIRECTOR": bytes(32)}
    assert statement.raw == data
    assert statement.digest == hashlib.sha256(data).digest()
    assert statement.signer.profile is Profile.TRUST


def test_nothing_of_it_can_be_changed(authority):
    statement = authority.statement()
    with pytest.raises(TypeError):
        statement.agents["DIRECTOR"] = (0, 0)
    with pytest.raises(AttributeError):
        statement.number = 6


def test_what_is_read_is_encoded_the_same_again(authority):
    statement = authority.statement()
    body = codec.unpack(statement.raw, longest=4)[0]
    assert parses_or_is_malformed(authority, body) == body
    assert hashlib.sha256(body).digest() == statement.body_digest


def test_the_twin_of_an_ecdsa_signature_is_the_same_statement(authority):
    """(r, n - s) verifies too, and anybody can compute it: it must not look like a fork."""
    first = authority.statement()
    body, signer, signature, cosignature = codec.unpack(first.raw, longest=4)
    twin = signature[:48] + (P384_ORDER - int.from_bytes(signature[48:], "big")).to_bytes(48, "big")
    second = authority.read(codec.pack([body, signer, twin, cosignature]))
    assert second.digest != first.digest
    assert second.body_digest == first.body_digest


def test_without_a_pinned_ml_dsa_key_the_second_signature_is_not_looked_at(authority):
    body = authority.body()
    for cosignature in (b"", bytes(3_309)):
        assert authority.read(authority.sealed_statement(body, cosignature=cosignature), ml_dsa_root=None).number == 5


def test_a_statement_may_be_good_for_seven_days_and_not_longer(authority):
    assert authority.statement(next_update_ms=NOW + 7 * DAY).number == 5
    assert refused(authority, authority.statement_bytes(next_update_ms=NOW + 7 * DAY + 1)) == "malformed"
    assert refused(authority, authority.statement_bytes(next_update_ms=NOW - 1)) == "malformed"


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def fields_of(authority: SmallAuthority) -> list[bytes]:
    return codec.unpack(authority.statement_bytes(), longest=4)


def replaced(authority: SmallAuthority, place: int, value: object) -> bytes:
    fields = fields_of(authority)
    fields[place] = value
    return codec.pack(fields)


NOT_BELIEVED = {
    "another domain is pinned": lambda a, _: (a.statement_bytes(), {"domain": "other.test"}),
    "a statement for another domain": lambda a, _: (a.statement_bytes(domain="other.test"), {}),
    "another root is pinned": lambda a, b: (a.statement_bytes(), {"root": b.root}),
    "a signer whom a stranger certified": lambda _, b: (b.statement_bytes(), {"ml_dsa_root": b.ml_dsa.public}),
    "a stranger who shows the right certificate": lambda a, b: (b.sealed_statement(a.body(), signer=a.signer), {}),
    "an agent's certificate signs": lambda a, _: (a.sealed_statement(a.body(), signer=a.certificate(Profile.AGENT)), {}),
    "a broker's certificate signs": lambda a, _: (a.sealed_statement(a.body(), signer=a.certificate(Profile.BROKER)), {}),
    "a certificate that is none": lambda a, _: (a.sealed_statement(a.body(), signer=b"\x30\x00"), {}),
    "a signature of zeros": lambda a, _: (a.sealed_statement(a.body(), signature=bytes(96)), {}),
    "a flipped bit of the signature": lambda a, _: (replaced(a, 2, flip(fields_of(a)[2], 50)), {}),
    "a flipped bit of the body": lambda a, _: (replaced(a, 0, flip(fields_of(a)[0], 5)), {}),
    "signed for another purpose": lambda a, _: (a.sealed_statement(a.body(), signature=a.sign_trust(POLICY + a.body())), {}),
    "signed without a purpose": lambda a, _: (a.sealed_statement(a.body(), signature=a.sign_trust(a.body())), {}),
    "the co-signature stripped": lambda a, _: (a.sealed_statement(a.body(), cosignature=b""), {}),
    "a co-signature by a stranger": lambda a, b: (
        a.sealed_statement(a.body(), cosignature=b.ml_dsa.sign(statements.tbs(a.body()))),
        {},
    ),
    "the co-signature of another statement": lambda a, _: (
        a.sealed_statement(a.body(), cosignature=a.ml_dsa.sign(statements.tbs(a.body(number=6)))),
        {},
    ),
    "issued after the signer's certificate ended": lambda a, _: (
        a.sealed_statement(a.body(issued_ms=NOW + 2 * DAY, next_update_ms=NOW + 2 * DAY), signer=a.certificate(days=1)),
        {},
    ),
    "issued before the signer's certificate began": lambda a, _: (
        a.statement_bytes(issued_ms=NOW - HOUR - 60_001, next_update_ms=NOW),
        {},
    ),
}


@pytest.mark.parametrize("case", NOT_BELIEVED)
def test_nobody_else_is_believed(authority, stranger, case):
    data, changes = NOT_BELIEVED[case](authority, stranger)
    assert refused(authority, data, **changes) == "untrusted"


def body_with(authority: SmallAuthority, place: int, value: object) -> bytes:
    fields = codec.unpack(authority.body(), longest=1_000)
    fields[place] = value
    return authority.sealed_statement(codec.pack(fields))


MALFORMED = {
    "nothing": lambda _: b"",
    "too long": lambda _: bytes(statements.MAX_STATEMENT_BYTES + 1),
    "too few fields": lambda a: codec.pack(fields_of(a)[:3]),
    "too many fields": lambda a: codec.pack([*fields_of(a), b""]),
    "with a tail": lambda a: a.statement_bytes() + b"\x00",
    "cut short": lambda a: a.statement_bytes()[:-1],
    "a body that is text": lambda a: replaced(a, 0, "text"),
    "a signer that is a number": lambda a: replaced(a, 1, 1),
    "a signer that is too long": lambda a: replaced(a, 1, bytes(statements.MAX_SIGNER_BYTES + 1)),
    "a signature in DER": lambda a: replaced(a, 2, bytes(104)),
    "a co-signature of another length": lambda a: replaced(a, 3, bytes(3_308)),
    "signed, and no array": lambda a: a.sealed_statement(b"\x01"),
    "signed, with a field too many": lambda a: a.sealed_statement(codec.pack([*codec.unpack(a.body(), longest=100), 0])),
    "signed, not in shortest form": lambda a: a.sealed_statement(a.body().replace(b"\x05", b"\xcc\x05", 1)),
    "a domain that is bytes": lambda a: body_with(a, 0, b"tpmbus.test"),
    "number 0": lambda a: body_with(a, 1, 0),
    "a negative number": lambda a: body_with(a, 1, -1),
    "a number that is true": lambda a: body_with(a, 1, True),
    "a short policy digest": lambda a: body_with(a, 5, bytes(31)),
    "a short digest of the list": lambda a: body_with(a, 7, bytes(33)),
    "agents that are no list": lambda a: body_with(a, 8, 0),
    "an agent of two fields": lambda a: body_with(a, 8, [["A", 1]]),
    "agents out of order": lambda a: body_with(a, 8, [["B", 1, 0], ["A", 1, 0]]),
    "an agent twice": lambda a: body_with(a, 8, [["A", 1, 0], ["A", 2, 0]]),
    "an agent of whom there is nothing to say": lambda a: body_with(a, 8, [["A", 0, 0]]),
    "an agent in small letters": lambda a: body_with(a, 8, [["a", 1, 0]]),
    "an agent without a name": lambda a: body_with(a, 8, [["", 1, 0]]),
    "a generation out of range": lambda a: body_with(a, 8, [["A", 1 << 32, 0]]),
    "hashes out of order": lambda a: body_with(a, 9, [["B", bytes(32)], ["A", bytes(32)]]),
    "a short hash": lambda a: body_with(a, 9, [["A", bytes(31)]]),
    "too many agents": lambda a: body_with(a, 9, [0] * (statements.MAX_AGENTS + 1)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_has_another_form_is_malformed(authority, case):
    assert refused(authority, MALFORMED[case](authority)) == "malformed"


def test_a_body_that_is_too_long_is_not_even_unpacked(authority):
    with pytest.raises(RemoteProtocolError):
        statements.parse_body(bytes(statements.MAX_STATEMENT_BYTES + 1), signer=authority.statement().signer, raw=b"")


def test_ten_thousand_agents_fit(authority):
    agents = {f"AGENT{number}": (1, NOW) for number in range(10_000)}
    statement = authority.statement(agents=agents, ml_dsa=dict.fromkeys(agents, bytes(32)))
    assert len(statement.agents) == len(statement.ml_dsa) == 10_000


def test_every_flipped_bit_of_what_is_signed_is_refused(authority):
    data = authority.statement_bytes()
    for place in range(0, len(data), 37):
        assert refused(authority, flip(data, place)) in ("untrusted", "malformed")


@given(data=st.binary(max_size=300))
def test_any_bytes_are_malformed_or_encode_the_same_again(authority, data):
    assert parses_or_is_malformed(authority, data) in (data, None)


@given(
    number=st.integers(0, 1 << 64),
    times=st.tuples(st.integers(0, 1 << 64), st.integers(-1, 8 * DAY)),
    agents=st.lists(st.tuples(st.sampled_from(["A", "B", "b", ""]), st.integers(-1, 1 << 33), st.integers(0, 5)), max_size=4),
    hashes=st.lists(st.tuples(st.sampled_from(["A", "B"]), st.binary(min_size=31, max_size=32)), max_size=3),
)
def test_what_is_almost_a_body_is_malformed_or_encodes_the_same_again(authority, number, times, agents, hashes):
    try:
        data = codec.pack(["d", number, times[0], sum(times), 1, bytes(32), 1, bytes(32), agents, hashes])
    except (OverflowError, ValueError):  # a number that msgpack does not have
        return
    assert parses_or_is_malformed(authority, data) in (data, None)


def parses_or_is_malformed(authority: SmallAuthority, data: bytes) -> bytes | None:
    """What was parsed, encoded again; None if it was refused."""
    try:
        found = statements.parse_body(data, signer=signer_of(authority), raw=data)
    except RemoteProtocolError as error:
        assert error.reason == "malformed"  # noqa: PT017  both ends are right
        return None
    return statements.body_bytes(
        domain=found.domain,
        number=found.number,
        issued_ms=found.issued_ms,
        next_update_ms=found.next_update_ms,
        policy=(found.policy_version, found.policy_digest),
        crl=(found.crl_number, found.crl_digest),
        agents=found.agents,
        ml_dsa=found.ml_dsa,
    )


@cache
def signer_of(authority: SmallAuthority) -> Certificate:
    return authority.statement().signer

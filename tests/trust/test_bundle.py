"""Signed policy: the root's word alone, over the files as their author wrote them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_authority import NOW, SmallAuthority

from bus.errors import PolicyError, RemoteProtocolError, VerificationError
from bus.protocol import codec
from bus.protocol.contexts import TRUST
from bus.trust import bundle as bundles

FLEET = b"version: 1\ndomain: tpmbus.test\nagents: ../agents/roster.yaml\nroles:\n  x:\n    key: ecc256/sha256\n"
ROSTER = b"version: 1\nagents:\n  DIRECTOR: x\n"
FILES = {"policies/fleet.yaml": FLEET, "agents/roster.yaml": ROSTER}


def body(**changes) -> bytes:
    facts = {"domain": "tpmbus.test", "version": 2, "made_ms": NOW, "files": FILES}
    return bundles.body_bytes(**(facts | changes))


def refused(authority, data, **changes) -> str:
    with pytest.raises((VerificationError, RemoteProtocolError)) as caught:
        authority.read_bundle(data, **changes)
    return caught.value.reason


def test_a_bundle_holds_the_files_as_they_were(authority):
    bundle = authority.bundle(files=FILES)
    assert (bundle.domain, bundle.version, bundle.made_ms) == ("tpmbus.test", 2, NOW)
    assert list(bundle.files.items()) == sorted(FILES.items())
    assert bundle.digest == hashlib.sha256(codec.unpack(bundle.raw, longest=3)[0]).digest()


def test_everybody_reads_the_same_policy_out_of_it_roster_included(authority):
    policy = authority.bundle(files=FILES).policy()
    assert policy.domain == "tpmbus.test"
    assert policy.agents == {"DIRECTOR": "x"}


def test_two_signatures_of_the_same_files_are_the_same_policy(authority):
    first, second = authority.bundle(), authority.bundle()
    assert first.raw != second.raw
    assert first.digest == second.digest


def test_what_was_signed_and_is_no_policy_does_not_load(authority):
    with pytest.raises(PolicyError):
        authority.bundle(files={"policy.yaml": b"nonsense"}).policy()


def test_files_for_another_domain_than_the_one_that_is_signed_are_not_believed(authority):
    with pytest.raises(VerificationError) as caught:
        authority.bundle(files={"policy.yaml": b"version: 1\ndomain: other.test\n"}).policy()
    assert caught.value.reason == "untrusted"


def test_without_a_pinned_ml_dsa_key_the_second_signature_is_not_looked_at(authority):
    assert authority.read_bundle(authority.sealed_bundle(body(), cosignature=b""), ml_dsa_root=None).version == 2


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def by_trust_signer(a: SmallAuthority) -> bytes:
    """The whole of what the trust signer can make: its signature is shorter, so it is not even of the right form."""
    return a.sealed_bundle(body(), signature=a.sign_trust(bundles.tbs(body())))


NOT_BELIEVED = {
    "another domain is pinned": lambda a, _: (a.sealed_bundle(body()), {"domain": "other.test"}),
    "a policy for another domain": lambda a, _: (a.sealed_bundle(body(domain="other.test")), {}),
    "another root is pinned": lambda a, b: (a.sealed_bundle(body()), {"root": b.root}),
    "a stranger signed": lambda a, b: (a.sealed_bundle(body(), signature=b.sign_root(bundles.tbs(body()))), {}),
    "a signature of zeros": lambda a, _: (a.sealed_bundle(body(), signature=bytes(512)), {}),
    "the trust signer's signature, made as long": lambda a, _: (
        a.sealed_bundle(body(), signature=a.sign_trust(bundles.tbs(body())).ljust(512, b"\0")),
        {},
    ),
    "signed for another purpose": lambda a, _: (a.sealed_bundle(body(), signature=a.sign_root(TRUST + body())), {}),
    "signed without a purpose": lambda a, _: (a.sealed_bundle(body(), signature=a.sign_root(body())), {}),
    "the signature of an older version": lambda a, _: (
        a.sealed_bundle(body(), signature=a.sign_root(bundles.tbs(body(version=1)))),
        {},
    ),
    "the co-signature stripped": lambda a, _: (a.sealed_bundle(body(), cosignature=b""), {}),
    "a co-signature by a stranger": lambda a, b: (a.sealed_bundle(body(), cosignature=b.ml_dsa.sign(bundles.tbs(body()))), {}),
}


@pytest.mark.parametrize("case", NOT_BELIEVED)
def test_nobody_but_the_root_makes_policy(authority, stranger, case):
    data, changes = NOT_BELIEVED[case](authority, stranger)
    assert refused(authority, data, **changes) == "untrusted"


def test_the_trust_signer_cannot_sign_policy(authority):
    assert refused(authority, by_trust_signer(authority)) == "malformed"


def sealed(authority: SmallAuthority, *fields: object) -> bytes:
    return authority.sealed_bundle(codec.pack(fields))


MALFORMED = {
    "nothing": lambda _: b"",
    "too long": lambda _: bytes(bundles.MAX_BUNDLE_BYTES + 1),
    "with a tail": lambda a: a.sealed_bundle(body()) + b"\x00",
    "cut short": lambda a: a.sealed_bundle(body())[:-1],
    "a signature too many": lambda a: codec.pack([*codec.unpack(a.sealed_bundle(body()), longest=3), b""]),
    "a body that is a number": lambda _: codec.pack([1, bytes(512), b""]),
    "a co-signature of another length": lambda a: a.sealed_bundle(body(), cosignature=bytes(5)),
    "another form": lambda a: sealed(a, 2, "tpmbus.test", 2, NOW, [["a", b""]]),
    "version 0": lambda a: sealed(a, 1, "tpmbus.test", 0, NOW, [["a", b""]]),
    "a time that is text": lambda a: sealed(a, 1, "tpmbus.test", 1, "now", [["a", b""]]),
    "a domain that is bytes": lambda a: sealed(a, 1, b"tpmbus.test", 1, NOW, [["a", b""]]),
    "no files": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, []),
    "files that are no list": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, 1),
    "a file that is no pair": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [["a"]]),
    "a file of text": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [["a", "text"]]),
    "files out of order": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [["b", b""], ["a", b""]]),
    "a file twice": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [["a", b""], ["a", b""]]),
    "too many files": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [[f"{n:04}", b""] for n in range(bundles.MAX_FILES + 1)]),
    "a path that is bytes": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [[b"a", b""]]),
    "a path outside": lambda a: sealed(a, 1, "tpmbus.test", 1, NOW, [["../a", b""]]),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_has_another_form_is_malformed(authority, case):
    assert refused(authority, MALFORMED[case](authority)) == "malformed"


BAD_PATHS = ["", "/a", "a/", "a//b", ".", "./a", "a/./b", "..", "a/../b", "a\\b", "é", "a\nb", "a\0b", "a" * 256]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_is_relative_normalised_ascii(authority, path):
    assert bundles.path_fault(path)
    assert refused(authority, sealed(authority, 1, "tpmbus.test", 1, NOW, [[path, b""]])) == "malformed"
    with pytest.raises(ValueError, match=r"path|character|relative"):
        body(files={path: b""})


@pytest.mark.parametrize("path", ["a", "policies/a b.yaml", "..a/b..", "agents=", "a" * 255])
def test_paths_that_are_fine(path):
    assert bundles.path_fault(path) is None


def test_what_no_reader_would_take_is_not_made():
    for files in ({}, {f"{number}": b"" for number in range(bundles.MAX_FILES + 1)}, {"a": bytes(bundles.MAX_BUNDLE_BYTES)}):
        with pytest.raises(ValueError, match="a bundle has"):
            body(files=files)


def test_the_largest_bundle_that_is_made_is_read(authority):
    room = bundles.MAX_BUNDLE_BYTES - bundles.ROOM_FOR_SIGNATURES - len(body(files={"a": b""})) - 4
    assert len(authority.bundle(files={"a": bytes(room)}).files["a"]) == room


def test_a_body_that_is_too_long_is_not_even_unpacked():
    with pytest.raises(RemoteProtocolError):
        bundles.parse_body(bytes(bundles.MAX_BUNDLE_BYTES + 1), raw=b"")


@given(data=st.binary(max_size=200))
def test_any_bytes_are_malformed_or_encode_the_same_again(data):
    assert parses_or_is_malformed(data) in (data, None)


@given(version=st.integers(0, 3), rows=st.lists(st.tuples(st.sampled_from(["a", "b", "b/c", "..", ""]), st.binary()), max_size=4))
def test_what_is_almost_a_body_is_malformed_or_encodes_the_same_again(version, rows):
    data = codec.pack([1, "d", version, 5, rows])
    assert parses_or_is_malformed(data) in (data, None)


def parses_or_is_malformed(data: bytes) -> bytes | None:
    """What was parsed, encoded again; None if it was refused."""
    try:
        found = bundles.parse_body(data, raw=data)
    except RemoteProtocolError as error:
        assert error.reason == "malformed"  # noqa: PT017  both ends are right
        return None
    return bundles.body_bytes(domain=found.domain, version=found.version, made_ms=found.made_ms, files=found.files)


def test_a_flipped_bit_anywhere_is_refused(authority):
    data = authority.sealed_bundle(body())
    for place in range(0, len(data), 41):
        assert refused(authority, flip(data, place)) in ("untrusted", "malformed")

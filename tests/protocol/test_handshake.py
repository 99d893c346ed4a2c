"""The handshake: what may happen when, what the hellos hold, and what both sides sign."""

from __future__ import annotations

import hashlib
import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from bus.errors import LocalProtocolError, RemoteProtocolError, VerificationError
from bus.protocol import handshake, signatures
from bus.protocol.codec import pack
from bus.protocol.handshake import (
    BROKER,
    HOST,
    MAX_HELLO_BYTES,
    REFUSE,
    Event,
    HelloA,
    HelloB,
    Limits,
    State,
    agent_tbs,
    broker_tbs,
    choose,
    diagram,
    step,
    told,
    transcript,
)

PAGE = Path(__file__).parent.parent.parent / "docs" / "spec" / "handshake.md"
A = HelloA((1,), b"a" * 32, (b"papers of DIRECTOR", b"papers of MONITOR"))
B = HelloB(1, b"b" * 32, b"papers of BROKER", Limits(), 1_800_000_000_000)

# ---- the table -----------------------------------------------------------------------------------------------------------------

ORDER = {
    "host": (HOST, [Event.SEND_HELLO_A, Event.RECEIVE_HELLO_B, Event.RECEIVE_PROVE, Event.SEND_PROVE]),
    "broker": (BROKER, [Event.RECEIVE_HELLO_A, Event.SEND_HELLO_B, Event.SEND_PROVE, Event.RECEIVE_PROVE]),
}


@pytest.mark.parametrize("side", ORDER)
def test_a_link_opens_in_one_order_and_no_other(side):
    table, order = ORDER[side]
    ways = [way for length in range(6) for way in product([*Event], repeat=length) if opens(table, way)]
    assert ways == [tuple(order)]


def opens(table: handshake.Table, way: tuple[Event, ...]) -> bool:
    state = State.START
    try:
        for event in way:
            state = step(table, state, event)
    except (LocalProtocolError, RemoteProtocolError):
        return False
    return state is State.OPEN


@pytest.mark.parametrize("side", ORDER)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_cannot_be_now_is_the_fault_of_whoever_does_it(side, state, event):
    table, _ = ORDER[side]
    if event in table[state]:
        assert step(table, state, event) is table[state][event]
    elif event.startswith("receive"):
        with pytest.raises(RemoteProtocolError) as refused:
            step(table, state, event)
        assert refused.value.reason == "malformed"
    else:
        with pytest.raises(LocalProtocolError):
            step(table, state, event)


@pytest.mark.parametrize("table", [HOST, BROKER], ids=["host", "broker"])
def test_whatever_fails_closes_until_the_link_is_open(table):
    assert {*table} == {*State}
    for state, moves in table.items():
        assert moves.get(Event.FAIL) is (None if state in (State.OPEN, State.CLOSED) else State.CLOSED)


def test_the_host_signs_nothing_before_the_broker_proved_itself():
    assert [state for state, moves in HOST.items() if Event.SEND_PROVE in moves] == [State.PROVED]
    assert [state for state, moves in HOST.items() if State.PROVED in moves.values()] == [State.ANSWERED]
    assert HOST[State.ANSWERED][Event.RECEIVE_PROVE] is State.PROVED


def test_both_sides_fit_together():
    """What one sends, in its order, is what the other receives in its own."""
    crossed = [event.replace("send", "x").replace("receive", "send").replace("x", "receive") for event in ORDER["host"][1]]
    assert crossed == ORDER["broker"][1]


def test_the_pictures_in_the_specification_are_drawn_from_the_tables():
    assert re.findall(r"^```mermaid\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL) == [diagram(HOST), diagram(BROKER)]


def test_the_specification_lists_the_codes_and_the_limits():
    text = PAGE.read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [*REFUSE]
    for number in (handshake.MAX_VERSIONS, handshake.MAX_PAPERS, handshake.MAX_HELLO_BYTES, handshake.MAX_SECONDS):
        assert f"{number:,}" in text


# ---- the hellos ----------------------------------------------------------------------------------------------------------------


def test_a_hello_survives_its_journey():
    assert HelloA.parse(A.encode()) == A
    assert HelloB.parse(B.encode()) == B
    assert A.encode() == pack([[1], b"a" * 32, [b"papers of DIRECTOR", b"papers of MONITOR"]])
    assert B.encode() == pack([1, b"b" * 32, b"papers of BROKER", [1 << 20, 1_024, 65_536, 65_536], 1_800_000_000_000])


def test_versions_of_the_future_are_no_fault_of_an_older_peer():
    assert HelloA.parse(A._replace(versions=(1, 2, 200)).encode()).versions == (1, 2, 200)
    assert choose((1, 2, 200)) == 1


def test_without_a_common_version_both_sides_say_so():
    for refuse in (lambda: choose((2, 3)), lambda: HelloB.parse(B._replace(version=2).encode())):
        with pytest.raises(RemoteProtocolError) as refused:
            refuse()
        assert (refused.value.reason, told(refused.value.reason)) == ("version", "version")


BAD_A = {
    "no array": pack(b"hello"),
    "too few fields": pack([[1], b"a" * 32]),
    "too many fields": pack([[1], b"a" * 32, [b"p"], 0]),
    "no versions": pack([[], b"a" * 32, [b"p"]]),
    "version 0": pack([[0, 1], b"a" * 32, [b"p"]]),
    "versions descending": pack([[2, 1], b"a" * 32, [b"p"]]),
    "a version twice": pack([[1, 1], b"a" * 32, [b"p"]]),
    "a version that is no number": pack([["1"], b"a" * 32, [b"p"]]),
    "a version of 256": pack([[1, 256], b"a" * 32, [b"p"]]),
    "a version that is true": pack([[True], b"a" * 32, [b"p"]]),
    "17 versions": pack([[*range(1, 18)], b"a" * 32, [b"p"]]),
    "a short nonce": pack([[1], b"a" * 31, [b"p"]]),
    "a nonce of text": pack([[1], "a" * 32, [b"p"]]),
    "no papers": pack([[1], b"a" * 32, []]),
    "papers that are not in an array": pack([[1], b"a" * 32, b"p"]),
    "empty papers": pack([[1], b"a" * 32, [b"p", b""]]),
    "papers of text": pack([[1], b"a" * 32, ["p"]]),
    "papers of 1,025 agents": pack([[1], b"a" * 32, [b"p"] * 1_025]),
    "more than 1 MiB": pack([[1], b"a" * 32, [b"p" * MAX_HELLO_BYTES]]),
    "a tail": A.encode() + b"\0",
}
BAD_B = {
    "the other hello": A.encode(),
    "too few fields": pack([*B[:4]]),
    "a version of 256": pack([256, *B[1:]]),
    "a version that is no number": pack([[1], *B[1:]]),
    "a short nonce": pack([1, b"b" * 31, *B[2:]]),
    "empty papers": pack([1, B.nonce, b"", B.limits, 0]),
    "limits of three": pack([1, B.nonce, b"p", [1 << 20, 1, 1], 0]),
    "an envelope over the protocol's limit": pack([1, B.nonce, b"p", [(1 << 20) + 1, 1, 1, 1], 0]),
    "an envelope that no header fits in": pack([1, B.nonce, b"p", [1_024, 1, 1, 1], 0]),
    "too many records": pack([1, B.nonce, b"p", [1 << 20, 1_025, 1, 1], 0]),
    "no records": pack([1, B.nonce, b"p", [1 << 20, 0, 1, 1], 0]),
    "no topics": pack([1, B.nonce, b"p", [1 << 20, 1, 0, 1], 0]),
    "no subscriptions": pack([1, B.nonce, b"p", [1 << 20, 1, 1, 0], 0]),
    "too many subscriptions": pack([1, B.nonce, b"p", [1 << 20, 1, 1, 1 << 32], 0]),
    "a time before all times": pack([*B[:4], -1]),
    "a time with a fraction": pack([*B[:4], 1.5]),
    "more than 1 MiB": pack([1, B.nonce, b"p" * MAX_HELLO_BYTES, B.limits, 0]),
}


@pytest.mark.parametrize("case", BAD_A)
def test_what_is_no_hello_of_a_host_is_malformed(case):
    with pytest.raises(RemoteProtocolError) as refused:
        HelloA.parse(BAD_A[case])
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("case", BAD_B)
def test_what_is_no_hello_of_a_broker_is_malformed(case):
    with pytest.raises(RemoteProtocolError) as refused:
        HelloB.parse(BAD_B[case])
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize(("parse", "good"), [(HelloA.parse, A.encode()), (HelloB.parse, B.encode())])
def test_a_hello_that_is_cut_anywhere_is_malformed(parse, good):
    for cut in range(len(good)):
        with pytest.raises(RemoteProtocolError):
            parse(good[:cut])


@given(st.binary(max_size=120))
def test_any_bytes_parse_or_are_malformed(data):
    for parse in (HelloA.parse, HelloB.parse):
        try:
            hello = parse(data)
        except RemoteProtocolError:
            continue
        assert hello.encode() == data


# ---- what is signed ------------------------------------------------------------------------------------------------------------

LEAVES = {"server_leaf": b"DER of the server's", "client_leaf": b"DER of the client's"}


def test_the_transcript_is_that_of_the_specification():
    a, b = A.encode(), B.encode()
    assert transcript(a, b) == hashlib.sha256(b"tpmbus/1 hello" + a + b + bytes(64)).digest()
    server, client = (hashlib.sha256(leaf).digest() for leaf in LEAVES.values())
    assert transcript(a, b, **LEAVES) == hashlib.sha256(b"tpmbus/1 hello" + a + b + server + client).digest()


def test_any_change_on_the_way_is_another_transcript():
    a, b = A.encode(), B.encode()
    others = {
        transcript(a, b),
        transcript(a, b, **LEAVES),
        transcript(a, b, **LEAVES | {"server_leaf": b"of another broker"}),
        transcript(a, b, server_leaf=LEAVES["client_leaf"], client_leaf=LEAVES["server_leaf"]),
        transcript(A._replace(versions=(1, 2)).encode(), b),
        transcript(a, B._replace(time_ms=0).encode()),
        transcript(b, a),
    }
    assert len(others) == 7


def test_tls_has_a_certificate_on_both_sides():
    for side, leaf in LEAVES.items():
        with pytest.raises(ValueError, match="both sides"):
            transcript(b"", b"", **{side: leaf})


def test_a_signature_cannot_be_sent_back_to_whom_it_came_from():
    key = SigningKey(b"k" * 32)
    t = transcript(A.encode(), B.encode())
    signature = key.sign(broker_tbs(t)).signature
    signatures.verify_host(bytes(key.verify_key), broker_tbs(t), signature)
    with pytest.raises(VerificationError) as refused:
        signatures.verify_host(bytes(key.verify_key), agent_tbs(t), signature)
    assert refused.value.reason == "bad_proof"


# ---- what a peer is told -------------------------------------------------------------------------------------------------------

PRECISE = {
    "malformed": "malformed",
    "version": "version",
    "not_permitted": "not_permitted",
    "wrong_signer": "not_permitted",
    "unsolicited": "not_permitted",
    "too_many_epochs": "busy",
    "ledger_full": "busy",
    "too_slow": "busy",
    "revoked": "unverified",
    "untrusted": "unverified",
    "bad_seal": "unverified",
    "bad_proof": "unverified",
    "replayed": "unverified",
    "a reason that is made one day": "unverified",
}


@pytest.mark.parametrize("reason", PRECISE)
def test_a_peer_learns_no_more_than_it_must(reason):
    assert told(reason) == PRECISE[reason]
    assert told(reason) in REFUSE

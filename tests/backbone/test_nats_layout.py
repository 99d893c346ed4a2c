"""Names on NATS, and what is made of whatever comes from there: no word of a server raises, and what is none of ours is None."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.backbone.interface import DEAD, ConsumerName, DeadLetter, Entry
from bus.backbone.nats.connection import Arrived, UnansweredError
from bus.backbone.nats.jetstream import ApiError, Kept, count, parse_answer, subjects
from bus.backbone.nats.layout import (
    CONSUMER,
    DIED,
    EXPIRES,
    ID,
    ORIGINAL,
    SENDER,
    SPARE_MS,
    TOPIC,
    Given,
    Names,
    consumer_of,
    message_id,
    number,
    parse_reply,
    question,
    ttl,
)
from bus.backbone.nats.records import outgoing, parse_dead, parse_record, parse_requeued, requeued
from bus.protocol.codec import pack
from bus.protocol.topics import matches

NAMES = Names("tpmbus")
CLASS = "work.>"
OLD = "$JS.ACK.stream.MONITOR=inbox.2.77.5.1700000000000000000.3"
NEW = "$JS.ACK.hub.ACCOUNT.stream.MONITOR=inbox.2.77.5.1700000000000000000.3.token"
TOKENS = st.text("abcXYZ019-_", min_size=1, max_size=8)
TOPICS = st.lists(TOKENS.filter(lambda token: token[0] != "_"), min_size=1, max_size=4).map(".".join)
ANYTHING = st.text(max_size=40) | st.sampled_from([OLD, NEW, "", ".", "$JS.ACK.a.b.1.1.1.1.1", "$JS.ACK.a.b.-1.x.1.1.1", "1" * 40])
HEADERS = st.dictionaries(st.sampled_from([EXPIRES, ORIGINAL, TOPIC, SENDER, ID, CONSUMER, DIED]), ANYTHING | st.just("5"))


@given(TOPICS)
def test_a_topic_comes_back_from_its_subject(topic):
    assert NAMES.topic(CLASS, NAMES.record(CLASS, topic)) == topic
    assert NAMES.topic(CLASS, NAMES.dead(CLASS, topic)) == DEAD + topic
    assert NAMES.topic("other.>", NAMES.record(CLASS, topic)) is None


@given(TOPICS, st.sampled_from(["work.>", "*", ">", "a.*", "*.b.>"]))
def test_no_filter_of_records_reaches_a_dead_letter_or_what_was_requeued(topic, pattern):
    wanted = NAMES.filter(CLASS, pattern)
    assert not _nats_matches(wanted, NAMES.dead(CLASS, topic))
    assert not _nats_matches(wanted, NAMES.requeued(CLASS, ConsumerName("MONITOR", "inbox")))
    assert _nats_matches(wanted, NAMES.record(CLASS, topic)) == matches(pattern, topic)
    assert _nats_matches(NAMES.filter(CLASS, DEAD + pattern), NAMES.dead(CLASS, topic)) == matches(pattern, topic)


def _nats_matches(filter_: str, subject: str) -> bool:
    """As NATS does it: a wildcard stands for any token."""
    wanted, tokens = filter_.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else []
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))


def test_classes_have_streams_of_their_own():
    names = {NAMES.stream(class_) for class_ in ("work.>", "work.*", "work", "Work.>", "*.work", "work-.>")}
    assert len(names) == 6
    assert not any(set(name) & set(".*> /\\") for name in names)


@pytest.mark.parametrize("reply", [OLD, NEW], ids=["2.9", "newer, with a domain"])
def test_a_reply_subject_says_which_record_it_is_and_how_often(reply):
    assert parse_reply(reply) == Given(seq=77, deliveries=2)
    assert parse_reply(question(reply)) == Given(seq=(1 << 63) - 1, deliveries=2)
    assert consumer_of(question(reply)) == consumer_of(reply)


def test_parts_of_a_message_id_are_not_run_together():
    assert len({message_id("a", "bc"), message_id("ab", "c"), message_id("abc"), message_id("a", "b", "c")}) == 4


@given(st.text(max_size=30))
def test_a_number_is_decimal_and_fits(text):
    assert 0 <= number(text) < 1 << 63


TIMES = st.integers(0, 1 << 48)


@given(TIMES, TIMES, st.integers(1_000, 1 << 40))
def test_servers_keep_a_record_for_a_day_after_its_time_at_least_and_at_most_a_second_longer(expires_ms, now_ms, kept_ms):
    said = ttl(expires_ms, now_ms, kept_ms)
    until_ms = max(expires_ms + SPARE_MS, now_ms + 1)
    if said:
        seconds = number(said.removesuffix("s"))
        assert seconds >= 1
        assert until_ms <= now_ms + seconds * 1000 < until_ms + 1000
        assert seconds * 1000 < kept_ms
    else:
        assert until_ms - now_ms > kept_ms - 1000


def test_a_record_comes_back_from_its_message():
    entry = Entry(CLASS, "work.a", "DIRECTOR", bytes(16), 1_700_000_000_000, b"envelope")
    sent = outgoing(entry, NAMES)
    record = parse_record(Arrived(sent.subject, OLD, 0, "", sent.headers, sent.data), CLASS, NAMES)
    assert record == (77, 77, 2, "work.a", 1_700_000_000_000, b"envelope")
    letter = DeadLetter(CLASS, 90, "work.a", "DIRECTOR", bytes(16), ConsumerName("MONITOR", "inbox"), 5, "bad", 1, 1)
    again = requeued(Kept(5, sent.subject, sent.headers, sent.data), letter, NAMES)
    assert parse_requeued(Arrived(again.subject, OLD, 0, "", again.headers, again.data), CLASS, NAMES) == (
        5,
        77,
        2,
        "work.a",
        1_700_000_000_000,
        b"envelope",
    )


@given(ANYTHING, ANYTHING, HEADERS, st.binary(max_size=40), st.integers(0, 999))
def test_whatever_a_server_hands_out_is_a_record_of_this_class_or_nothing(subject, reply, headers, data, status):
    for one in (subject, NAMES.record(CLASS, "work.a"), NAMES.record(CLASS, subject)):
        arrived = Arrived(one, reply, status, "", headers, data)
        for record in (parse_record(arrived, CLASS, NAMES), parse_requeued(arrived, CLASS, NAMES)):
            assert record is None or (record.position > 0 and record.deliveries > 0 and record.expires_ms > 0 and record.topic)


@given(ANYTHING, HEADERS, st.binary(max_size=40) | st.just(pack(["bad", 1, b"original"])))
def test_whatever_lies_among_the_dead_letters_is_one_or_nothing(subject, headers, data):
    for one in (subject, NAMES.dead(CLASS, "work.a"), NAMES.dead(CLASS, subject)):
        letter = parse_dead(Kept(7, one, headers, data), CLASS, NAMES)
        assert letter is None or (letter.reason == "bad" and letter.original > 0 and letter.died_ms > 0)


@given(
    st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b"1", b'{"error":1}', b'{"error":{"err_code":"x"}}', b'{"error":null}'])
)
def test_whatever_is_answered_is_an_object_or_an_error_of_ours(data):
    with suppress(ApiError, UnansweredError):
        assert type(parse_answer(data)) is dict


def test_an_answer_that_nests_without_end_is_none():
    with pytest.raises(UnansweredError):
        parse_answer(b'{"a":' + b"[" * 1_000_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["state", "subjects", "last_seq", "x"]), inner),
)


@given(st.dictionaries(st.sampled_from(["state", "x"]), JSON))
def test_numbers_are_read_from_whatever_is_answered(answer):
    assert 0 <= count(answer, "state", "last_seq") < 1 << 63
    assert all(type(name) is str and type(number) is int for name, number in subjects(answer).items())

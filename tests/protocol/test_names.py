from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.protocol.names import is_agent_name, pattern_fault, topic_fault


@pytest.mark.parametrize("name", ["A", "Z", "DIRECTOR", "A1", "A" * 32, "C3PO"])
def test_agent_names(name):
    assert is_agent_name(name)


@pytest.mark.parametrize(
    "name", ["", "a", "1A", "A-B", "A_B", "A.B", "A" * 33, "A ", " A", "A\n", "Ä", "\u0410", "A\u0663", "A\0", "*", "\uff21"]
)
def test_no_agent_names(name):
    assert not is_agent_name(name)


TOPICS = ["a", "tasks.build", "A.b-c.d_e.0", "x" * 64, ".".join(["t"] * 16), ".".join(["x" * 31] * 16), "-", "a_", "1"]


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_are_patterns_too(topic):
    assert topic_fault(topic) is None
    assert pattern_fault(topic) is None


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "a.>", "*.a.*", "*.>", "a.*.b.>", ".".join(["*"] * 15 + [">"])])
def test_patterns_are_no_topics(pattern):
    assert pattern_fault(pattern) is None
    assert topic_fault(pattern) is not None


FAULTS = {
    "": "token ''",
    ".": "token ''",
    "a.": "token ''",
    ".a": "token ''",
    "a..b": "token ''",
    "a b": "token 'a b'",
    "a\n": r"token 'a\n'",
    "ä": "token 'ä'",
    "a.b/c": "token 'b/c'",
    "x" * 65: "a token is 1 to 64",
    "_reply.X": "reserved",
    "a._b": "reserved",
    "_": "reserved",
    ".".join(["t"] * 17): "more than 16 tokens",
    ".".join(["x" * 63] * 9): "longer than 512 bytes",
    "ä" * 513: "longer than 512 bytes",
    "a*": "token 'a*'",
    "a.b>": "token 'b>'",
    "**": "token '**'",
    ">>": "token '>>'",
}


@pytest.mark.parametrize(("text", "fault"), FAULTS.items())
def test_faults_of_both(text, fault):
    for said in (topic_fault(text), pattern_fault(text)):
        assert said is not None
        assert fault in said


@pytest.mark.parametrize("pattern", [">.a", "a.>.b", ">.>", "*.>.*"])
def test_rest_stands_at_the_end_only(pattern):
    assert "before its end" in (pattern_fault(pattern) or "")


def test_half_a_surrogate_pair_is_a_fault():
    assert topic_fault("\ud800") is not None


@given(st.text())
def test_any_text_is_a_topic_or_has_a_fault(text):
    valid = len(text.encode("utf-8", "surrogatepass")) <= 512 and len(tokens := text.split(".")) <= 16
    valid = valid and all(re.fullmatch(r"[A-Za-z0-9-][A-Za-z0-9_-]{0,63}", token) for token in tokens)
    assert (topic_fault(text) is None) == valid


@given(st.from_regex(r"([A-Za-z0-9-][A-Za-z0-9_-]{0,9}\.){0,9}[A-Za-z0-9-]{1,9}", fullmatch=True))
def test_what_looks_like_a_topic_is_one(text):
    assert topic_fault(text) is None

"""DER element by element: one encoding each, nothing beyond the end, and every way of writing it otherwise refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.trust import der

LONG = b"\x04\x81\x80" + bytes(128)

WRONG_ELEMENTS = {
    "nothing": "",
    "no length": "30",
    "another tag": "3100",
    "cut short": "300201",
    "no end of its length": "30800000",
    "a short length in two octets": "308100",
    "a short length in two octets, the longest": "30817f" + "00" * 127,
    "a length with a zero before it": "30820080" + "00" * 128,
    "a length that is cut short": "308201",
    "a length of nothing but its head": "3081",
}
WRONG_NUMBERS = {
    "no octets": "0200",
    "negative": "0201ff",
    "a zero before it": "02020001",
    "two zeros before it": "0203000080",
    "too long": "0203010000",
}


@pytest.mark.parametrize("what", WRONG_ELEMENTS)
def test_no_element_is(what):
    data = bytes.fromhex(WRONG_ELEMENTS[what])
    for read in (der.Reader(data).content, der.Reader(data).element):
        with pytest.raises(ValueError):  # noqa: PT011  every fault is one
            read(der.SEQUENCE)


@pytest.mark.parametrize("what", WRONG_NUMBERS)
def test_no_number_is(what):
    with pytest.raises(ValueError, match="number"):
        der.Reader(bytes.fromhex(WRONG_NUMBERS[what])).unsigned(der.INTEGER, most_octets=2)


def test_elements_come_one_after_the_other_and_end():
    reader = der.Reader(LONG + b"\2\1\5" + b"\x30\0")
    assert reader.element(4) == LONG
    assert reader.unsigned(der.INTEGER, most_octets=1) == 5
    with pytest.raises(ValueError, match="behind"):
        reader.end()
    assert reader.content(der.SEQUENCE) == b""
    reader.end()


@given(st.integers(0, 2**64))
def test_numbers_read_back(value):
    encoded = der.number(der.INTEGER, value)
    assert der.Reader(encoded).unsigned(der.INTEGER, most_octets=9) == value


@given(st.binary(max_size=8))
def test_what_reads_as_a_number_encodes_identically(content):
    data = der.element(der.INTEGER, content)
    try:
        value = der.Reader(data).unsigned(der.INTEGER, most_octets=8)
    except ValueError:
        return
    assert der.number(der.INTEGER, value) == data


def test_what_is_too_long_for_the_encoder_is_refused():
    assert len(der.element(der.SEQUENCE, bytes(127))) == 129
    with pytest.raises(ValueError, match="128"):
        der.element(der.SEQUENCE, bytes(128))

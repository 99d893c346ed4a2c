"""What people may write for TPMs, and what it means."""

from __future__ import annotations

import pytest

from bus.errors import TpmRefusedError
from bus.tpm.spelling import is_own, tpms_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("swtpm", ("swtpm",)),
        ("software", ("software",)),
        ("swtpm*1", ("swtpm",)),
        ("swtpm*3", ("swtpm", "swtpm-2", "swtpm-3")),
        ("swtpm;swtpm-3", ("swtpm", "swtpm-3")),
        ("device:/dev/tpmrm0", ("device:/dev/tpmrm0",)),
        ("swtpm:host=h,port=2321", ("swtpm:host=h,port=2321",)),
        (
            "device:/dev/tpmrm0; swtpm:host=h,port=2321 ;swtpm*2",
            ("device:/dev/tpmrm0", "swtpm:host=h,port=2321", "swtpm", "swtpm-2"),
        ),
        ("cmd:cd /x;; tpm2_send", ("cmd:cd /x; tpm2_send",)),
        ("swtpm:path=/a;;b;swtpm:path=/c", ("swtpm:path=/a;b", "swtpm:path=/c")),
        ("swtpm:path=/a;;;swtpm:path=/c", ("swtpm:path=/a;", "swtpm:path=/c")),
        ("swtpm*16", ("swtpm", *(f"swtpm-{number}" for number in range(2, 17)))),
    ],
)
def test_a_text_names_tpms_in_its_order(text, names):
    assert tpms_of(text) == names


@pytest.mark.parametrize(
    "text",
    (
        "|;|swtpm;|;swtpm|swtpm;;;|swtpm*0|swtpm*17|swtpm*100|swtpm*x|swtpm*|swtpm-1|swtpm-17|swtpm-02|swtpm;swtpm|swtpm*2;swtpm-2"
        "|device:/dev/tpm0;device:/dev/tpm0|software;swtpm|swtpm;software|swtpm*16;device:/dev/tpmrm0|" + "a" * 1_025
    ).split("|"),
)
def test_what_names_none_is_refused_before_anything_is_opened(text):
    with pytest.raises(TpmRefusedError) as caught:
        tpms_of(text)
    assert caught.value.code == "tpm_spelling"


@pytest.mark.parametrize("name", ["swtpm", "swtpm-2", "swtpm-16"])
def test_the_states_own_are_known_by_their_names(name):
    assert is_own(name)


@pytest.mark.parametrize("name", ["swtpm:path=/x", "swtpm-17", "swtpm-1", "software", "device:/dev/tpmrm0", "swtpm\n"])
def test_what_the_tss_reaches_is_not_the_states_own(name):
    assert not is_own(name)

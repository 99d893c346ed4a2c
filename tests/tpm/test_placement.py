"""Where new keys are made: spread evenly, and the same by whatever order or name."""

from __future__ import annotations

from collections import Counter

from bus.tpm.placement import ranked

NAMES = [f"AGENT{number}" for number in range(2_000)]


def tpms(count: int) -> dict[str, bytes]:
    return {f"tpm {number}": b"\x00\x0b" + bytes([number]) * 32 for number in range(count)}


def test_names_spread_evenly():
    found = Counter(ranked(name, tpms(4))[0] for name in NAMES)
    assert min(found.values()) > 400, found


def test_a_tpm_more_takes_its_share_and_moves_nothing_else():
    before = {name: ranked(name, tpms(3))[0] for name in NAMES}
    after = {name: ranked(name, tpms(4))[0] for name in NAMES}
    moved = {name for name in NAMES if before[name] != after[name]}
    assert {after[name] for name in moved} == {"tpm 3"}
    assert 350 < len(moved) < 650


def test_a_tpm_less_leaves_each_name_with_its_next_choice():
    for name in NAMES[:200]:
        first, *others = ranked(name, tpms(4))
        without = {tpm: primary for tpm, primary in tpms(4).items() if tpm != first}
        assert ranked(name, without) == others


def test_the_primary_key_counts_and_not_what_a_tpm_is_called():
    renamed = {f"device:/dev/tpmrm{tpm[-1]}": primary for tpm, primary in reversed(tpms(3).items())}
    for name in NAMES[:200]:
        assert [tpm[-1] for tpm in ranked(name, renamed)] == [tpm[-1] for tpm in ranked(name, tpms(3))]

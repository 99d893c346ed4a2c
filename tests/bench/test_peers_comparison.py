from __future__ import annotations

import json
from io import StringIO

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from bus.bench.peers import table
from bus.bench.peers.catalogue import CONTENDERS
from bus.bench.peers.comparison import Absent, Comparison, Measured, compare, measured
from bus.bench.peers.contender import WORKLOADS
from bus.bench.result import Spread

OURS = ("tpmbus", "tpmbus-many")
WINDOW = {"cpu_seconds": 0.5, "sent": 1_000, "delivered": 1_000, "lost": 0, "duplicated": 0, "reordered": 0, "latency": {}}
TRIPS = {"cpu_seconds": 0.01, "asked": 20, "wrong": 0, "round_trip": {"largest": 0.002, "total": 0.04, "buckets": {"160": 20}}}


def runs(*figures: tuple[str, int, float]) -> list[Measured]:
    return [Measured(bus, pair, figure, cpu_us=10.0 / figure) for bus, pair, figure in figures]


def test_a_ratio_is_of_one_pair_and_not_of_medians():
    """The machine was ten times slower in the second pair: medians would say nothing, the pairs agree."""
    done = runs(
        ("tpmbus", 1, 200.0), ("nats", 1, 100.0), ("nats", 2, 10.0), ("tpmbus", 2, 20.0), ("tpmbus", 3, 60.0), ("nats", 3, 20.0)
    )
    ours, theirs = compare(done, OURS)
    assert (ours.bus, ours.ratios) == ("tpmbus", ())
    [ratio] = theirs.ratios
    assert ratio.figure == Spread(2.0, 2.0, 3.0, 3)
    assert ratio.cpu.median == pytest.approx(0.5)
    assert theirs.figure == Spread(20.0, 10.0, 100.0, 3)


def test_each_way_of_ours_has_a_ratio_of_its_own():
    done = runs(("tpmbus", 1, 200.0), ("tpmbus-many", 1, 400.0), ("nats", 1, 100.0))
    *_, theirs = compare(done, OURS)
    assert [(one.ours, one.figure.median) for one in theirs.ratios] == [("tpmbus", 2.0), ("tpmbus-many", 4.0)]


def test_a_run_that_lost_its_other_half_makes_no_ratio():
    *_, theirs = compare(runs(("tpmbus", 1, 200.0), ("nats", 1, 100.0), ("tpmbus", 2, 1.0)), OURS)
    assert theirs.ratios[0].figure.runs == 1
    assert compare(runs(("tpmbus", 2, 1.0), ("nats", 3, 1.0)), OURS)[1].ratios == ()


def test_a_rate_is_of_the_window_and_processor_time_of_everything():
    found = measured("nats", 1, WINDOW | {"window": {"heard": 400, "seconds": 2.0}}, by_the_clock=False)
    assert (found.figure, found.cpu_us, found.delivered) == (200.0, pytest.approx(500.0), 1_000)


def test_a_window_in_which_nothing_came_is_no_figure():
    with pytest.raises(ValueError, match="nothing"):
        measured("nats", 1, WINDOW | {"window": {"heard": 0, "seconds": 2.0}}, by_the_clock=False)


def test_a_wrong_reply_is_no_figure():
    assert measured("nats", 1, TRIPS, by_the_clock=False).cpu_us == pytest.approx(500.0)
    with pytest.raises(ValueError, match="1 wrong"):
        measured("nats", 1, TRIPS | {"wrong": 1}, by_the_clock=False)


def comparison(*done: Measured, absent: tuple[Absent, ...] = (), workload: str = "1to1") -> Comparison:
    settings = {"workload": workload, "seconds": 1.0, "warm_seconds": 0.5, "size": 256, "rate": None, "pairs": 1}
    machine = {"cores": 2, "python": "3.11", "load": 0.0, "system": "some"}
    return Comparison(settings, machine, {"tpmbus": "0.1.0", "nats": "2.16.0"}, done, tuple(compare(done, OURS)), absent)


def test_the_table_has_a_line_for_everybody_who_was_asked_for_and_what_it_secures_beside_its_figures():
    absent = (Absent("zenoh", "not_installed", "without zenoh: pip install eclipse-zenoh"), Absent("slim", "failed", "it said no"))
    shown = comparison(*runs(("tpmbus", 1, 200.0), ("tpmbus-many", 1, 400.0), ("nats", 1, 100.0)), absent=absent)
    columns, lines = table.columns(shown), list(table.lines(shown))
    assert {len(line) for line in lines} == {len(columns)}
    assert columns[-5:] == list(table.SECURED)
    assert [line[0] for line in lines] == [CONTENDERS[name].title for name in ("tpmbus", "tpmbus-many", "nats", "zenoh", "slim")]
    for line, name in zip(lines, ("tpmbus", "tpmbus-many", "nats", "zenoh", "slim"), strict=True):
        secured = CONTENDERS[name].secured
        assert line[-5:] == (secured.signed, secured.encrypted, secured.tpm, secured.policy, secured.loss)
    assert lines[2][3].startswith("2 (2 to 2)")
    assert lines[3][1] == "not installed"
    said = "\n".join(table.notes(shown))
    assert "pip install eclipse-zenoh" in said
    assert "it said no" in said
    assert "nats 2.16.0" in said


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_tables_fit_their_terminal_and_together_have_every_bus_with_what_it_secures(width):
    absent = tuple(
        Absent(name, "not_installed", "pip install it") for name in CONTENDERS if name not in ("tpmbus", "tpmbus-many", "nats")
    )
    busy = runs(("tpmbus", 1, 123_456.0), ("tpmbus-many", 1, 234_567.0), ("nats", 1, 98_765.0))
    shown = list(table.tables(comparison(*busy, absent=absent), width=width))
    for columns, lines in shown:
        text = StringIO()
        drawn = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for line in lines:
            drawn.add_row(*line)
        Console(file=text, width=width).print(drawn)
        said = text.getvalue()
        assert len(lines) == len(CONTENDERS)
        assert {len(line) for line in lines} == {len(columns)}
        words = {word for line in (columns, *lines) for cell in line for word in cell.split()}
        assert {word for word in words if word not in said} == set(), "no word is cut"
    heads = [column for columns, _ in shown for column in columns]
    assert [column for column in table.SECURED if column not in heads] == []
    assert (table.CPU_RATIO in heads) == (width > 80)
    assert (table.what_is_left_out(width=width) is None) == (width == 200)


def test_a_bus_that_failed_before_its_first_pair_was_whole_takes_no_column_of_ours():
    shown = comparison(*runs(("tpmbus", 1, 200.0), ("nats", 2, 100.0)), absent=(Absent("nats", "failed", "it said no"),))
    assert {len(line) for line in table.lines(shown)} == {len(table.columns(shown))}
    assert [column for column in table.columns(shown) if column.endswith("publish / it")] == ["tpmbus, publish / it"]


def test_nobody_is_shown_with_less_than_all_that_is_asked_of_everybody():
    for one in CONTENDERS.values():
        secured = one.secured
        assert all((secured.signed, secured.encrypted, secured.tpm, secured.policy, secured.loss, one.uses, one.install))


def test_a_comparison_is_a_document():
    document = comparison(*runs(("tpmbus", 1, 200.0), ("nats", 1, 100.0))).document()
    assert json.loads(json.dumps(document))["rows"][1]["ratios"][0]["figure"][0] == 2.0
    assert (document["format"], document["version"]) == ("tpmbus bench peers", 1)


def test_whoever_cannot_do_a_workload_says_why():
    for one in CONTENDERS.values():
        for workload in WORKLOADS:
            assert one.can(workload) != bool(one.cannot.get(workload)), (one.name, workload)

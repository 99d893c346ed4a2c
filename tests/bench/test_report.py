"""The report is one file that needs nothing from elsewhere, and shows what is in the result; the table and CSV say the same."""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made import latency, result, step

from bus.bench.report import done
from bus.bench.report.charts import axis
from bus.bench.report.page import as_html
from bus.bench.report.table import BRIEF, COLUMNS, CSV_COLUMNS, as_csv, brief, number, rows
from bus.bench.result import Result

VOID = {"meta"}
RESULT = result(
    *(
        [step(rate=rate, delivered_a_second=rate, latency=latency(rate / 1e4 + run / 100)) for rate in (100.0, 1_000.0, 10_000.0)]
        for run in range(3)
    )
)


class Page(HTMLParser):
    """What a browser would see, and whether what is opened is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole():
    page = Page(as_html(RESULT))
    assert page.open == []
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") == 2 + 3 + 2, "throughput against latency, latency over time at each rate, cost of a message"
    assert page.tags.count("table") == 4, "figures, what was done, signatures and caches, processes"


def test_the_page_needs_nothing_from_elsewhere():
    text = as_html(RESULT)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text


def test_in_a_narrow_window_letters_are_large_enough_to_read():
    """A telephone is 360 to 400 px wide, with 60 for the edges: a plot of 1,080 would have letters of 3 px there."""
    text = as_html(RESULT)
    assert text.count('<div class="broad"><svg viewBox="0 0 1080 ') == text.count('<div class="narrow"><svg viewBox="0 0 340 ') == 2
    assert len(re.findall(r'(?<!<div class="broad">)<svg viewBox="0 0 1080', text)) == 0
    _, _, narrow = text.partition("@media (max-width: 760px)")
    assert ".broad { display: none; }" in narrow


def test_what_was_wrong_in_one_run_of_several_is_no_proof():
    twice = step(duplicated=1, proof={**step().proof, "bodies_distinct": False})
    [line] = done.proved(result([step()], [twice], [step()]).rows())
    assert line[-1] == "no"


def test_light_and_dark_have_the_same_colours_by_name():
    text = as_html(RESULT)
    assert "prefers-color-scheme: dark" in text
    light, _, dark = text.partition("prefers-color-scheme: dark")
    for name in (*(f"--c{colour}:" for colour in range(7)), "--paper:", "--ink:", "--line:"):
        assert name in light, name
        assert name in dark, name


def test_what_a_scenario_says_is_text_and_nothing_else():
    hostile = '<script>alert(1)</script>&"'
    made = result([step(costs={hostile: 1.0}, algorithms={hostile: 2})], about=hostile, program=hostile)
    page = Page(as_html(replace(made, name=hostile, notes=(hostile,), began=hostile, machine={hostile: hostile})))
    assert "script" not in page.tags
    assert page.text.count(hostile) >= 8


@pytest.mark.parametrize(
    "odd",
    [
        result(),
        result([]),
        result([step(in_time=0)], is_search=True),
        result([step(over_time=(), processes=(), costs={}, proof={}, tpm={}, caches={})]),
        result([step(latency=latency(0.0), delivered_a_second=0.0)]),
        result([step(), step(rate=2_000.0, in_time=0)], is_search=True),
    ],
    ids=["no run", "no step", "nothing kept", "bare", "all zero", "a search"],
)
def test_a_result_with_little_in_it_has_a_page_too(odd):
    assert Page(as_html(odd)).open == []
    assert as_csv(odd).startswith("scenario,")


def test_damage_stands_out():
    text = as_html(result([step(lost=3)]))
    assert '<td class="bad">3</td>' in text
    assert 'class="tile bad"' in text
    assert '<td class="bad">' not in as_html(RESULT)


def test_the_table_has_a_row_a_rate_with_the_spread_of_the_runs():
    shown = rows(RESULT)
    assert [row[0] for row in shown] == ["100", "1,000", "10,000"]
    assert {len(row) for row in shown} == {len(COLUMNS)}
    assert shown[1][COLUMNS.index("p50 ms")] == "0.11 ±0.01"
    assert rows(result([step()]))[0][COLUMNS.index("p50 ms")] == "1.00", "one run has no spread"


def test_the_terminals_table_fits_80_columns():
    wide = result(
        *([step(rate=100_000.0, delivered_a_second=99_000.0 + run, latency=latency(0.4 + run / 9), lost=1)] for run in range(3))
    )
    for table in (brief(RESULT), brief(wide)):
        widths = [max(len(cell) for cell in column) for column in zip(BRIEF, *table, strict=True)]
        assert sum(widths) + 2 * len(widths) <= 80
    assert brief(wide)[0][-1] == "3"


def test_csv_has_a_line_for_every_step_of_every_run():
    lines = list(csv.DictReader(io.StringIO(as_csv(RESULT))))
    assert len(lines) == 9
    assert set(lines[0]) == set(CSV_COLUMNS)
    assert [(line["run"], line["rate"]) for line in lines][:4] == [
        ("1", "100.0"),
        ("1", "1000.0"),
        ("1", "10000.0"),
        ("2", "100.0"),
    ]


def test_csv_proves_what_was_done_and_has_nothing_where_nothing_was_measured():
    proved, nothing = csv.DictReader(io.StringIO(as_csv(result([step(), step(proof={}, caches={})]))))
    names = ("signatures_verified", "envelopes_opened", "messages_handed_over", "refused", "policy_refuses", "bodies_distinct")
    assert [proved[name] for name in names] == ["10", "10", "1000", "0", "1", "1"]
    assert {nothing[name] for name in (*names, "signature_hit_rate", "chain_hit_rate")} == {""}


def test_csv_says_who_signed_how_much_and_what_every_process_took():
    [line] = csv.DictReader(io.StringIO(as_csv(result([step(caches={"signatures": 0.99, "chains": 0.5})]))))
    assert (line["signatures"], line["tpm_operations"]) == ("ecc256/sha3-256=1", "1")
    assert (line["signature_hit_rate"], line["chain_hit_rate"]) == ("0.99", "0.5")
    assert line["processes"] == "hub=1.0%/60MiB; sender 1=2.0%/61MiB; bench=0.1%/50MiB"
    assert (line["memory_mib"], line["generator_us_per_message"]) == ("171.0", "2.0")


def test_terminal_and_page_say_what_was_done_and_by_whom():
    made = result([step(caches={"signatures": 0.99}, algorithms={"ecc256/sha3-256": 1, "ed25519/sha256 (sessions)": 7})])
    [line] = done.done(made.rows())
    assert line == ("1,000", "1.00", "1,000", "99.00%", "", "ecc256/sha3-256: 1, ed25519/sha256 (sessions): 7")
    columns, lines = done.processes(made.rows())
    assert columns == ("process", "1,000 a second")
    assert ("bench", "0 %, 50 MiB") in lines
    page = Page(as_html(made))
    for text in (*line, "0 %, 50 MiB"):
        assert text in page.text
    assert [*done.done(result([step(proof={})]).rows())] == [], "another bus has nothing to say"


def test_what_waits_for_the_tpm_stands_apart():
    made = result([step(apart={"identity": latency(40.0), "session": latency(1.0)})])
    lines = list(done.apart(made.rows()))
    assert [(line[2], line[4]) for line in lines] == [("1,000", "40.0"), ("1,000", "1.00")]
    assert lines[0][1] in Page(as_html(made)).text
    assert Result.of_document(made.document()) == made


def test_a_result_of_before_there_were_words_can_still_be_read():
    older = result([step()]).document()
    del older["runs"][0]["steps"][0]["apart"]
    assert Result.of_document(older) == result([step()])


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.123, "0.12"), (1.5, "1.50"), (12.34, "12.3"), (1234.5, "1,234"), (-250.0, "-250")]
)
def test_figures_have_three_digits_that_count(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize("values", [[], [0], [0.3], [5, 5], [1, 1e6], [0.002, 0.009], [99_700, 100_000]])
@pytest.mark.parametrize("is_log", [True, False])
def test_an_axis_holds_its_values_and_has_ticks(values, is_log):
    found = axis(values, 0.0, 100.0, is_log=is_log)
    assert all(-1e-6 <= found.place(value) <= 100 + 1e-6 for value in values if value or not is_log)
    assert 2 <= len(list(found.ticks())) <= 30

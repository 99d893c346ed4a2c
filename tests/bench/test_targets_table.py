"""The table of targets: what was measured stays, whatever happens to its row, and its verdicts are those of the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from targets_table import report
from targets_table.buses import _ratio
from targets_table.figure import Curve, Figure, Outcome
from targets_table.rows import MOST_SECONDS, ROWS, chosen
from targets_table.running import Row, Run, all_of

from bus.bench.peers.comparison import Measured

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FIGURE = Figure("rate / theirs", "x", 2.0, (1.0, 2.5, 3.0), by_processor=(1.5,))


# ---- figures ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "more_is_better", "verdict"),
    [
        ((1.9, 2.0, 9.0), True, "met"),
        ((1.9, 1.99, 9.0), True, "MISSED"),
        ((2.0,), False, "met"),
        ((0.1, 2.1, 2.2), False, "MISSED"),
        ((), True, "no figure"),
    ],
)
def test_the_median_decides(values, more_is_better, verdict):
    assert Figure("it", "x", 2.0, values, more_is_better).verdict == verdict


def test_a_figure_is_shown_with_its_spread_and_its_target():
    assert FIGURE.shown == "2.5 x (1 to 3)"
    assert (FIGURE.target_text, FIGURE.shown_by_processor) == (">= 2 x", "1.5")
    assert Figure("it", "ms", 2.0, (0.5,), more_is_better=False, aim=1.5).target_text == "<= 2 ms (aim 1.5)"


def test_a_ratio_is_of_one_pair_and_processor_time_is_turned_round_where_more_is_better():
    runs = [
        Measured("ours", 0, 200.0, cpu_us=2.0), Measured("theirs", 0, 100.0, cpu_us=6.0),
        Measured("theirs", 1, 400.0, cpu_us=4.0), Measured("ours", 1, 200.0, cpu_us=4.0),
        Measured("ours", 2, 9_999.0, cpu_us=1.0),
    ]  # fmt: skip
    rate = _ratio("rate", runs, "ours", "theirs", 2.0)
    assert (rate.values, rate.by_processor) == ((2.0, 0.5), (3.0, 1.0)), "whoever has no partner is no pair"
    time = _ratio("time", runs, "ours", "theirs", 2.0, more_is_better=False)
    assert time.by_processor == (1 / 3, 1.0)


# ---- rows ------------------------------------------------------------------------------------------------------------------------


async def fails(run: Run) -> None:
    run.outcome.figures.append(FIGURE)
    raise ValueError("its server did not start")


async def hangs(run: Run) -> None:
    run.outcome.figures.append(FIGURE)
    await anyio.sleep_forever()


async def is_well(run: Run) -> None:
    run.told("well")
    run.outcome.figures.append(FIGURE)


async def is_interrupted(run: Run) -> None:
    run.outcome.figures.append(FIGURE)
    raise KeyboardInterrupt


async def played(*rows: Row, place: Path) -> tuple[list[Outcome], list[int]]:
    seen: list[int] = []
    outcomes = await all_of(
        rows, place=place, told=lambda _: None, ended=lambda found: seen.append(len(found)), quick=True, pairs=5
    )
    return outcomes, seen


@pytest.mark.anyio
async def test_a_row_that_fails_or_hangs_keeps_its_figures_and_the_next_one_begins(tmp_path):
    rows = (Row("a", "A", 9, fails), Row("b", "B", 0.01, hangs), Row("c", "C", 9, is_well))
    outcomes, seen = await played(*rows, place=tmp_path)
    assert [outcome.verdict for outcome in outcomes] == ["FAILED", "FAILED", "met"]
    assert [outcome.figures for outcome in outcomes] == [[FIGURE]] * 3
    assert "its server did not start" in (outcomes[0].failure or "")
    assert outcomes[1].failure is not None
    assert seen == [1, 2, 3], "after each row everything is written"


@pytest.mark.anyio
async def test_what_was_measured_before_an_interruption_is_written(tmp_path):
    written: list[list[Outcome]] = []
    rows = (Row("a", "A", 9, is_well), Row("b", "B", 9, is_interrupted), Row("c", "C", 9, is_well))
    with pytest.raises(KeyboardInterrupt):
        await all_of(rows, place=tmp_path, told=lambda _: None, ended=lambda found: written.append([*found]), quick=True, pairs=5)
    assert [outcome.name for outcome in written[-1]] == ["a", "b"]
    assert [outcome.verdict for outcome in written[-1]] == ["met", "FAILED"]


def test_all_rows_together_have_less_than_25_minutes():
    assert sum(row.most_seconds for row in ROWS) <= MOST_SECONDS
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_rows_are_chosen_by_name_and_a_name_that_none_has_is_refused():
    assert [row.name for row in chosen("durable, one-to-one")] == ["one-to-one", "durable"]
    assert chosen(None) == list(ROWS)
    with pytest.raises(ValueError, match="dureable"):
        chosen("mix,dureable")


def test_a_quick_row_has_one_short_pair():
    run = Run(Outcome("a", "A"), lambda _: None, Path(), quick=True, pairs=9)
    assert (run.turns(5), run.seconds(2.0)) == (1, 0.2)
    run = Run(Outcome("a", "A"), lambda _: None, Path(), quick=False, pairs=3)
    assert (run.turns(5), run.seconds(2.0)) == (3, 2.0)
    assert Run(Outcome("a", "A"), lambda _: None, Path(), quick=False, pairs=None).turns(5) == 5


# ---- what it says ----------------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>"
OUTCOMES = [
    Outcome("a", "A", [FIGURE], [Curve("latency", [(100.0, 1.0, 2.0), (200.0, 1.0, 9.0)])], ["a note"], 12.0),
    Outcome("b", HOSTILE, [Figure(HOSTILE, "ms", 1.0, (2.0,), more_is_better=False)], notes=[HOSTILE], failure=HOSTILE),
]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_page_has_every_figure_and_every_text_is_text():
    page = Page(report.as_html(OUTCOMES, {"cores": 2, HOSTILE: HOSTILE}, {"pairs": 5}))
    assert (page.tags.count("svg"), page.tags.count("table")) == (1, 2)
    assert not {"script", "link", "img"} & set(page.tags)
    assert page.shown.count(HOSTILE) >= 5
    for text in (FIGURE.shown, FIGURE.target_text, "a note", "1, 2.5, 3"):
        assert text in page.shown


def test_the_table_has_a_line_a_figure_and_one_for_what_is_not_whole():
    lines = report.as_text(OUTCOMES).splitlines()
    assert len(lines) == 1 + 3 + 2
    assert lines[1].endswith("met")
    assert lines[-1] == "1 of 2 met; not whole: b"


def test_json_has_every_value():
    found = json.loads(report.as_json(OUTCOMES, {"cores": 2}, {"pairs": 5}))
    [figure] = found["rows"][0]["figures"]
    assert (figure["values"], figure["median"], figure["verdict"]) == ([1.0, 2.5, 3.0], 2.5, "met")
    assert found["rows"][1]["verdict"] == "FAILED"


@pytest.mark.slow
def test_from_the_command_line_a_row_is_measured_and_written(tmp_path):
    """The one that grows: brokers, senders, readers and idle agents in real processes."""
    files = tmp_path / "found.json", tmp_path / "found.html"
    command = ["-m", "targets_table", "--quick", "--only", "scale", "--json", str(files[0]), "--html", str(files[1])]
    environ = os.environ | {"PYTHONPATH": f"{BENCHMARKS}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, *command], env=environ, capture_output=True, text=True, timeout=100, check=False)
    [row] = json.loads(files[0].read_text())["rows"]
    assert row["failure"] is None, done.stderr
    assert [figure["what"].split(",")[0] for figure in row["figures"]] == ["96 agents", "96 agents"]
    assert all(0.2 < figure["median"] < 5 for figure in row["figures"])
    assert done.returncode in (0, 1)
    assert "96 agents, 200 subscriptions" in done.stdout
    assert Page(files[1].read_text()).tags.count("table") == 1

"""`tpmbus bench` as people and programs call it: what it plays, what it writes, how it compares, and how it ends."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from made import latency, result, step

from bus.bench.result import Result
from bus.bench.scenario import shipped

pytestmark = pytest.mark.slow

QUICK = ("--tpm", "software", "--transport", "embedded", "--warm", "0.2", "--seconds", "0.4", "--runs", "1")


@pytest.fixture
def written(tmp_path):
    """Writes a result as `run --json` does, and says where."""

    def write(name: str, *p50s: float, **words: object) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(result(*([step(latency=latency(p50))] for p50 in p50s), **words).document()))
        return str(path)

    return write


def test_the_list_has_every_scenario_that_ships(home):
    assert [scenario["name"] for scenario in home.json("bench", "list")] == shipped()
    shown = home.run("bench", "list").stdout
    assert all(name in shown for name in shipped())


def test_a_run_writes_json_csv_and_a_page(home, tmp_path):
    files = tmp_path / "out.csv", tmp_path / "out.html"
    done = home.run(
        "bench",
        "run",
        "one-to-one",
        *QUICK,
        "--rate",
        "200",
        "--size",
        "1KiB",
        "--csv",
        str(files[0]),
        "--html",
        str(files[1]),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = Result.of_document(json.loads(done.stdout))
    [only] = found.runs[0].steps
    assert (only.sent, only.delivered, only.lost, only.size) == (120, 120, 0, 1_024)
    [line] = csv.DictReader(files[0].read_text().splitlines())
    assert (line["scenario"], line["delivered"], line["size"]) == ("one-to-one", "120", "1024")
    assert files[1].read_text().startswith("<!doctype html>")


def test_a_search_begins_at_its_rate_and_finds_one(home):
    words = ("--search", "--rate", "5000000", "--size", "64B", "--warm", "0.1", "--seconds", "0.2")
    done = home.run("bench", "run", "embedded", *QUICK, *words, "--json")
    found = Result.of_document(json.loads(done.stdout))
    assert found.is_search
    assert not found.runs[0].steps[0].kept, "nobody sends five million a second"
    assert found.runs[0].steps[0].not_sent["too_late"] > 0
    assert (done.returncode == 0) == (found.runs[0].best is not None)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "one-two-one"), 3),
        (("run", "one-to-one", "--size", "63B"), 2),
        (("run", "one-to-one", "--size", "much"), 2),
        (("run", "one-to-one", "--tpm-delay", "ecc=40"), 2),
        (("run", "one-to-one", "--tpm-delay", "dsa=40ms"), 2),
        (("run", "one-to-one", "--tpm-delay", "ecc=40ms,ecc=50ms"), 2),
        (("run", "one-to-one", "--tpm-delay", "ecc=999999h"), 2),
        (("run", "one-to-one", "--seconds", "inf"), 2),
        (("run", "one-to-one", "--html", "/nowhere/at/all.html"), 2),
        (("run", "embedded", "--processes", "2"), 2),
        (("run", "cold-start", "--search"), 2),
        (("compare", "/nowhere.json", "/nowhere.json"), 2),
        (("peers", "--seconds", "nan"), 2),
        (("peers", "--rate", "inf"), 2),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(home, arguments, code):
    done = home.run("bench", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr


def test_a_mistake_in_a_file_is_told_with_its_place(home, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("version: 1\nabout: x\nrates: [1]\nkind: strem\n")
    done = home.run("bench", "run", str(path), "--json")
    assert done.returncode == 3
    [problem] = json.loads(done.stdout)["error"]["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == (str(path), 4, 7)


def test_what_is_worse_beyond_the_noise_ends_with_1(home, written):
    done = home.run("bench", "compare", written("a", 1.0, 1.1, 1.0), written("b", 2.0, 2.1, 2.0), "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["worse"]) == (1, True)
    assert {change["what"] for change in document["changes"] if change["verdict"] == "worse"} == {"p50", "p99", "p99.9"}


def test_what_is_the_same_or_better_ends_with_0(home, written):
    slow, quick = written("a", 2.0, 2.1, 2.0), written("b", 1.0, 1.1, 1.0)
    assert home.run("bench", "compare", slow, quick).returncode == 0
    assert home.run("bench", "compare", slow, slow).returncode == 0
    assert home.run("bench", "compare", written("c", 1.0), written("d", 9.0)).returncode == 0, "one run says nothing of the noise"


def test_what_cannot_be_compared_ends_with_2(home, written, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"format": "something else"}')
    assert home.run("bench", "compare", written("a", 1.0), str(other)).returncode == 2
    assert home.run("bench", "compare", written("a", 1.0), written("b", 1.0, transport="tls")).returncode == 2

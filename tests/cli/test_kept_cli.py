"""What is kept, from a shell: inboxes that wait, consumers and how far they are, dead letters and what becomes of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running_hub import running

pytestmark = pytest.mark.slow

GIVE_UP = """
import anyio, sys
import bus

async def main():
    async with bus.open(join=True) as hub, hub.agent("TESTBED") as testbed:
        async with testbed.subscribe("work.test.cli", group="testers", durable="cli") as work:
            for _ in range(5):  # as often as the topic's rule lets it be tried
                job = await anext(work)
                await job.nak(0)
            await testbed.drain()

anyio.run(main)
"""


@pytest.fixture(scope="module", autouse=True)
def hub(home):
    """It runs in the state folder of this file, without a fleet."""
    with running(home, "run", "--fleet", "none") as hub:
        hub.until("0 agents listen")
        yield hub


def consumer(home, name: str) -> dict:
    return next(one for one in home.json("consumers", "list") if one["name"] == name)


def test_an_inbox_waits_while_its_agent_is_away(home):
    inbox = ("sub", "results.build", "--as", "DATABASE", "--durable", "shell")
    assert home.run(*inbox, "--timeout", "0.1").returncode == 0  # from here on it waits
    first = home.json("pub", "results.build", '{"n": 1}', "--as", "PYTHON")
    second = home.json("pub", "results.build", '{"n": 2}', "--as", "PYTHON")
    assert first["position"] < second["position"]
    found = consumer(home, "shell")
    assert (found["owner"], found["kind"], found["pattern"], found["open"]) == ("DATABASE", "agent", "results.build", False)
    assert found["behind"] >= 2
    done = home.run(*inbox, "--count", "2", "--timeout", "30", "--json")
    assert done.returncode == 0, done.stderr
    bodies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["body"], one["position"]) for one in bodies] == [({"n": 1}, first["position"]), ({"n": 2}, second["position"])]
    assert home.run(*inbox, "--timeout", "0.3", "--count", "1").returncode == 7, "what was printed was acked"


def test_many_lines_are_kept_before_pub_ends(home):
    inbox = ("sub", "results.test", "--as", "DATABASE", "--durable", "many")
    home.run(*inbox, "--timeout", "0.1")
    done = home.run("pub", "results.test", "--as", "TESTBED", "--json", typed="".join(f"{number}\n" for number in range(200)))
    assert json.loads(done.stdout)["published"] == 200
    printed = home.run(*inbox, "--count", "200", "--timeout", "30", "--raw")
    assert printed.stdout.split() == [str(number) for number in range(200)]


@pytest.mark.parametrize("options", [("--durable", "Not a name"), ("--durable", "mine", "--start", "yesterday")], ids=str)
def test_what_no_inbox_can_be_is_wrong_usage(home, options):
    refused = home.run("sub", "results.build", "--as", "DATABASE", *options, "--timeout", "0.1")
    assert (refused.returncode, refused.stderr.count("Error: ")) == (2, 1)


@pytest.mark.parametrize("start", ["all", "17", "2026-01-02T03:04:05.678+00:00"])
def test_a_list_says_with_which_start_a_name_is_opened_again(home, start):
    inbox = ("sub", "results.start", "--as", "DATABASE", "--durable", f"from-{start[:2]}", "--timeout", "0.1")
    assert home.run(*inbox, "--start", start).returncode == 0
    refused = home.run(*inbox, "--start", "new")
    assert refused.returncode == 1
    assert "tpmbus consumers list" in refused.stderr
    (row,) = (line.split() for line in home.run("consumers", "list").stdout.splitlines() if f"DATABASE/from-{start[:2]}" in line)
    assert row[1:3] == ["results.start", start]
    assert home.run(*inbox, "--start", row[2]).returncode == 0


def test_a_consumer_that_nobody_needs_is_removed(home):
    home.run("sub", "results.deploy", "--as", "DATABASE", "--durable", "gone", "--timeout", "0.1")
    until = time.monotonic() + 30
    while consumer(home, "gone")["open"]:  # the hub hears of its reader's end a moment after the reader's own
        assert time.monotonic() < until
    assert home.run("consumers", "remove", "DATABASE", "gone").returncode == 0
    assert "gone" not in {one["name"] for one in home.json("consumers", "list")}
    assert home.run("consumers", "remove", "DATABASE", "gone").returncode == 1
    assert home.run("consumers", "list").stdout


def test_a_dead_letter_is_shown_handed_out_again_and_dropped(home):
    queue = ("sub", "work.test.cli", "--as", "TESTBED", "--group", "testers", "--durable", "cli")
    home.run(*queue, "--timeout", "0.1")
    for _ in range(2):
        home.run("pub", "work.test.cli", '{"suite": "unheard-of"}', "--as", "ARCHITECT")
        command = [sys.executable, "-c", GIVE_UP]
        given_up = subprocess.run(command, env=home.environ, capture_output=True, text=True, timeout=60, check=False)
        assert given_up.returncode == 0, given_up.stderr
    first, second = home.json("dead", "list")
    assert (first["topic"], first["sender"], first["reason"]) == ("work.test.cli", "ARCHITECT", "max_deliver")
    assert (first["consumer"], first["deliveries"]) == ("testers/cli", 5)
    letter = first["class"], str(first["position"])
    shown = home.json("dead", "show", *letter)
    assert shown["bytes"] > 100
    assert "unheard-of" not in json.dumps(shown), "what is inside is sealed"
    assert home.run("dead", "requeue", *letter).returncode == 0
    again = home.run(*queue, "--count", "1", "--timeout", "30")
    assert again.returncode == 0, again.stderr
    assert "work.test.cli ARCHITECT" in again.stdout
    assert home.run("dead", "show", *letter).returncode == 1, "it is gone, and no other is shown in its place"
    assert home.run("dead", "drop", second["class"], str(second["position"])).returncode == 0
    assert home.json("dead", "list") == []


def test_a_subscription_shows_under_which_name_it_waits(home):
    from running_hub import Running

    sub = Running(home, "sub", "results.build", "--as", "DATABASE", "--durable", "shell")
    sub.until("DATABASE listens")
    [found] = home.json("subscriptions", "DATABASE")
    assert (found["pattern"], found["durable"], found["group"]) == ("results.build", "shell", "")
    assert consumer(home, "shell")["open"] is True
    assert sub.end() == 0

"""`pub`, `sub` and `request` from a shell, beside a hub in a process of its own; and what its desk tells about them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bus.cli.main import cli
from bus.hub.state import owned

sys.path.insert(0, str(Path(__file__).parent))

from running_hub import Running, first_to_end, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def hub(home):
    """It runs in the state folder of this file, without a fleet."""
    with running(home, "run", "--fleet", "none") as hub:
        hub.until("0 agents listen")
        yield hub


@pytest.fixture
def listening(home):
    """`sub` as MONITOR on tasks.>, with these options."""
    begun: list[Running] = []

    def listen(*options: str, agent: str = "MONITOR", pattern: str = "tasks.>") -> Running:
        command = Running(home, "sub", pattern, "--as", agent, *options)
        begun.append(command)
        command.until(f"{agent} listens to {pattern}")
        return command

    yield listen
    for command in begun:
        command.end(signal.SIGKILL)


# ---- bodies and lines ------------------------------------------------------------------------------------------------------------


def test_what_is_published_is_printed_a_line_each(home, listening):
    sub = listening("--count", "4")
    assert home.run("pub", "tasks.build", '{"ref": "main"}', "--as", "DIRECTOR").returncode == 0
    assert home.run("pub", "tasks.clean", "--as", "DIRECTOR", typed="sweep the yard\n17\nwithout an end").returncode == 0
    assert sub.wait() == 0
    assert sub.said.splitlines() == [
        'tasks.build DIRECTOR {"ref": "main"}',
        "tasks.clean DIRECTOR sweep the yard",
        "tasks.clean DIRECTOR 17",
        "tasks.clean DIRECTOR without an end",
    ]


def test_with_json_every_line_is_a_document(home, listening):
    sub = listening("--count", "2", "--json")
    home.run("pub", "tasks.build", "[1, null]", "--as", "DIRECTOR", "--header", "ticket=17", "--priority", "high")
    home.run("pub", "tasks.build", "hi", "--raw", "--as", "DIRECTOR")
    assert sub.wait() == 0
    first, second = map(json.loads, sub.said.splitlines())
    assert (first["topic"], first["sender"], first["body"], first["headers"]) == (
        "tasks.build",
        "DIRECTOR",
        [1, None],
        {"ticket": "17"},
    )
    assert (first["signed_by"], first["missed"], first["position"]) == ("session", 0, None)
    assert (second["data"], "body" in second) == ("aGk=", False)


def test_raw_is_what_was_sent_and_a_line_end(home, listening):
    sub = listening("--count", "1", "--raw")
    home.run("pub", "tasks.build", '{"a": 1}', "--raw", "--as", "DIRECTOR")
    assert sub.wait() == 0
    assert sub.said == '{"a": 1}\n'


def test_what_was_done_is_one_document(home):
    done = home.run("pub", "tasks.build", "x", "--as", "DIRECTOR", "--json")
    assert json.loads(done.stdout) == {"topic": "tasks.build", "agent": "DIRECTOR", "published": 1, "heard": False}
    assert "Nobody listens" in done.stderr


# ---- how they end ----------------------------------------------------------------------------------------------------------------


def test_no_message_in_time_is_7_only_where_some_were_wanted(listening):
    assert listening("--timeout", "0.1", "--count", "1").wait() == 7
    assert listening("--timeout", "0.1").wait() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(number, code, listening):
    sub = listening()
    assert sub.end(number) == code
    assert "Traceback" not in sub.noted


@pytest.mark.parametrize(
    "arguments",
    [
        ("pub", "control.stop", "now", "--as", "MONITOR"),
        ("sub", "incidents.breach", "--as", "MONITOR", "--count", "1"),
        ("request", "tasks.build", "x", "--as", "MONITOR"),
        ("pub", "tasks.build", "x", "--as", "NOBODY"),
    ],
)
def test_what_policy_forbids_is_4_and_says_who_and_why(arguments, home):
    done = home.run(*arguments, "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout.splitlines()[-1] if done.stdout.startswith('{"') else done.stdout)["error"]
    assert error["type"] == "NotPermittedError"
    assert error["agent"] in ("MONITOR", "NOBODY")


def test_nobody_to_answer_is_7_and_takes_no_time(home):
    done = home.run("request", "plans.review", "x", "--as", "WEB", "--timeout", "60", "--json")
    assert done.returncode == 7
    assert json.loads(done.stdout)["error"]["type"] == "NoRespondersError"


def test_nobody_who_answers_in_time_is_7_with_how_long_that_was(home, listening):
    listening(agent="ARCHITECT", pattern="plans.review")
    done = home.run("request", "plans.review", "x", "--as", "WEB", "--timeout", "0.2", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["type"], error["seconds"]) == (7, "RequestTimeoutError", 0.2)


def test_of_many_lines_one_that_is_too_long_is_1_and_says_how_many_were_taken(home, listening):
    sub = listening("--count", "2")
    done = home.run("pub", "tasks.build", "--as", "DIRECTOR", "--json", typed="one\n\n" + "x" * 1_100_000 + "\nnever\n")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["type"], error["accepted"]) == (1, "MessageTooLargeError", 2)
    assert "2 lines of stdin" in done.stderr
    assert sub.wait() == 0
    assert sub.said.splitlines() == ["tasks.build DIRECTOR one", "tasks.build DIRECTOR "]


def test_what_is_kept_can_be_taken_one_by_one_and_none_of_it_was_delivered_in_vain(home):
    """More often than a message is handed out before it is a dead letter."""
    kept = ("sub", "results.>", "--as", "DATABASE", "--durable", "one-by-one", "--json")
    assert home.run(*kept, "--timeout", "0").returncode == 0
    home.run("pub", "results.build", "--as", "PYTHON", typed="".join(f"{number}\n" for number in range(8)))
    seen = [json.loads(home.run(*kept, "--count", "1", "--timeout", "20").stdout) for _ in range(8)]
    assert [(one["body"], one["deliveries"]) for one in seen] == [(number, 1) for number in range(8)]
    assert home.json("dead", "list") == []


def test_no_hub_is_6(fleet):
    done = fleet.run("pub", "tasks.build", "x", "--as", "DIRECTOR")
    assert done.returncode == 6
    assert "tpmbus run" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("pub", "tasks.build", "x"),
        ("pub", "tasks.build", "x", "--as", "DIRECTOR", "--header", "none"),
        ("pub", "tasks.build", "--as", "DIRECTOR", "--id", "7"),
        ("sub", "tasks.>", "--as", "MONITOR", "--raw", "--json"),
        ("sub", "tasks.>", "--as", "MONITOR", "--count", "0"),
        ("request", "plans.review", "x", "--as", "WEB", "--raw", "--json"),
        ("run", "--json"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_before_anything_is_asked(arguments):
    assert CliRunner().invoke(cli, arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("sub", "tasks.", "WEB"), ("trace", "tasks.", "3"), ("topics", "tasks.")], ids=" ".join)
def test_a_pattern_whose_end_a_shell_took_for_a_redirection_is_2_and_says_so(arguments):
    """What is left of `sub tasks.> --as WEB`: the rest is a file called --as."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "quote it: 'tasks.>'" in done.output


@pytest.mark.parametrize("option", [("--wait", "stored"), ("--priority", "urgent")])
def test_an_option_that_the_topic_does_not_take_is_2(option, home):
    done = home.run("pub", "tasks.build", "x", "--as", "DIRECTOR", *option)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


# ---- one live session an agent ---------------------------------------------------------------------------------------------------


def test_an_agent_that_is_live_elsewhere_is_4_unless_it_is_taken_over(home, listening):
    sub = listening()
    refused = home.run("sub", "tasks.>", "--as", "MONITOR", "--timeout", "0.1", "--json")
    assert refused.returncode == 4
    assert json.loads(refused.stdout)["error"]["type"] == "NotPermittedError"
    assert home.run("sub", "tasks.>", "--as", "MONITOR", "--timeout", "0.1", "--take-over").returncode == 0
    assert sub.wait() == 4
    assert "Traceback" not in sub.noted


def test_of_two_that_begin_in_the_same_instant_one_is_told_that_the_other_is_it(home):
    """Both asked, heard that nobody was it, and came; the later one ended the session of the earlier one."""
    both = [Running(home, "sub", "tasks.>", "--as", "MONITOR") for _ in range(2)]
    try:
        refused = first_to_end(both)
        [lives] = {*both} - {refused}
        lives.until("MONITOR listens to tasks.>")
        assert "MONITOR may not join the bus" in refused.noted
        assert "listens" not in refused.noted, "it was never live"
    finally:
        codes = sorted(one.end() for one in both)
    assert codes == [0, 4]
    done = home.run("sub", "tasks.>", "--as", "MONITOR", "--timeout", "0.1")
    assert done.returncode == 0, "whoever has left keeps nobody out"


def test_who_becomes_an_agent_at_this_moment_is_named(home):
    with owned(home.state.runtime / "MONITOR.joining"):
        refused = home.run("pub", "tasks.build", "x", "--as", "MONITOR")
        assert (refused.returncode, f"process {os.getpid()}" in refused.stderr) == (4, True)
        assert home.run("sub", "tasks.>", "--as", "MONITOR", "--timeout", "0.1", "--take-over").returncode == 0
        assert home.run("sub", "tasks.>", "--as", "OTHER/../MONITOR", "--timeout", "0.1").returncode == 4


# ---- the environment -------------------------------------------------------------------------------------------------------------


def test_who_and_where_may_come_from_the_environment(home):
    [url] = home.json("status")["urls"]
    state = home.environ["TPMBUS_STATE"]
    done = home.run("pub", "tasks.build", "x", TPMBUS_AGENT="DIRECTOR", TPMBUS_URL=url, TPMBUS_STATE=state)
    assert done.returncode == 0, done.stderr


# ---- what the desk tells ---------------------------------------------------------------------------------------------------------


def test_status_and_lists_tell_who_is_here(home, listening):
    sub = listening()
    status = home.json("status")
    assert (status["agents_live"], status["domain"]) == (1, "tpmbus.local")
    assert set(status["numbers"]) >= {"broker", "host", "tpm"}
    [monitor] = home.json("agents", "--live")
    assert (monitor["agent"], monitor["role"], monitor["process"]) == ("MONITOR", "operations", sub.process.pid)
    assert len(home.json("agents")) == 76
    [subscription] = home.json("subscriptions", "MONITOR")
    assert (subscription["pattern"], subscription["overflow"]) == ("tasks.>", "block")
    home.run("pub", "tasks.build", "x", "--as", "DIRECTOR")
    assert {"tasks.build"} <= {topic["topic"] for topic in home.json("topics", "tasks.>")}
    assert home.json("topics", "control.>") == []
    assert home.run("status").stdout.startswith("Hub")


def test_a_name_that_policy_does_not_know_is_4(home):
    assert home.run("agents", "NOBODY").returncode == 4


def test_a_trace_shows_what_passes(home, listening):
    listening()
    trace = Running(home, "trace", "tasks.>", "--count", "1", "--json")
    while trace.process.poll() is None:
        home.run("pub", "tasks.build", "x", "--as", "DIRECTOR")
    assert trace.wait() == 0
    seen = json.loads(trace.said)
    assert (seen["topic"], seen["sender"], seen["records"], seen["subscriptions"], seen["refused"]) == (
        "tasks.build",
        "DIRECTOR",
        1,
        1,
        "",
    )


def test_who_takes_what_is_kept_is_among_its_readers(home, listening):
    """Of those who listen durably, and of the members of a group, as of those who listen live."""
    listening()
    listening("--group", "builders", "--durable", "smith", agent="PYTHON", pattern="work.build.*")
    listening("--durable", "elsewhere", agent="COORDINATOR", pattern="results.test")
    home.run("pub", "work.build.house", "x", "--as", "DIRECTOR")
    [topic] = home.json("topics", "work.build.>")
    assert (topic["class"], topic["publishers"], topic["readers"]) == ("durable", ["DIRECTOR"], ["PYTHON"])


def test_of_a_group_a_trace_counts_one_and_says_what_is_kept(home, listening):
    listening(agent="WEB")
    for agent in ("ARCHITECT", "PLANNER"):
        listening("--group", "planners", agent=agent, pattern="tasks.*")
    lives, kept = (Running(home, "trace", pattern, "--count", "1", "--json") for pattern in ("tasks.>", "work.>"))
    for trace, topic in ((lives, "tasks.build"), (kept, "work.build.house")):
        while trace.process.poll() is None:
            home.run("pub", topic, "x", "--as", "DIRECTOR")
        assert trace.wait() == 0
    seen = [json.loads(trace.said) for trace in (lives, kept)]
    assert [(one["subscriptions"], one["kept"]) for one in seen] == [(2, False), (0, True)]


def test_a_second_hub_of_this_folder_is_4_and_says_who_has_it(home):
    done = home.run("run", "--fleet", "none", "--seconds", "1", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["pid"]) == ("StateInUseError", home.json("status")["pid"])


# ---- lists for people ------------------------------------------------------------------------------------------------------------


def test_a_list_that_is_empty_says_so(home):
    assert home.run("topics", "control.>").stdout.strip() == "Nobody publishes now on a topic that control.> matches."
    assert home.run("dead", "list").stdout.strip() == "No dead letters."
    assert home.run("subscriptions", "WEB").stdout.strip() == "WEB listens to nothing now."


def test_the_subscriptions_of_a_name_that_policy_does_not_know_are_4(home):
    assert home.run("subscriptions", "NOBODY").returncode == 4


def test_who_does_not_say_which_agent_to_be_is_told_how():
    done = CliRunner().invoke(cli, ["sub", "tasks.>"], env={"TPMBUS_AGENT": ""})
    assert done.exit_code == 2
    assert "--as AGENT" in done.output

"""What `tpmbus status` says of a hub: what is wrong first, and nothing that a hub does not tell."""

from __future__ import annotations

import copy

import pytest
from rich.text import Text

from bus.cli.output import Output
from bus.cli.status import sections, troubles

WELL = {
    "pid": 17, "urls": ["unix:///run/bus.sock"], "state": "/state", "domain": "tpmbus.local", "policy": "default",
    "policy_version": 1, "trust_statement": 9, "failures": {}, "agents_live": 76, "backbone": "journal",
    "numbers": {
        "broker": {
            "received": 4_621, "admitted": 4_621, "routed": 4_271, "unheard": 49, "delivered": 4_992, "held": 0, "stored": 301,
            "subscriptions": 228, "topics": 89, "links_open": 1, "links_half_open": 0, "starts": 1,
            "refused": {}, "dropped": {}, "not_stored": {}, "cut": {}, "papers_refused": {},
            "neighbours": {"open": 0, "agents": 0},
            "backbone": {"dead_letters": 0, "segment_bytes": 3_042_190, "open_consumers": 11},
        },
        "host": {"agents": 76, "connected": True, "refusals": {}, "sent": {"published": 3_887},
                 "sessions": {"failed": 0, "open": 76}},
        "tpm": {"failures": {}, "tpms": {"swtpm": {"is_there": True, "signatures": 145, "signed_contents": 145}}},
    },
}  # fmt: skip


def changed(*path: str, value: object) -> dict:
    found = copy.deepcopy(WELL)
    place = found
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return found


def test_a_hub_that_is_well_has_no_troubles():
    assert troubles(WELL) == []
    bare = {**WELL, "numbers": {"broker": {}, "host": {}, "tpm": {}}}
    assert troubles(bare) == []
    assert dict(sections(bare))["broker"] == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("failures",), {"policy": "roles.yaml:3: no such role"}, "roles.yaml:3"),
        (("backbone_connected",), False, "NATS"),
        (("numbers", "host", "connected"), False, "broker.log"),
        (("numbers", "tpm", "tpms"), {"swtpm": {"is_there": False}}, "swtpm is away"),
        (("numbers", "tpm", "failures"), {"sign": 2}, "sign 2"),
        (("numbers", "host", "sessions"), {"failed": 1}, "1 session "),
        (("numbers", "broker", "refused"), {"expired": 1, "not_permitted": 1_200}, "not_permitted 1,200, expired 1"),
        (("numbers", "broker", "dropped"), {"link_full": 3}, "link_full 3"),
        (("numbers", "broker", "not_stored"), {"disk_full": 3}, "disk_full 3"),
        (("numbers", "broker", "backbone"), {"dead_letters": 3}, "`tpmbus dead list`"),
        (("numbers", "broker", "starts"), 2, "2 times"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_a_line_with_what_to_do(path, value, said):
    [line] = troubles(changed(*path, value=value))
    assert said in line


@pytest.mark.parametrize(
    ("features", "said"), [(["message_ttl"], "2.15.1, which drops"), ([], "newer than 2.9"), (["unheard of"], "newer than 2.9")]
)
def test_a_hub_on_nats_names_its_server_and_what_that_was_found_to_do(features, said):
    on_nats = {"backbone": ["nats://n1", "nats://n2"], "backbone_connected": True}
    found = {**WELL, **on_nats, "backbone_version": "2.15.1", "backbone_features": features}
    assert dict(dict(sections(found))["durable messages"])["kept in"] == "nats://n1, nats://n2, connected"
    assert said in dict(dict(sections(found))["durable messages"])["nats-server"]
    assert "nats-server" not in dict(dict(sections(WELL))["durable messages"])


def test_a_hub_without_agents_of_its_own_needs_no_link_to_its_broker():
    alone = changed("numbers", "host", value={"agents": 0, "connected": False, "sessions": {"failed": 0, "open": 0}})
    assert troubles(alone) == []


def test_a_gateway_tells_its_own_agents_from_those_of_the_whole_bus():
    found = changed("numbers", "broker", "neighbours", value={"open": 2, "agents": 64})
    assert dict(dict(sections(found))["hub"])["agents live"] == "76 on the bus: 12 here, 64 at other brokers"
    assert dict(dict(sections(WELL))["hub"])["agents live"] == "76"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_are_no_longer_than_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for title, facts in sections(WELL):
        Output(json=False).facts(title, facts)
    lines = [Text.from_ansi(line).plain for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert max(map(len, lines)) <= columns


def test_a_table_leaves_out_its_spare_columns_where_there_is_no_room_and_names_them(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    columns, rows = ("name", "made", "print"), [("A" * 20, "B" * 20, "C" * 20)]
    for width, has_made, has_print in ((80, True, True), (50, True, False), (30, False, False)):
        monkeypatch.setenv("COLUMNS", str(width))
        Output(json=False).table(columns, rows, spare=("print", "made"))
        said = Text.from_ansi(capsys.readouterr().out).plain
        assert ("A" * 20 in said, "B" * 20 in said, "C" * 20 in said) == (True, has_made, has_print)
        assert ("print" in said, "made" in said) == (True, True), "a column, or what there is no room for"


def test_what_others_wrote_does_not_move_the_cursor(capsys):
    Output(json=False).table(("agent", "reason"), [("ONE", "\x1b[2Jgone\r\x9b1A")])
    Output(json=False).facts("of one", [("reason", "\x1b[2Jgone"), ("lines", "two\nof them")])
    said = capsys.readouterr().out
    assert not {"\x1b", "\r", "\x9b"} & {*said}
    assert "x1b[2Jgone" in said

"""`tpmbus backbone nats-config`: what it writes, whom it tells what to do next, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bus.backbone.nats.login import CREDENTIALS_FILE, NKEY_FILE, Login
from bus.backbone.nats.nkeys import parse_seed, public_text, seed_text
from bus.cli.main import cli
from bus.cli.run import log_in_with
from bus.errors import BackboneError

POLICY = """version: 1
domain: tpmbus.test
roles: {x: {key: ecc256/sha256}}
agents: {DIRECTOR: x}
topics:
  - {match: "work.>", class: durable, retention: 7d}
  - {match: "talk.>", class: live}
"""
THREE = "n1=127.0.0.1:4222,n2=127.0.0.1:4223,n3=127.0.0.1:4224"


@pytest.fixture
def call(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)

    def call(*arguments: str):
        words = ("backbone", "nats-config", "--policy", str(policy), "--out", str(tmp_path / "out"), *arguments)
        return CliRunner().invoke(cli, words)

    return call


def test_it_writes_what_nats_server_takes_and_keys_that_fit(call, tmp_path):
    done = call("--servers", THREE, "--broker", "b1", "--broker", "b2", "--store", str(tmp_path / "store"), "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["domain"], made["tls"]) == ("tpmbus.test", False)
    assert [room["class_"] for room in made["classes"]] == ["work.>"]
    for server in made["servers"]:
        checked = subprocess.run(
            ["nats-server", "-c", server["file"], "-t"], capture_output=True, text=True, timeout=30, check=False
        )
        assert checked.returncode == 0, checked.stderr
    for user in (*made["brokers"], made["look"]):
        seed = Login.read(nkey=Path(user["seed_file"])).seed
        assert public_text(parse_seed(seed)) == user["nkey"]
        assert seed not in done.output
        assert all(user["nkey"] in Path(server["file"]).read_text() for server in made["servers"])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}
    assert len(list((tmp_path / "out").iterdir())) == 6


def passwords(folder: Path) -> set[str]:
    found = [line for path in folder.glob("*.conf") for line in path.read_text().splitlines() if 'user: "servers"' in line]
    assert len(found) == 3
    return set(found)


def test_servers_know_each_other_by_the_password_that_they_have(call, tmp_path):
    """Else they would lose each other while they read another one, one after the other."""
    assert call("--servers", THREE).exit_code == 0
    known = passwords(tmp_path / "out")
    assert call("--servers", THREE, "--force", "--broker", "b1").exit_code == 0
    assert (passwords(tmp_path / "out"), len(known)) == (known, 1)


def test_a_gateway_that_was_revoked_is_left_out_where_the_authority_is(call, tmp_path, monkeypatch):
    public = tmp_path / "state" / "trust" / "public"
    (public / "certificates").mkdir(parents=True)
    (public / "brokers.json").write_text('["BROKER", "EAST", "WEST"]')
    (public / "certificates" / "broker.EAST.pem").write_text("a certificate that counts")
    monkeypatch.setenv("TPMBUS_STATE", str(tmp_path / "state"))
    names = [word for name in ("broker", "east", "west") for word in ("--broker", name)]
    made = json.loads(call("--servers", "n1=127.0.0.1:4222", *names, "--json").stdout)
    assert (len(made["brokers"]), made["revoked"]) == (3, []), "another machine knows nothing of it"
    (tmp_path / "state" / "trust" / "private").mkdir()
    made = json.loads(call("--servers", "n1=127.0.0.1:4222", "--force", *names, "--json").stdout)
    assert ([one["name"] for one in made["brokers"]], made["revoked"]) == (["broker", "east"], ["west"])
    west = public_text(parse_seed(Login.read(nkey=tmp_path / "out" / "west.nk").seed))
    assert west not in (tmp_path / "out" / "n1.conf").read_text()
    assert call("--servers", "n1=127.0.0.1:4222", "--force", "--broker", "west").exit_code == 2


def test_people_are_told_what_to_do_next(call, tmp_path):
    done = call("--servers", "n1=h1:4222", "--tls", "/etc/nats")
    assert done.exit_code == 0, done.output
    assert f"tpmbus run --backbone tls://h1:4222 --nats-key {tmp_path}/out/broker.nk" in done.stdout
    assert "work.>" in done.stdout
    assert "talk.>" not in done.stdout


def test_what_is_there_is_not_written_over_and_keys_never_are(call, tmp_path):
    assert call("--servers", "n1=127.0.0.1:4222").exit_code == 0
    before = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    refused = call("--servers", "n2=127.0.0.1:4222,n1=127.0.0.1:4223", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["code"] == "exists"
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == before
    assert call("--servers", "n1=127.0.0.1:4223", "--broker", "broker", "--broker", "new", "--force").exit_code == 0
    after = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert after["broker.nk"] == before["broker.nk"]
    assert after["n1.conf"] != before["n1.conf"]
    assert set(after) == {"n1.conf", "broker.nk", "look.nk", "new.nk"}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--servers", "n1"), id="no address"),
        pytest.param(("--servers", "n1=h1:4222"), id="another machine without TLS"),
        pytest.param(("--servers", "n1=127.0.0.1:4222", "--broker", "look"), id="a broker by the name of who looks"),
        pytest.param(("--servers", "n1=127.0.0.1:4222", "--broker", "../x"), id="a broker whose name is a path"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(call, tmp_path, arguments):
    assert call(*arguments).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_network_of_ones_own_may_do_without_tls(call):
    assert call("--servers", "n1=h1:4222", "--plaintext").exit_code == 0


def test_a_key_file_that_is_none_is_not_written_over(call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "broker.nk").write_text("something else")
    refused = call("--servers", "n1=127.0.0.1:4222", "--json")
    assert json.loads(refused.stdout)["error"]["code"] == "login"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["broker.nk"]


def test_what_the_command_line_names_counts_in_place_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(CREDENTIALS_FILE, "/nowhere")
    monkeypatch.delenv(NKEY_FILE, raising=False)
    path = tmp_path / "broker.nk"
    path.write_text(seed_text(bytes(32)))
    log_in_with(None, None)
    with pytest.raises(BackboneError):
        Login.from_environment(os.environ)
    log_in_with(str(path), None)
    assert Login.from_environment(os.environ).seed == seed_text(bytes(32))

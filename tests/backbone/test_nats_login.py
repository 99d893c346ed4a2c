"""Brokers log in to NATS with an nkey, whose seed stands in a file and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import nkeys as theirs
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import NatsServer, free_port, new_space, on_nats

from bus.backbone.interface import RetentionClass
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.login import CREDENTIALS_FILE, NKEY_FILE, Login
from bus.backbone.nats.nkeys import parse_seed, public_text, seed_text
from bus.clock import SystemClock
from bus.errors import BackboneError

SEEDS = [bytes(32), b"\xff" * 32, bytes(range(32))]
SEED = seed_text(SEEDS[2])


@pytest.fixture
def anyio_backend():
    return "asyncio"


def credentials(seed: str = SEED) -> str:
    jwt = "-----BEGIN NATS USER JWT-----\na.jwt.here\n------END NATS USER JWT------\n"
    return f"{jwt}\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------"


# ---- the form of a key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS, ids=["zeros", "ones", "numbers"])
def test_a_key_is_written_as_nats_writes_it(seed):
    text = seed_text(seed)
    assert text.startswith("SU")
    assert parse_seed(text) == seed
    pair = theirs.from_seed(bytearray(text.encode()))
    assert pair.public_key.decode() == public_text(seed)
    assert public_text(seed).startswith("U")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("password", id="a password"),
        pytest.param(SEED[:-1], id="cut"),
        pytest.param(SEED + "A", id="longer"),
        pytest.param(SEED[:10] + ("A" if SEED[10] != "A" else "B") + SEED[11:], id="a sign that changed"),
        pytest.param(public_text(SEEDS[0]), id="a public key"),
        pytest.param(SEED.lower(), id="small letters"),
        pytest.param("ä" * 58, id="no letters of base32"),
    ],
)
def test_what_is_no_seed_is_refused_and_not_quoted(text):
    with pytest.raises(ValueError, match="nkey seed") as refused:
        parse_seed(text)
    assert not text or text not in str(refused.value)


# ---- files ---------------------------------------------------------------------------------------------------------------------


def test_a_seed_is_read_from_its_file_and_shown_nowhere(tmp_path):
    path = tmp_path / "broker.nk"
    path.write_text(f"# of the broker\n\n{SEED}\n")
    login = Login.from_environment({NKEY_FILE: str(path)})
    assert login.seed == SEED
    assert SEED not in repr(login)


def test_credentials_are_read_from_their_file_and_shown_nowhere(tmp_path):
    path = tmp_path / "broker.creds"
    path.write_text(credentials())
    login = Login.from_environment({CREDENTIALS_FILE: str(path)})
    assert login.credentials == credentials()
    assert SEED not in repr(login)


def test_nobody_has_to_log_in():
    assert Login.from_environment({}) == Login()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "nkey"),
        (b"secret words\n", "nkey"),
        (b"\xff\xfe", "nkey"),
        (None, "nkey"),
        (b"", "credentials"),
        (credentials("secret words").encode(), "credentials"),
        (credentials().partition("-----BEGIN USER")[0].encode(), "credentials"),
        ((credentials().partition("SEED-----")[0] + "SEED-----").encode(), "credentials"),
    ],
)
def test_a_file_that_is_none_is_named_and_not_quoted(tmp_path, content, kind):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackboneError) as refused:
        Login.read(**{kind: path})
    assert (refused.value.code, refused.value.path) == ("login", str(path))
    for error in (refused.value, refused.value.__cause__):
        assert "secret words" not in repr(error)


def test_both_at_once_are_one_too_many(tmp_path):
    with pytest.raises(BackboneError) as refused:
        Login.read(nkey=tmp_path, credentials=tmp_path)
    assert refused.value.code == "login"


# ---- a server that knows one key -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    config = folder / "nkey.conf"
    users = f"authorization {{ users: [ {{ nkey: {public_text(SEEDS[2])} }} ] }}"
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\n{users}\n')
    one = NatsServer(folder, "nkey", config=config, port=port)
    one.begin()
    yield one
    one.kill()


@pytest.mark.anyio
async def test_a_broker_with_the_right_key_comes_in_and_comes_back(server):
    async with on_nats([server.url], new_space(), login=Login(seed=SEED)) as backbone:
        await backbone.retain([RetentionClass("work.>", 3_600_000)], passed_ms=0)
        server.kill()
        server.begin()
        assert await backbone.consumers() == []


@pytest.mark.anyio
@pytest.mark.parametrize("login", [Login(), Login(seed=seed_text(SEEDS[0]))], ids=["no key", "another key"])
async def test_who_has_not_the_key_is_refused(server, login):
    with pytest.raises(BackboneError) as refused:
        await open_nats([server.url], SystemClock(), login=login, wait_seconds=0.5)
    assert refused.value.code == "disk"
    assert seed_text(SEEDS[0]) not in repr(refused.value)
    assert seed_text(SEEDS[0]) not in str(refused.value)

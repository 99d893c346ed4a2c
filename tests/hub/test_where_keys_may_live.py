"""What policy says of the place of a key holds in the engine itself, whoever asks it, and however it was opened."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anyio
import pytest

from bus.errors import ConnectError, NotPermittedError, VaultError
from bus.hub import admin
from bus.hub.state import State, open_state
from bus.hub.which_tpm import Joined, open_engine_here, origin_of, permission
from bus.policy import load
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.anyio
SUITE = IDENTITY_SUITES["ecc256/sha256"]
CONTENT = hashlib.sha256(b"content").digest()
STRICT = """
version: 1
agents: {LEAD: lead, ANY: any}
roles: {lead: {key: ecc256/sha256}, any: {key: ecc256/sha256, key_origin: software}}
"""


@pytest.fixture
def policy():
    return load({"policy.yaml": STRICT})


@pytest.fixture
def state(tmp_path, runtime, swtpm_folder, monkeypatch):
    monkeypatch.delenv("TPMBUS_TPM", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (tmp_path / "state").mkdir(mode=0o700)
    swtpm_folder.rename(tmp_path / "state" / "swtpm")
    return open_state(tmp_path / "state")


async def test_no_environment_gives_an_agent_a_software_key_that_its_role_does_not_allow(state: State, policy, monkeypatch):
    async with open_engine_here(state, policy) as engine:
        made = await engine.create("LEAD", SUITE)
        with pytest.raises(NotPermittedError):
            await engine.create("LEAD", SUITE, origin=SOFTWARE)
    monkeypatch.setenv("TPMBUS_TPM", "software")
    async with open_engine_here(state, policy) as engine:
        with pytest.raises(NotPermittedError):
            await engine.create("LEAD", SUITE)
        with pytest.raises(NotPermittedError):
            await engine.create("UNKNOWN", SUITE)
        assert (await engine.create("ANY", SUITE)).origin == SOFTWARE
        assert [info for info in await engine.keys() if info.name == "LEAD"] == [made]


async def test_a_software_key_from_before_a_stricter_policy_neither_signs_nor_is_rotated(state: State, policy):
    lax = load({"policy.yaml": STRICT.replace("lead: {key: ecc256/sha256}", "lead: {key: ecc256/sha256, key_origin: software}")})
    async with open_engine_here(state, lax, tpm="software") as engine:
        await engine.create("LEAD", SUITE)
        await engine.sign_many("LEAD", Purpose.ENVELOPE, [CONTENT])
    async with open_engine_here(state, policy) as engine:
        with pytest.raises(NotPermittedError):
            await engine.sign_many("LEAD", Purpose.ENVELOPE, [CONTENT])
        with pytest.raises(NotPermittedError):
            await engine.rotate("LEAD", keep_until_ms=0)
        key = await engine.create("LEAD", SUITE)
        assert (key.id, key.origin) == ("LEAD.2", SOFTWARE_TPM)
        await engine.sign_many("LEAD", Purpose.ENVELOPE, [CONTENT])


def test_who_joined_besides_the_files_has_what_its_role_allows(policy):
    permit = permission(policy, joined={"BILLING": "any", "CHIEF": "lead"}.get)
    permit("BILLING", SOFTWARE)
    for name in ("CHIEF", "UNKNOWN"):
        permit(name, SOFTWARE_TPM)
        with pytest.raises(NotPermittedError):
            permit(name, SOFTWARE)


async def test_who_joins_while_a_service_runs_is_found_by_it_and_nobody_by_what_is_damaged(home):
    found = Joined(home.state)

    async def role_of(name: str) -> str | None:
        return await anyio.to_thread.run_sync(found, name)

    async with home.open():
        assert (await role_of("GUEST"), await role_of("LEAD")) == (None, "lead")
        await admin.ask(home.state.admin_socket, "admit", agents={"GUEST": "worker"})
        assert await role_of("GUEST") == "worker"
    bundle = anyio.Path(home.state.trust / "public" / "bundle.bin")
    await bundle.write_bytes(b"no bundle")
    assert await role_of("GUEST") is None
    await bundle.unlink()
    assert await role_of("GUEST") is None


@pytest.mark.parametrize(
    ("tcti", "origin"),
    {
        "device:/dev/tpmrm0": "hardware",
        "tabrmd:bus_type=system": "hardware",
        "swtpm": "software-tpm",
        "swtpm:path=/x": "software-tpm",
        "libtss2-tcti-swtpm.so.0:path=/x": "software-tpm",
        "mssim": "software-tpm",
        "cmd:ssh host tpm2_send": "software-tpm",
        "pcap:device:/dev/tpm0": "software-tpm",
        "software": "software",
    }.items(),
)
def test_only_what_may_be_a_chip_calls_its_keys_hardware(tcti, origin):
    assert origin_of(tcti) == origin


async def test_a_simulator_is_no_hardware_whatever_the_way_to_it(swtpm):
    from bus.tpm.esapi import EsapiTpm

    tpm = await anyio.to_thread.run_sync(lambda: EsapiTpm(swtpm.tcti, origin="hardware"))
    try:
        assert (await anyio.to_thread.run_sync(tpm.facts)).origin == SOFTWARE_TPM
    finally:
        await anyio.to_thread.run_sync(tpm.close)


async def test_a_vault_whose_keys_belong_to_another_tpm_is_refused_before_anything_secret_is_sent():
    class Other(FakeTpm):
        def facts(self):
            from dataclasses import replace

            return replace(super().facts(), primary_name=b"\x00\x0b" + b"other" * 6 + b"xx")

    vault = MemoryVault()
    async with Engine(FakeTpm, vault) as engine:
        await engine.create("LEAD", SUITE)
    other = Other()
    with pytest.raises(VaultError) as refused:
        async with Engine(lambda: other, vault):
            pass
    assert refused.value.code == "wrong_tpm"
    assert other.operations == 0


def test_a_state_folder_in_which_others_can_write_is_refused(tmp_path: Path, runtime: Path):
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    for mode in (0o777, 0o720, 0o702):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        with pytest.raises(ConnectError):
            open_state(folder, environ=environ)


def test_locks_and_logs_follow_no_link(tmp_path: Path):
    from bus.hub.state import holder_of, open_log, owned

    precious = tmp_path / "precious"
    precious.write_text("not to be cut short")
    (tmp_path / "tpm.lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"), owned(tmp_path / "tpm.lock"):
        pass
    with pytest.raises(OSError, match="symbolic link"):
        holder_of(tmp_path / "tpm.lock")
    with pytest.raises(OSError, match="symbolic link"), open_log(tmp_path / "tpm.lock"):
        pass
    assert precious.read_text() == "not to be cut short"

"""`tpmbus tpm serve` as it is used: real processes, a real software TPM, other people's tools."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.errors import TpmRefusedError
from bus.protocol.contexts import Purpose
from bus.protocol.tpm_structures import Attest, CertifyInfo, IdObject, PublicArea, QuoteInfo, Signature, split_credential_file
from bus.testing.tpm_check import check_proof, check_tpm
from bus.tpm.engine import Engine
from bus.tpm.permissions import Permissions
from bus.tpm.remote import RemoteEngine
from bus.tpm.service import TpmService
from bus.tpm.vault import MemoryVault
from bus.transport import unix

sys.path.insert(0, str(Path(__file__).parent))

from served import CONTENT, SUITE, process, raw, serving, until

from bus.policy import Policy

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

SIGN_ONE = """
import sys, anyio
from pathlib import Path
from bus.protocol.contexts import Purpose
from bus.tpm.remote import RemoteEngine

async def main():
    async with await RemoteEngine.connect(Path(sys.argv[1])) as engine:
        found = (await engine.sign_many("MONITOR", Purpose.SESSION, [bytes.fromhex(sys.argv[2])]))[0]
        print(found.signature.hex(), found.count, found.index)

anyio.run(main)
"""


def software(state: Path, path: Path) -> list[str]:
    return ["--state", str(state), "--socket", str(path), "--tpm", "software", "--policy", "minimal"]


# ---- many processes --------------------------------------------------------------------------------------------------------------


async def test_processes_that_sign_with_one_key_share_a_batch(runtime, gate):
    """While the chip is held by one signature, two processes come; one more signature serves both."""
    async with serving(runtime) as served:
        served.tpm.faults.append(gate)
        found: list[list[str]] = []

        async def other_process(number: int) -> None:
            done = await anyio.run_process([sys.executable, "-c", SIGN_ONE, str(served.path), (bytes([number]) * 32).hex()])
            found.append(done.stdout.decode().split())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.engine.sign_many, "MONITOR", Purpose.SESSION, CONTENT)
            await gate.reached()
            for number in range(2):
                tasks.start_soon(other_process, number)
            await until(lambda: served.engine._worker.waiting == 2)
            gate.open()
        (one, one_count, one_index), (other, other_count, other_index) = found
        assert one == other
        assert one_count == other_count == "2"
        assert {one_index, other_index} == {"0", "1"}
        assert (await served.engine.statistics()).signatures == 2


async def test_a_second_service_for_one_state_folder_is_told_who_serves(runtime, tmp_path, tpmbus):
    path = runtime / "s" / "t.sock"
    with process(*software(tmp_path / "state", path)) as first:
        second = await anyio.to_thread.run_sync(lambda: tpmbus("tpm", "serve", "--json", *software(tmp_path / "state", path)))
        assert second.returncode == 4
        told = json.loads(second.stdout)["error"]
        assert (told["type"], told["pid"], told["url"]) == ("StateInUseError", first.pid, f"unix://{path}")
        async with raw(path) as caller:
            assert "version" in await caller.ask(command="ping")


async def test_status_tells_what_the_service_has_done(runtime, tmp_path, tpmbus):
    path = runtime / "s" / "t.sock"
    with process(*software(tmp_path / "state", path)):
        async with await RemoteEngine.connect(path) as engine:
            await engine.create("MONITOR", SUITE, origin="software")
            await engine.sign_many("MONITOR", Purpose.SESSION, CONTENT)
        told = await anyio.to_thread.run_sync(lambda: tpmbus("tpm", "status", "--json", "--socket", str(path)))
        document = json.loads(told.stdout)
        assert document["keys"] == 1
        assert document["statistics"]["signatures"] == 1
        assert document["facts"]["origin"] == "software"
        people = await anyio.to_thread.run_sync(lambda: tpmbus("tpm", "status", "--socket", str(path)))
        assert people.returncode == 0
        assert "software keystore" in people.stdout
    gone = await anyio.to_thread.run_sync(lambda: tpmbus("tpm", "status", "--socket", str(path)))
    assert gone.returncode == 6


# ---- its life --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(runtime, tmp_path, number):
    path = runtime / "s" / "t.sock"
    with process(*software(tmp_path / "state", path)) as service:
        async with raw(path) as caller:
            assert "version" in await caller.ask(command="ping")
            service.send_signal(number)
            assert await caller.is_closed()
        assert await anyio.to_thread.run_sync(lambda: service.wait(20)) == 0
        assert not path.exists()


async def test_what_was_asked_before_the_end_is_answered(runtime, gate):
    async with serving(runtime) as served, raw(served.path) as caller:
        served.tpm.faults.append(gate)
        content = base64.b64encode(CONTENT[0]).decode()
        await caller.send(
            json.dumps({"command": "signMany", "key": "MONITOR", "purpose": "http", "contents": [content]}).encode() + b"\n"
        )
        await gate.reached()
        served.service.stop()
        await until(lambda: not served.path.exists())
        gate.open()
        assert "batches" in await caller.answer()
        assert await caller.is_closed()


async def test_who_does_not_let_go_is_not_waited_for_for_ever(runtime, gate):
    async with serving(runtime, drain_seconds=0.05) as served, raw(served.path) as caller:
        served.tpm.faults.append(gate)
        content = base64.b64encode(CONTENT[0]).decode()
        await caller.send(
            json.dumps({"command": "signMany", "key": "MONITOR", "purpose": "http", "contents": [content]}).encode() + b"\n"
        )
        await gate.reached()
        served.service.stop()
        assert await caller.is_closed()
        gate.open()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_ends_by_itself_when_nobody_is_connected(runtime, tmp_path):
    path = runtime / "s" / "t.sock"
    with process(*software(tmp_path / "state", path), "--idle-exit", "2") as service:
        async with raw(path) as caller:
            with anyio.move_on_after(2.5):  # longer than it bears nobody; but somebody is here
                await caller.is_closed()
            assert "version" in await caller.ask(command="ping")
        assert await anyio.to_thread.run_sync(lambda: service.wait(20)) == 0
        assert not path.exists()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_killed_service_leaves_a_socket_that_the_next_one_takes_over(runtime, tmp_path):
    path = runtime / "s" / "t.sock"
    with process(*software(tmp_path / "state", path)) as first:
        first.kill()
        first.wait()
        assert path.exists()
    with process(*software(tmp_path / "state", path)):
        async with raw(path) as caller:
            assert "version" in await caller.ask(command="ping")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told_when_it_is_ready_and_when_it_ends(runtime, tmp_path, abstract):
    address = f"\0tpmbus-test-{os.getpid()}" if abstract else str(runtime / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(20)
        with process(*software(tmp_path / "state", runtime / "s" / "t.sock"), NOTIFY_SOCKET=address.replace("\0", "@")) as service:
            assert notified.recv(100) == b"READY=1"
            service.terminate()
            assert notified.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_keeps_it_from_starting_has_its_own_exit_code(runtime, tmp_path, tpmbus):
    start = ["tpm", "serve", "--json", "--state", str(tmp_path / "state"), "--policy", "minimal"]
    long = await anyio.to_thread.run_sync(lambda: tpmbus(*start, "--tpm", "software", "--socket", str(runtime / ("x" * 120))))
    assert (long.returncode, json.loads(long.stdout)["error"]["type"]) == (6, "ConnectError")
    missing = f"swtpm:path={runtime}/nothing.sock"
    no_tpm = await anyio.to_thread.run_sync(lambda: tpmbus(*start, "--tpm", missing, "--socket", str(runtime / "s" / "t.sock")))
    assert (no_tpm.returncode, json.loads(no_tpm.stdout)["error"]["type"]) == (5, "TpmUnavailableError")
    assert not (runtime / "s" / "t.sock").exists()


# ---- a real TPM ------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving_swtpm(swtpm, runtime: Path) -> AsyncIterator[Path]:
    from bus.tpm.esapi import EsapiTpm

    path = runtime / "s" / "tpm.sock"
    async with (
        Engine(lambda: EsapiTpm(swtpm.tcti, origin="software-tpm"), MemoryVault()) as engine,
        unix.listening(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        service = TpmService(engine, listener, Permissions(os.getuid(), Policy()))
        await tasks.start(service.run)
        yield path
        service.stop()


@pytest.mark.slow
async def test_a_real_tpm_behind_the_service_passes_the_check_of_every_engine(swtpm, runtime):
    @asynccontextmanager
    async def make() -> AsyncIterator[RemoteEngine]:
        async with serving_swtpm(swtpm, runtime) as path, await RemoteEngine.connect(path) as engine:
            yield engine

    await check_tpm(make, suites=["ecc256/sha256", "ecc384/sha3-256"])


async def test_the_endorsement_key_and_its_certificate_fit(swtpm, runtime):
    async with serving_swtpm(swtpm, runtime) as path, raw(path) as caller:
        found = await caller.ask(command="getEK")
        assert set(found) == {"ek_public", "ek_cert"}
        certificate = x509.load_der_x509_certificate(base64.b64decode(found["ek_cert"]))
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert spki == base64.b64decode(found["ek_public"])
        data = await caller.ask(command="getAttestationData")
        assert set(data) == {"ek_pub", "ek_cert", "aik_name"}
        assert (data["ek_pub"], data["ek_cert"]) == (found["ek_public"], found["ek_cert"])
        name = base64.b64decode(data["aik_name"])
        assert name[:2] == b"\x00\x0b"
        assert len(name) == 34
        attester = await caller.ask(command="attestationKey")
        assert PublicArea.parse(base64.b64decode(attester["public"])).name == name
        sign = {"command": "signMany", "purpose": "enroll", "contents": [base64.b64encode(bytes(32)).decode()]}
        for key in ("attestation", "attestation.1"):  # nobody has it sign, or vouch for itself
            assert (await caller.ask(**sign, key=key))["error"]["code"] == "unknown_key"
            assert (await caller.ask(command="certify", key=key, qualifying=""))["error"]["code"] == "unknown_key"
        assert PublicArea.parse(base64.b64decode(attester["public"])).attributes & 0x00010000  # restricted


async def test_what_the_tpm_attests_parses_to_the_byte(swtpm, runtime):
    async with serving_swtpm(swtpm, runtime) as path, await RemoteEngine.connect(path) as engine:
        key = await engine.create("MONITOR", SUITE)
        certified = await engine.certify("MONITOR", qualifying=bytes(range(32)))
        quoted = await engine.quote([0, 7, 16], qualifying=b"")
        for attested in (certified, quoted):
            assert Attest.parse(attested.attest).encode() == attested.attest
            assert Signature.parse(attested.signature).encode() == attested.signature
        body = Attest.parse(certified.attest)
        assert isinstance(body.attested, CertifyInfo)
        assert body.extra_data == bytes(range(32))
        assert body.attested.name == PublicArea.parse(key.public).name
        assert PublicArea.parse(key.public).encode() == key.public
        registers = Attest.parse(quoted.attest).attested
        assert isinstance(registers, QuoteInfo)
        assert registers.selections[0].pcrs == (0, 7, 16)


@pytest.mark.skipif(shutil.which("tpm2_makecredential") is None, reason="tpm2-tools is not installed")
@pytest.mark.parametrize("size", [1, 16, 32])
async def test_a_credential_that_tpm2_tools_made_is_activated(swtpm, runtime, tmp_path, size):
    """Both forms: the whole TPM2B_ID_OBJECT, and its HMAC and encrypted identity apart."""
    async with serving_swtpm(swtpm, runtime) as path, raw(path) as caller:
        data = await caller.ask(command="getAttestationData")
        endorsement = await caller.ask(command="endorsement")
        secret = os.urandom(size)
        (tmp_path / "secret").write_bytes(secret)
        (tmp_path / "ek.pub").write_bytes(base64.b64decode(endorsement["public"]))
        command = ["tpm2_makecredential", "--tcti", "none", "-u", str(tmp_path / "ek.pub"), "-s", str(tmp_path / "secret")]
        command += ["-n", base64.b64decode(data["aik_name"]).hex(), "-o", str(tmp_path / "credential")]
        await anyio.run_process(command, check=True)
        credential, encrypted = split_credential_file((tmp_path / "credential").read_bytes())
        whole = {"credential_blob": base64.b64encode(credential).decode()}
        parts = IdObject.parse(credential)
        apart = {"hmac": base64.b64encode(parts.hmac).decode(), "enc": base64.b64encode(parts.enc).decode()}
        sent = base64.b64encode(encrypted).decode()
        for form in (whole, apart):
            answer = await caller.ask(command="activateCredential", encrypted_secret=sent, **form)
            assert base64.b64decode(answer["decrypted_secret"]) == secret
        for wrong, code in (
            (whole | apart, "invalid_field"),
            ({}, "missing_field"),
            ({"hmac": apart["hmac"]}, "missing_field"),
            ({"credential_blob": base64.b64encode(credential + b"\0").decode()}, "malformed_credential"),
            ({"credential_blob": base64.b64encode(credential[2:]).decode()}, "malformed_credential"),
            ({"credential_blob": base64.b64encode((tmp_path / "credential").read_bytes()[8:]).decode()}, "invalid_field"),
        ):
            answer = await caller.ask(command="activateCredential", encrypted_secret=sent, **wrong)
            assert answer["error"]["code"] == code, wrong
        for changed in (
            IdObject(bytes([parts.hmac[0] ^ 1]) + parts.hmac[1:], parts.enc),
            IdObject(parts.hmac, parts.enc[:-1] + bytes([parts.enc[-1] ^ 1])),
        ):
            blob = base64.b64encode(changed.encode()).decode()
            answer = await caller.ask(command="activateCredential", encrypted_secret=sent, credential_blob=blob)
            assert answer["error"]["kind"] in {"refused", "vault"}
        assert await caller.ask(command="ping") == {"version": 1}


async def test_a_secret_that_was_sealed_comes_back_and_the_wire_to_the_service_is_the_only_place_that_saw_it(swtpm, runtime):
    async with serving_swtpm(swtpm, runtime) as path, await RemoteEngine.connect(path) as engine:
        blob = await engine.seal(b"inbox key", pcrs=[16])
        assert b"inbox key" not in blob
        assert await engine.unseal(blob) == b"inbox key"
        with pytest.raises(TpmRefusedError):
            await engine.unseal(blob[:-1])


async def test_a_tpm_that_is_killed_comes_back_behind_the_service(swtpm_folder, runtime, tmp_path):
    from bus.tpm.esapi import EsapiTpm
    from bus.tpm.swtpm import Swtpm

    own = Swtpm(swtpm_folder, socket_path=runtime / "swtpm.sock")

    def open_tpm() -> EsapiTpm:
        own.start()
        return EsapiTpm(own.tcti, origin="software-tpm")

    path = runtime / "s" / "tpm.sock"
    try:
        async with Engine(open_tpm, MemoryVault()) as chip, unix.listening(path) as listener, anyio.create_task_group() as tasks:
            service = TpmService(chip, listener, Permissions(os.getuid(), Policy()))
            await tasks.start(service.run)
            async with await RemoteEngine.connect(path) as engine:
                key = await engine.create("MONITOR", SUITE)
                for _ in range(3):
                    assert own.pid is not None
                    os.kill(own.pid, signal.SIGKILL)
                    await until(lambda: not own.is_running())
                    found = await engine.sign_many("MONITOR", Purpose.SESSION, CONTENT)
                    check_proof(found[0], key, Purpose.SESSION, CONTENT[0])
                assert (await engine.statistics()).restarts == 3
            service.stop()
    finally:
        await anyio.to_thread.run_sync(own.stop)

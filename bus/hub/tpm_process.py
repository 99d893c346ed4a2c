"""The state folder's TPM service: reached if it runs, started if it does not.

It is a process of its own, because a TPM thread beside a busy event loop waits for the interpreter's lock thirty times longer
than for the chip. All processes of one state folder share it, so their signatures share batches. It ends by itself when
nobody has been connected for a while.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from bus.errors import BusError, ConnectError, StateInUseError, TpmRefusedError, TpmUnavailableError, VaultError
from bus.hub.state import State, holder_of, open_log
from bus.hub.which_tpm import chosen_tpm
from bus.policy import Policy
from bus.policy import files as policy_files
from bus.tpm.remote import RemoteEngine
from bus.tpm.spelling import tpms_of

START_SECONDS: Final = 30.0
"""Making a software TPM anew takes some two seconds, on a slow and busy machine more."""
MORE_SECONDS: Final = 10.0
"""For each further TPM: they are made at the same time, and a machine has only so many processors."""
KILLED_OFTEN: Final = 3
"""A service that was killed while it started is started again, but not for ever: something may be wrong with it."""
STOP_SECONDS: Final = 10.0
DEFAULT_POLICY: Final = "default"
POLICY_DIGEST: Final = "policy_digest"
ON_DEMAND: Final = "on_demand"
"""Stands in the lock of a service that was started by whoever needed it, and may be replaced by whoever needs another."""
IDLE_EXIT_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.02


@asynccontextmanager
async def open_engine(state: State, *, policy: str | None = None, tpm: str | None = None) -> AsyncIterator[RemoteEngine]:
    """The state folder's engine, in its own process; started again if it dies.

    A service that was started on demand under another policy is replaced by one under this policy. Raises what keeps that
    process from starting, and StateInUseError if it runs with another TPM than the one asked for, or was started by hand
    under another policy.
    """

    policy = named_policy(policy)

    async def start() -> None:
        await _start_or_wait(state, policy, tpm)

    await end_service_of_another_policy(state, policy)
    async with await RemoteEngine.connect(await anyio.to_thread.run_sync(service_socket, state), start=start) as engine:
        await anyio.to_thread.run_sync(_check_same_tpm, state, tpm)
        yield engine


async def start_service(state: State, *, policy: str | None = None, tpm: str | None = None) -> None:
    """What `open_engine` may have to wait for, done before. Raises as it does."""
    policy = named_policy(policy)
    await end_service_of_another_policy(state, policy)
    await _start_or_wait(state, policy, tpm)


async def end_service_of_another_policy(state: State, policy: str) -> None:
    """Whoever needs it next starts one under this policy. Raises StateInUseError for one that somebody started by hand."""
    if await anyio.to_thread.run_sync(_obeys_another_policy, state, policy):
        await stop_service(state)


def needs_another_service(before: Policy, after: Policy) -> bool:
    """Whether a service under the first policy would do what the second forbids, or not do what it allows.

    Names that are new are none of its business: it asks the signed policy for them (see `which_tpm`).
    """
    return before.primary_handle != after.primary_handle or any(
        _terms(before, name) != _terms(after, name) for name in [*before.agents, ""]
    )


def _terms(policy: Policy, name: str) -> object:
    """Where a name's key may live, and which users may have it sign."""
    role = policy.roles.get(policy.agents.get(name) or policy.others or "")
    return None if role is None else (role.key_origin, role.uids)


def named_policy(policy: str | None) -> str:
    """The one that is meant where nobody names one."""
    return policy or os.environ.get("TPMBUS_POLICY") or DEFAULT_POLICY


def policy_digest(policy: str | None) -> str:
    """What the texts of a policy are, roster included, so that two processes know whether they mean the same."""
    digest = hashlib.sha256()
    for _, text in sorted(policy_files.read(policy).items()):
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()


def _obeys_another_policy(state: State, policy: str) -> bool:
    """Whether the service must be replaced. Raises StateInUseError if it is not one that the library started by itself."""
    holder = holder_of(state.tpm_lock) or {}
    if POLICY_DIGEST not in holder or holder[POLICY_DIGEST] == policy_digest(policy):
        return False
    if ON_DEMAND not in holder:
        step = "its TPM service obeys another policy: name that one with --policy, or restart it with this one"
        raise StateInUseError(holder["pid"], str(holder.get("url")), step=step)
    return True


def service_socket(state: State) -> Path:
    """Where the service of this state folder listens: started with another runtime folder, it is elsewhere than we would put it."""
    url = str((holder_of(state.tpm_lock) or {}).get("url", ""))
    return Path(url.removeprefix("unix://")) if url.startswith("unix:///") else state.tpm_socket


async def stop_service(state: State) -> bool:
    """Let it answer what was asked, end it, and wait for its end; False if it does not run."""
    told = 0
    with anyio.fail_after(STOP_SECONDS):
        while (holder := await anyio.to_thread.run_sync(holder_of, state.tpm_lock)) is not None:
            if holder["pid"] not in (0, told):  # 0: it has not said yet who it is
                told = holder["pid"]
                with suppress(ProcessLookupError):
                    os.kill(told, signal.SIGTERM)
            await anyio.sleep(_POLL_SECONDS)
    return bool(told)


async def _start_or_wait(state: State, policy: str, tpm: str | None) -> None:
    """Start the service, or wait for the one that somebody else has just started. Raises what keeps it from starting."""
    killed, patience = 0, _patience(tpm)
    with anyio.move_on_after(patience):
        while True:
            if await anyio.to_thread.run_sync(holder_of, state.tpm_lock) is None:
                said = await anyio.to_thread.run_sync(_start, state, policy, tpm, patience)
                trouble = _outcome(said)
                if trouble is None:
                    return
                killed += not said  # whoever fails of its own accord says why
                if not isinstance(trouble, StateInUseError | ConnectError) and (said or killed == KILLED_OFTEN):
                    raise trouble
            elif await anyio.to_thread.run_sync(lambda: service_socket(state).is_socket()):
                return
            # Somebody else is starting it, or is ending; either may also have died meanwhile, so both are looked at again.
            await anyio.sleep(_POLL_SECONDS)
    raise TpmUnavailableError("service_start", f"the TPM service does not start within {patience:.0f} s")


def _command(state: State, policy: str, tpm: str | None) -> list[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "bus.cli.main",
        "tpm",
        "serve",
        "--json",
        "--ready-fd",
        "1",
        "--state",
        str(state.folder),
    ]
    command += ["--idle-exit", str(IDLE_EXIT_SECONDS)]
    command += ["--policy", _absolute(policy)]
    return command + (["--tpm", tpm] if tpm else [])


def _patience(tpm: str | None) -> float:
    """Raises TpmRefusedError("tpm_spelling") for what names no TPMs."""
    return START_SECONDS + MORE_SECONDS * (len(tpms_of(chosen_tpm(tpm))) - 1)


def _start(state: State, policy: str, tpm: str | None, patience: float) -> bytes:
    """Start it, as nobody's child, and wait until it is ready or has ended; gives what it said."""
    read, write = os.pipe()
    try:
        with open_log(state.folder / "tpm-service.log") as log:
            # The shell leaves it behind and ends: the service outlives us, and we need not wait for it.
            subprocess.run(  # noqa: S603  our own program
                ["/bin/sh", "-c", '"$@" &', "sh", *_command(state, policy, tpm)],
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},  # systemd waits for us
                cwd="/",
                start_new_session=True,
                check=True,
            )
    finally:
        os.close(write)
    try:
        return _read_to_end(read, patience)
    finally:
        os.close(read)


def _read_to_end(descriptor: int, patience: float) -> bytes:
    said = b""
    while select.select([descriptor], [], [], patience)[0]:
        more = os.read(descriptor, 65_536)
        said += more
        if not more or said == b"ready\n":
            break
    return said


def _outcome(said: bytes) -> BusError | None:
    if said == b"ready\n":
        return None
    try:
        return _error(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        text = said.decode(errors="replace").strip() or "it ended without a word; its log is tpm-service.log in the state folder"
        return TpmUnavailableError("service_start", f"the TPM service does not start: {text}")


def _error(document: dict[str, Any]) -> BusError:
    """The error as the service wrote it on its way out."""
    kind, message = document["type"], str(document["message"])
    if kind == "VaultError":
        return VaultError(document["code"], message, path=str(document["path"]))
    if kind == "TpmRefusedError":
        return TpmRefusedError(document["code"], message)
    if kind == "StateInUseError":
        return StateInUseError(int(document["pid"]), str(document["url"]), step=str(document.get("step", "")))
    if kind == "ConnectError":
        return ConnectError(message)
    return TpmUnavailableError(document.get("code", "service_start"), message)


def _check_same_tpm(state: State, tpm: str | None) -> None:
    """Whoever names a TPM must not get another one only because that one is open."""
    named = tpm or os.environ.get("TPMBUS_TPM")
    holder = holder_of(state.tpm_lock) or {}
    used = holder.get("tpm")
    if named and used and tpms_of(named) != tpms_of(used):
        step = (
            f"its TPM service has {used}, and not {named}: `tpmbus tpm stop` ends it, then the next command starts one with {named}"
        )
        raise StateInUseError(int(holder["pid"]), f"unix://{state.tpm_socket}", step=step)


def _absolute(policy: str) -> str:
    """A path as it means the same elsewhere; the name of a shipped policy as it is."""
    return str(Path(policy).absolute()) if Path(policy).exists() else policy

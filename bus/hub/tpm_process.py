"""The state folder's TPM service: reached if it runs, started if it does not.

It is a process of its own, because a TPM thread beside a busy event loop waits for the interpreter's lock thirty times longer
than for the chip. All processes of one state folder share it, so their signatures share batches. It ends by itself when
nobody has been connected for a while.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from bus.errors import ConnectError, TpmUnavailableError
from bus.hub.state import State
from bus.tpm.remote import RemoteEngine

START_SECONDS: Final = 30.0
"""Making a software TPM anew takes some two seconds, on a slow and busy machine more."""
IDLE_EXIT_SECONDS: Final = 60


@asynccontextmanager
async def open_engine(state: State, *, policy: str | None = None, tpm: str | None = None) -> AsyncIterator[RemoteEngine]:
    """The state folder's engine, in its own process. Raises TpmUnavailableError with what that said if it does not start."""
    async with await _connect_or_start(state, policy, tpm) as engine:
        yield engine


async def _connect_or_start(state: State, policy: str | None, tpm: str | None) -> RemoteEngine:
    try:
        return await RemoteEngine.connect(state.tpm_socket)
    except ConnectError:
        pass
    said = await anyio.to_thread.run_sync(_start, state, policy, tpm)
    try:
        return await RemoteEngine.connect(state.tpm_socket)
    except ConnectError as error:
        raise TpmUnavailableError("service_start", f"the TPM service does not start: {said.strip() or error}") from error


def _start(state: State, policy: str | None, tpm: str | None) -> str:
    """Start it and wait until it is ready, or has ended because another process was quicker. Gives what it said."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "bus.cli.main", "tpm", "serve", "--state", str(state.folder), "--ready-fd", str(write)]
    command += ["--idle-exit", str(IDLE_EXIT_SECONDS)]
    command += ["--policy", _absolute(policy)] if policy else []
    command += ["--tpm", tpm] if tpm else []
    log = state.folder / "tpm-service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(write,),
            start_new_session=True,
            cwd=state.folder,
        )
    os.close(write)
    try:
        _wait_for_ready(read)
    finally:
        os.close(read)
    # If it has ended, reap it; if it serves, it is nobody's child to wait for: it outlives us.
    process.poll()
    return log.read_text(errors="replace")[-2000:]


def _wait_for_ready(descriptor: int) -> None:
    """Until the service says so, or its end closes the pipe."""
    select.select([descriptor], [], [], START_SECONDS)


def _absolute(policy: str) -> str:
    """A path as it means the same elsewhere; the name of a shipped policy as it is."""
    return str(Path(policy).absolute()) if Path(policy).exists() else policy

"""Which TPM: what the caller names, else TPMBUS_TPM, else the state folder's own software TPM. Never hardware unasked.

swtpm                 the state folder's own software TPM, made and run by us
software              no TPM at all: the software keystore, where policy allows it
device:/dev/tpmrm0    or any other TCTI string of the TSS
swtpm*3, A;B          several (`bus.tpm.spelling`): keys are spread over them by name
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from types import MappingProxyType

import anyio
from anyio import to_thread

from bus.errors import BusError, NotPermittedError, TpmUnavailableError
from bus.hub.state import State, owned
from bus.policy import Policy
from bus.policy.model import Role
from bus.tpm.engine import Engine
from bus.tpm.interface import HARDWARE, ORIGINS, SOFTWARE, SOFTWARE_TPM, Tpm
from bus.tpm.keyring import ATTESTATION
from bus.tpm.several import SeveralTpms
from bus.tpm.software import SoftwareTpm
from bus.tpm.spelling import OWN_SWTPM, is_own, tpms_of
from bus.tpm.swtpm import Swtpm
from bus.tpm.vault import FolderVault

_LIBRARY = "install libtss2-dev, pkg-config, gcc and python3-dev, then `pip install --force-reinstall tpm2-pytss`"
_CHIPS = ("device:", "tabrmd:")
"""TCTIs behind which a chip may be. Of what stands behind any other, nobody knows that it is one."""


def chosen_tpm(tpm: str | None = None) -> str:
    """Whatever it is that is named: `tpms_of` says which TPMs these are."""
    return tpm or os.environ.get("TPMBUS_TPM") or OWN_SWTPM


def origin_of(tpm: str) -> str:
    """What keys made in this one may call themselves; a TPM that says it is a simulator is none the more hardware (`esapi`)."""
    if tpm == SOFTWARE:
        return SOFTWARE
    return HARDWARE if tpm.startswith(_CHIPS) else SOFTWARE_TPM


@asynccontextmanager
async def open_engine_here(
    state: State,
    policy: Policy,
    *,
    tpm: str | None = None,
    around: Callable[[Tpm], Tpm] | None = None,
    facts: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Engine | SeveralTpms]:
    """The state folder's engine in this process. Raises StateInUseError if another process has it: reach it over its socket.

    `around`: something that is put around each TPM and around the keystore, such as one that makes them slower. `facts` stand in
    the lock file, for whoever comes second.
    """
    which = chosen_tpm(tpm)
    names = tpms_of(which)
    with ExitStack() as held:
        lock = partial(owned, state.tpm_lock, **{"url": f"unix://{state.tpm_socket}", "tpm": which, **facts})
        await to_thread.run_sync(lambda: held.enter_context(lock()))
        vault = await to_thread.run_sync(FolderVault, state.vault)
        software: Tpm = SoftwareTpm(await to_thread.run_sync(vault.secret))
        ours = {name: _own_swtpm(state, name) for name in names if is_own(name)}
        around = around or (lambda chip: chip)
        openers = {name: _opener(name, ours.get(name), policy, around) for name in names if name != SOFTWARE}
        permit = permission(policy, joined=(told := Joined(state)), signed=told.role)
        try:
            async with _engine(openers, vault, software=around(software), permit=permit) as engine:
                yield engine
        finally:
            with anyio.CancelScope(shield=True):
                for swtpm in ours.values():
                    await to_thread.run_sync(swtpm.stop)


def _engine(
    openers: Mapping[str, Callable[[], Tpm]], vault: FolderVault, *, software: Tpm, permit: Callable[[str, str], None]
) -> Engine | SeveralTpms:
    if len(openers) > 1:
        return SeveralTpms(openers, vault, origins={name: origin_of(name) for name in openers}, software=software, permit=permit)
    name, open_tpm = next(iter(openers.items()), ("", None))
    return Engine(open_tpm, vault, software=software, permit=permit, name=name)


def _own_swtpm(state: State, name: str) -> Swtpm:
    """The first lies where the only one does."""
    folder, socket = state.swtpm, state.swtpm_socket
    return Swtpm(folder.with_name(name), socket_path=socket.with_name(f"{name}{socket.suffix}"))


class Joined:
    """Who joined besides the policy's files (`bus.open(agents=)`), by what the authority of this state folder signed last."""

    def __init__(self, state: State) -> None:
        self._folder = state.trust / "public"
        self._read: tuple[int, Mapping[str, str]] = (0, {})
        self._policy = Policy()

    def __call__(self, name: str) -> str | None:
        """Its role. Blocks. What cannot be read, or is not signed, lets nobody join."""
        with suppress(OSError, BusError):
            changed_ns = (self._folder / "bundle.bin").stat().st_mtime_ns
            if self._read[0] != changed_ns:
                self._read = changed_ns, self._agents()
            return self._read[1].get(name)
        return None

    def _agents(self) -> Mapping[str, str]:
        from bus.identity.public_trust import read_bundle  # noqa: PLC0415  the TPM service starts sooner without it

        bundle = read_bundle(self._folder)
        self._policy = Policy() if bundle is None else bundle.policy()
        return self._policy.agents

    def role(self, name: str) -> Role | None:
        """The same as that policy describes it: on a machine whose agents are another machine's hub's, no file here does."""
        return self._policy.roles.get(self(name) or "")


def nobody_joined(_: str) -> None:
    return None


def permission(
    policy: Policy,
    *,
    joined: Callable[[str], str | None] = nobody_joined,
    signed: Callable[[str], Role | None] = nobody_joined,
) -> Callable[[str, str], None]:
    """Raises NotPermittedError where policy wants an agent's key in a better place than this one.

    A name that policy does not know may have a key in a TPM: another roster may know it. It gets no software key.
    """

    def permit(name: str, origin: str) -> None:
        role = policy.roles.get(policy.agents.get(name) or joined(name) or policy.others or "") or signed(name)
        least = role.key_origin if role is not None else SOFTWARE_TPM
        if name != ATTESTATION and ORIGINS.index(origin) < ORIGINS.index(least):
            rule = f"role {role.name} demands key_origin {least}" if role is not None else "policy knows no agent of this name"
            raise NotPermittedError(name, f"have or use a key of origin {origin}", rule)

    return permit


def _opener(name: str, own: Swtpm | None, policy: Policy, around: Callable[[Tpm], Tpm]) -> Callable[[], Tpm]:
    def open_tpm() -> Tpm:
        try:
            from bus.tpm.esapi import EsapiTpm  # noqa: PLC0415  the TPM library is loaded only where a TPM is used
        except (ImportError, OSError) as error:
            raise TpmUnavailableError("no_library", f"tpm2-pytss does not load ({error}): {_LIBRARY}") from error

        if own is not None:
            own.start()
        tcti = own.tcti if own is not None else name
        return around(EsapiTpm(tcti, origin=origin_of(name), primary_handle=policy.primary_handle))

    return open_tpm

"""What works on this machine, what does not, and what to do about it: facts for `tpmbus doctor`."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.backends.openssl.backend import backend

from bus.errors import TpmError
from bus.hub import interpreter
from bus.hub.state import State
from bus.hub.which_tpm import chosen_tpm
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import Facts, Timing, TpmEngine
from bus.tpm.spelling import OWN_SWTPM, tpms_of
from bus.tpm.vault import FolderVault

Status = Literal["ok", "warning", "problem"]
_HARDWARE: Final = Path("/dev/tpmrm0")


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    status: Status
    text: str
    next_step: str = ""


@dataclass(slots=True)
class Report:
    findings: list[Finding] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    @property
    def problems(self) -> int:
        return sum(finding.status == "problem" for finding in self.findings)


def software() -> Iterator[Finding]:
    """Versions, and whether what an own software TPM needs is here."""
    names = ("tpmbus", "tpm2-pytss", "cryptography", "anyio")
    text = ", ".join(f"{name} {_version(name)}" for name in names)
    yield Finding("software", "ok", f"Python {platform.python_version()}, {text}, {backend.openssl_version_text()}")
    if not interpreter.is_optimized():
        step = "a Python of the system, or pyenv's with PYTHON_CONFIGURE_OPTS=--enable-optimizations"
        yield Finding("Python", "warning", "compiled without optimization: the bus is slower by a quarter", step)
    try:
        version("tpm2-pytss")
    except PackageNotFoundError:
        step = "install libtss2-dev, pkg-config, gcc and python3-dev, then `pip install tpm2-pytss`"
        yield Finding("TPM library", "problem", "tpm2-pytss is not installed: no TPM can be used", step)
    if shutil.which("swtpm") and shutil.which("swtpm_setup"):
        yield Finding("swtpm", "ok", _first_line("swtpm", "--version"))
    else:
        yield Finding("swtpm", "warning", "not installed: no software TPM can be made", "apt-get install swtpm swtpm-tools")


def hardware() -> Iterator[Finding]:
    """A chip that is here but not used is worth a word; it is never used unasked."""
    if not _HARDWARE.exists():
        yield Finding("hardware TPM", "ok", f"none at {_HARDWARE}")
        return
    try:
        with _HARDWARE.open("r+b", buffering=0):
            pass
    except PermissionError:
        yield Finding("hardware TPM", "warning", f"{_HARDWARE} is there, and not yours to open", "add yourself to the group tss")
    except OSError as error:
        yield Finding("hardware TPM", "warning", f"{_HARDWARE} does not open: {error.strerror}", "see who else has it open")
    else:
        used = any(name.startswith("device:") for name in tpms_of(chosen_tpm()))
        step = "" if used else f"to use it: TPMBUS_TPM=device:{_HARDWARE}"
        yield Finding("hardware TPM", "ok", f"{_HARDWARE} opens" + ("" if used else ", and is not used"), step)


def folders(state: State) -> Iterator[Finding]:
    """Who can read what must be read by nobody else."""
    yield Finding("state folder", "ok", f"{state.folder}, sockets in {state.runtime}")
    more_swtpms = sorted(state.folder.glob(f"{state.swtpm.name}-*"))
    for place in (state.folder, state.swtpm, *more_swtpms, state.vault, state.vault / "secret", state.runtime):
        if not place.exists():
            continue
        status = place.stat()
        if status.st_mode & 0o077 and _reachable(place, state.folder, state.runtime):
            yield Finding(
                str(place),
                "problem",
                f"others may read it (mode {status.st_mode & 0o777:o}): they have the keys",
                f"chmod go= {place}",
            )
        else:
            yield Finding(str(place), "ok", f"mode {status.st_mode & 0o777:o}, owner {place.owner()}")


def vault(state: State) -> Iterator[Finding]:
    """Whether every key file is what was written."""
    if not (state.vault / "index.json").exists():
        yield Finding("vault", "ok", "no keys yet", "tpmbus provision")
        return
    try:
        keys = FolderVault(state.vault)
        entries = keys.entries()
    except TpmError as error:
        yield Finding("vault", "problem", str(error), "restore it from a backup")
        return
    damaged = 0
    for entry in entries:
        try:
            keys.read(entry)
        except TpmError as error:
            damaged += 1
            yield Finding(f"key {entry.info.id}", "problem", str(error), f"tpmbus keys rotate {entry.info.name}")
    yield Finding("vault", "ok", f"{len(entries)} keys, {damaged} damaged")


async def tpm(engine: TpmEngine, state: State) -> AsyncIterator[Finding]:
    """The TPM as it answers."""
    async for finding in _each(engine):
        yield finding
    facts = await engine.facts()
    yield Finding("TPM", "ok", f"{chosen_tpm()}: {facts.description}, firmware {facts.firmware or '-'}, keys are `{facts.origin}`")
    yield Finding("algorithms", "ok", f"keys {', '.join(sorted(facts.kinds))}; hashes {', '.join(sorted(facts.hashes))}")
    missing = sorted(name for name in {suite.hash for suite in IDENTITY_SUITES.values()} if name not in facts.hashes)
    if missing:
        yield Finding("SHA-3", "ok", f"{', '.join(missing)} are computed here; the chip signs the digest, or the padded block")
    yield Finding("places for keys", "ok", f"{facts.transient_slots} at once; more are saved and restored")
    yield _lockout(facts)
    yield Finding("primary key", "ok", f"ours at 0x{facts.primary_handle:x}, Name {facts.primary_name.hex()[:24]}..")
    try:
        certificate = (await engine.endorsement()).certificate
    except TpmError as error:
        yield Finding("endorsement", "warning", str(error), "enrolment needs a TPM with an endorsement key")
        return
    yield _endorsement(certificate, state)


async def _each(engine: TpmEngine) -> AsyncIterator[Finding]:
    """Where there are several: whether each is there. What follows is about the first."""
    tpms = (await engine.statistics()).tpms
    for name, one in tpms.items() if len(tpms) > 1 else ():
        if one.is_there:
            yield Finding(f"TPM {name}", "ok", f"keys are `{one.origin}`, primary key's Name {one.primary_name.hex()[:24]}..")
        else:
            step = "start it or put it back; if it is lost, leave it out of --tpm and rotate its keys: `tpmbus keys list` has them"
            yield Finding(f"TPM {name}", "problem", "it is away: its keys fail, and no others", step)


async def timings(engine: TpmEngine) -> AsyncIterator[Timing | Finding]:
    """Each suite, measured on this chip; where one does not work, why."""
    for suite in IDENTITY_SUITES.values():
        try:
            yield await engine.measure(suite)
        except TpmError as error:
            yield Finding(f"suite {suite}", "problem", str(error), "let no role's policy name it on this machine")


def _lockout(facts: Facts) -> Finding:
    lockout = facts.lockout
    if lockout is None:
        return Finding("lockout", "ok", "no dictionary-attack protection, and none needed")
    text = f"{lockout.failed_tries} of {lockout.max_tries} failed tries"
    if lockout.locked or lockout.failed_tries >= lockout.max_tries:
        return Finding("lockout", "problem", f"the TPM is locked: {text}", "wait, or `tpm2_dictionarylockout --clear-lockout`")
    return Finding("lockout", "ok", f"{text}; our keys are exempt")


def _endorsement(der: bytes, state: State) -> Finding:
    if not der:
        return Finding("endorsement", "warning", "no certificate in the TPM", "enrol with a one-time token instead")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        return Finding("endorsement", "problem", f"its certificate does not parse: {error}", "ask the TPM's maker")
    text = f"certificate of {certificate.issuer.rfc4514_string()}"
    if tpms_of(chosen_tpm())[0] != OWN_SWTPM:
        return Finding("endorsement", "ok", text)
    try:
        issuer = x509.load_pem_x509_certificate((state.swtpm / "ca" / "issuercert.pem").read_bytes())
        certificate.verify_directly_issued_by(issuer)
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        step = f"move {state.swtpm} away and provision again"
        return Finding("endorsement", "problem", f"not by this state folder's own CA: {type(error).__name__}", step)
    return Finding("endorsement", "ok", f"{text}, this state folder's own CA")


def _reachable(place: Path, *tops: Path) -> bool:
    """Whether others get there at all: a closed folder above closes all below it."""
    folders = [place, *(parent for parent in place.parents if any(parent.is_relative_to(top) for top in tops))]
    return all(folder.stat().st_mode & 0o011 or folder == place for folder in folders)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  fixed programs
    return next(iter(done.stdout.splitlines()), "it says nothing").split(", Copyright")[0]

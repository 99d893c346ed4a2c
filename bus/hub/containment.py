"""A process that gives up what it will not need: files by Landlock, system calls by a filter, for good and for all that it starts.

    files    what is listed may be read, or written; all else is out of reach, whoever's it is
    calls    no new connection to anybody, no other program, no look into another process

For the broker: it is what strangers talk to, and the keys of every agent lie in a folder of the same user. A parser that can be
made to do what it should not must find nothing there, and no socket of the TPM service to ask. Both need a Linux of the last few
years; `contained` says what held.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_NO_NEW_PRIVILEGES: Final = 38
_SET_DUMPABLE: Final = 4
_SET_SECCOMP: Final = 22
_SECCOMP_FILTER: Final = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULESET_VERSION: Final = 1
_PATH_BENEATH: Final = 1

# What a rule of Landlock may allow; each kernel knows the first so many.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in range(13, 16))
_KNOWN_BY_VERSION: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE: Final = (
    _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _REFER | _TRUNCATE
)
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""What a rule for a single file may hold."""

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED: Final = {
    "x86_64": {"connect": 42, "ptrace": 101, "execve": 59, "execveat": 322, "process_vm_readv": 310, "process_vm_writev": 311,
               "open_by_handle_at": 304, "pidfd_getfd": 438},
    "aarch64": {"connect": 203, "ptrace": 117, "execve": 221, "execveat": 281, "process_vm_readv": 270, "process_vm_writev": 271,
                "open_by_handle_at": 265, "pidfd_getfd": 438},
}  # fmt: skip
_EPERM: Final = 1


def contain(*, read: Iterable[Path], write: Iterable[Path]) -> frozenset[str]:
    """From now on, whatever happens. What held: "files", "calls"; fewer where this kernel knows less."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return frozenset()
    held = set()
    if _only_these_files(libc, [*read], [*write]):
        held.add("files")
    if _not_these_calls(libc):
        held.add("calls")
    return frozenset(held)


def needed_to_run() -> list[Path]:
    """What Python reads while it runs: itself, its packages, the system's libraries."""
    found = [sys.prefix, sys.base_prefix, *sys.path, "/usr", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys/devices/system/cpu"]
    return [Path(place) for place in dict.fromkeys(found) if place and Path(place).exists()]


def _only_these_files(libc: ctypes.CDLL, read: list[Path], write: list[Path]) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
    if version < 1:
        return False
    known = (1 << _KNOWN_BY_VERSION.get(version, _KNOWN_BY_VERSION[5])) - 1
    ruleset = libc.syscall(_CREATE_RULESET, struct.pack("=Q", known), 8, 0)
    if ruleset < 0:
        return False
    try:
        allowed = [(place, _READ) for place in read] + [(place, _WRITE) for place in write]
        return all(_allow(libc, ruleset, place, rights & known) for place, rights in allowed) and (
            libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, place: Path, rights: int) -> bool:
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        if not place.is_dir():
            rights &= _OF_FILES
        return bool(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0) == 0)
    finally:
        os.close(descriptor)


def _not_these_calls(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    program = _filter(_ARCHITECTURES[machine], [*_REFUSED[machine].values()])
    held = ctypes.create_string_buffer(program)
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    return bool(libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, header, 0, 0) == 0)


def _filter(architecture: int, refused: list[int]) -> bytes:
    """In the language of the kernel's packet filters: calls of another architecture and those listed fail with EPERM."""
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | _EPERM
    to_refusal = len(refused) + 2
    lines = [(load, 0, 0, 4), (equal, 0, to_refusal, architecture), (load, 0, 0, 0), (above, to_refusal - 2, 0, 0x40000000)]
    lines += [(equal, len(refused) - place, 0, number) for place, number in enumerate(refused)]
    lines += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", code, yes, no, value) for code, yes, no, value in lines)

"""A process that gives up what it will not need: files by Landlock, system calls by a filter, for good and for all that it starts.

    files    what is listed may be read, or written; all else is out of reach, whoever's it is
    calls    no new connection to anybody, no other program, no look into another process
    ports    for who needs them: connections by TCP to these ports, wherever, and to nothing else

A process that may connect could ask the socket of the TPM service too, which is a file that Landlock does not guard. So once all of
its own sockets listen it can make no more of that kind (`no_more_local_sockets`), and none of UDP at any time: it finds no names.

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
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_NO_NEW_PRIVILEGES: Final = 38
_SET_DUMPABLE: Final = 4
_SET_SECCOMP: Final = 22
_SECCOMP_FILTER: Final = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULESET_VERSION: Final = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_CONNECT_TCP: Final = 2
_WITH_PORTS: Final = 4
"""The version of Landlock that knows them."""

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
    "x86_64": {"ptrace": 101, "execve": 59, "execveat": 322, "process_vm_readv": 310, "process_vm_writev": 311,
               "open_by_handle_at": 304, "pidfd_getfd": 438, "io_uring_setup": 425},
    "aarch64": {"ptrace": 117, "execve": 221, "execveat": 281, "process_vm_readv": 270, "process_vm_writev": 271,
                "open_by_handle_at": 265, "pidfd_getfd": 438, "io_uring_setup": 425},
}  # fmt: skip
_CONNECT: Final = {"x86_64": 42, "aarch64": 203}
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}
_LOCAL, _IPV4, _IPV6 = 1, 2, 10
_STREAM: Final = 1
_EPERM: Final = 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | _EPERM


def contain(*, read: Iterable[Path], write: Iterable[Path], ports: Collection[int] = ()) -> frozenset[str]:
    """From now on, whatever happens. `ports`: to which it may connect by TCP; no connections at all without.

    What held: "files", "calls", "ports"; fewer where this kernel knows less.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return frozenset()
    held = set()
    if _only_these_files(libc, [*read], [*write]):
        held.add("files")
    if ports and _only_these_ports(libc, ports):
        held.add("ports")
    if _not_these_calls(libc, may_connect=bool(ports)):
        held.add("calls")
    return frozenset(held)


def no_more_local_sockets() -> bool:
    """From now on only sockets of TCP are made: for who may connect, once its own sockets listen. Whether it holds."""
    machine = platform.machine()
    return machine in _ARCHITECTURES and _take(ctypes.CDLL(None, use_errno=True), machine, [], (_IPV4, _IPV6))


def needed_to_run() -> list[Path]:
    """What Python reads while it runs: itself, its packages, the system's libraries; and of devices only these.

    Beside them, in /dev/shm, is what other programs of this user keep in memory.
    """
    found = [sys.prefix, sys.base_prefix, *sys.path, "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys/devices/system/cpu"]
    found += ["/dev/null", "/dev/random", "/dev/urandom"]
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


def _only_these_ports(libc: ctypes.CDLL, ports: Iterable[int]) -> bool:
    """A second set of rules: each holds for what it speaks of."""
    if libc.syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION) < _WITH_PORTS:
        return False
    ruleset = libc.syscall(_CREATE_RULESET, struct.pack("=QQ", 0, _CONNECT_TCP), 16, 0)
    if ruleset < 0:
        return False
    try:
        rules = (struct.pack("=QQ", _CONNECT_TCP, port) for port in ports)
        return all(libc.syscall(_ADD_RULE, ruleset, _NET_PORT, rule, 0) == 0 for rule in rules) and (
            libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)


def _not_these_calls(libc: ctypes.CDLL, *, may_connect: bool) -> bool:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    refused = [*_REFUSED[machine].values()] + ([] if may_connect else [_CONNECT[machine]])
    return _take(libc, machine, refused, (_LOCAL, _IPV4, _IPV6) if may_connect else ())


def _take(libc: ctypes.CDLL, machine: str, refused: list[int], families: Sequence[int]) -> bool:
    program = _filter(_ARCHITECTURES[machine], refused, _SOCKET[machine], families)
    held = ctypes.create_string_buffer(program)
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    return bool(libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, header, 0, 0) == 0)


class _Line(NamedTuple):
    code: int
    value: int
    yes: str = ""
    """To which label, if it is so; to the next line without."""
    no: str = ""
    label: str = ""


def _filter(architecture: int, refused: list[int], socket_call: int, families: Sequence[int]) -> bytes:
    """In the language of the kernel's packet filters: calls of another architecture and those listed fail with EPERM.

    So do sockets of other families than these, where there are some, or of another kind than streams.
    """
    load, masked, equal, above, give = 0x20, 0x54, 0x15, 0x35, 0x06
    number_at, kind_at, first_at, second_at = 0, 4, 16, 24
    lines = [_Line(load, kind_at), _Line(equal, architecture, no="refuse")]
    lines += [_Line(load, number_at), _Line(above, 0x40000000, yes="refuse")]
    lines += [_Line(equal, number, yes="refuse") for number in refused]
    if families:
        lines += [_Line(equal, socket_call, no="allow"), _Line(load, first_at)]
        lines += [_Line(equal, family, yes="stream") for family in families]
        lines += [_Line(give, _REFUSE), _Line(load, second_at, label="stream"), _Line(masked, 0xF)]
        lines += [_Line(equal, _STREAM, no="refuse")]
    lines += [_Line(give, _ALLOW, label="allow"), _Line(give, _REFUSE, label="refuse")]
    places = {line.label: place for place, line in enumerate(lines) if line.label}

    def jump(place: int, label: str) -> int:
        return places[label] - place - 1 if label else 0

    return b"".join(
        struct.pack("=HBBI", line.code, jump(place, line.yes), jump(place, line.no), line.value) for place, line in enumerate(lines)
    )

"""A relay between the TPM library and swtpm: it writes down all that passes, and can change it or answer itself.

It speaks what swtpm's Unix sockets speak: on the data channel one command and one answer a connection, on the control channel
whatever goes there.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SIGN, RSA_DECRYPT, LOAD, START_AUTH_SESSION, CREATE, UNSEAL = 0x15D, 0x159, 0x157, 0x176, 0x153, 0x15E


class Relay:
    """`before` gets each command and may give another one, or an answer (`Answer`); `after` gets each answer."""

    def __init__(self, path: Path, *, to: Path) -> None:
        self.path, self._to = path, to
        self.commands: list[bytes] = []
        self.answers: list[bytes] = []
        self.before: Callable[[bytes], bytes | Answer] = lambda command: command
        self.after: Callable[[bytes, bytes], bytes] = lambda command, answer: answer  # noqa: ARG005  as others are called
        self._listening = [self._listen(path, self._data), self._listen(control(path), self._control)]

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self.path}"

    @property
    def wire(self) -> bytes:
        """All that has passed, both ways."""
        return b"".join(self.commands) + b"".join(self.answers)

    def count(self, code: int) -> int:
        return sum(code_of(command) == code for command in self.commands)

    def close(self) -> None:
        for listener in self._listening:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listen(self, path, serve):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(16)

        def accept():
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def _data(self, client):
        with suppress(OSError), client:
            while command := receive(client):
                self.commands.append(command)
                sent = self.before(command)
                answer = sent.bytes if isinstance(sent, Answer) else self.after(command, self._ask(sent))
                self.answers.append(answer)
                client.sendall(answer)

    def _ask(self, command):
        with socket.socket(socket.AF_UNIX) as chip:
            chip.connect(str(self._to))
            chip.sendall(command)
            return receive(chip)

    def _control(self, client):
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as chip:
            chip.connect(str(control(self._to)))
            there = threading.Thread(target=pump, args=(client, chip), daemon=True)
            there.start()
            pump(chip, client)


class Answer:
    """What the relay says in the TPM's place: a response code alone."""

    def __init__(self, rc: int) -> None:
        self.bytes = struct.pack(">HII", 0x8001, 10, rc)


def control(path: Path) -> Path:
    return path.with_name(path.name + ".ctrl")


def code_of(command: bytes) -> int:
    return struct.unpack_from(">I", command, 6)[0]


def receive(source: socket.socket) -> bytes:
    """One command or answer, by the size in its header; empty at the end."""
    data = b""
    while len(data) < 10 or len(data) < struct.unpack_from(">I", data, 2)[0]:
        more = source.recv(4096)
        if not more:
            return b""
        data += more
    return data


def pump(source, target):
    with suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)

"""A program for `quick_python`: hands its arguments, environment, folder, input and outputs to the twin of forked_command.py."""

from __future__ import annotations

import json
import os
import socket
import sys

environ = dict(os.environ)
path = environ.pop("TPMBUS_TEST_TWIN")
del environ["TPMBUS_TEST_PYTHON"]
order = {"arguments": sys.argv[4:], "environ": environ, "folder": os.getcwd()}  # noqa: PTH109  started a hundred times: with few imports
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    line.connect(path)
    socket.send_fds(line, [json.dumps(order).encode()], [0, 1, 2])

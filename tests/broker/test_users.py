"""Real users of this machine at a broker's socket: the kernel says who they are, and that only ever restricts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from played import Played, Stage

from bus.identity.host.host_keys import HostKeys
from bus.policy.model import UidGrant
from bus.protocol.frames import Frame, encode
from bus.protocol.handshake import HelloA, agent_tbs, transcript
from bus.protocol.kem import HYBRID
from bus.transport.connected import unix_link
from bus.transport.listening_links import listening

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]
NOBODY = 65_534
CHILD = """
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
link = socket.socket(socket.AF_UNIX); link.connect(sys.argv[1])
socket.send_fds(socket.socket(fileno=1), [b"."], [link.fileno()])
"""
"""Connects as nobody, and hands its connection to us: to the kernel it stays nobody's."""


def connected_by_nobody(path: Path) -> socket.socket:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([sys.executable, "-c", CHILD, str(path)], stdout=theirs, check=True, timeout=30)
        _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
    link = socket.socket(fileno=number)
    link.setblocking(False)
    return link


@pytest.fixture
def passable(runtime: Path) -> Path:
    """A folder that others may go through."""
    runtime.chmod(0o711)
    return runtime


async def answers(host: Played, count: int) -> None:
    with anyio.fail_after(10):
        while len(host.came) < count and not host.lost:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("case", ["listed", "not listed", "listed, with a key that is not proven"])
async def test_another_user_comes_in_where_policy_lists_it_and_it_proves_its_key(stage: Stage, passable: Path, case: str):
    policy = stage.world.policy
    listed = (UidGrant(NOBODY, frozenset()),) if case != "not listed" else ()
    roles = {**policy.roles, "command": replace(policy.roles["command"], uids=listed)}
    await stage.follow(policy=replace(policy, roles=roles))
    async with listening(f"unix://{passable}/s/bus.sock", stage.broker.attach, group=NOBODY):
        connection = await anyio.to_thread.run_sync(connected_by_nobody, passable / "s" / "bus.sock")
        link = await unix_link(connection, "to the broker")
        host = Played(stage, link, ["DIRECTOR"])  # type: ignore[arg-type]  # any link will do
        hello_a = HelloA((1,), os.urandom(32), (host.agents["DIRECTOR"].papers,)).encode()
        host.send(Frame.HELLO_A, hello_a)
        await answers(host, 2)
        t = transcript(hello_a, host.came[0][1])
        keys = HostKeys.make(HYBRID, os.urandom) if "not proven" in case else host.keys
        link.send(encode(Frame.PROVE, keys.sign(agent_tbs(t))))
        await answers(host, 3)
        if case == "listed":
            assert host.came[2][0] == Frame.TRUST
            assert stage.counted["agents"] == 1
        else:
            assert host.came[2] == [Frame.REFUSE, "not_permitted" if case == "not listed" else "unverified", b""]
            assert stage.counted["agents"] == 0
        assert [who for who in stage.counted["offences"] if str(NOBODY) not in who] == []
        link.close()
        with anyio.fail_after(10):
            while stage.counted["links_open"] or not host.lost:
                await anyio.lowlevel.checkpoint()

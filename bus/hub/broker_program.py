"""The broker in a process of its own: what strangers talk to has no key but its own, and cannot get at any other.

gets       STATE/broker (its key, what it shows over TLS), STATE/journal, the folder of its sockets; to read, STATE/trust/public
not        the TPM's socket, the vault, the authority's folder, anybody's home; no connection to anywhere but to the ports of the
           NATS servers that it was told of; no other program
says       one line of JSON when it listens, or why it cannot; before that, what it waits for
told       by its supervisor, over a socket of its own: that trust has changed, to drain; and it looks for itself each second
ends       with its supervisor, whose pipe it holds

python -m bus.hub.broker_program        and one line on its standard input that says where everything is
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread

from bus.clock import Clock, SystemClock
from bus.errors import BusError, VaultError
from bus.hub.admin import Desk, described
from bus.hub.backbones import NatsServers
from bus.hub.broker_here import BrokerHere
from bus.hub.broker_identity import BROKER_SUITE, gateway_holder, holder_of, open_broker_engine
from bus.hub.collecting import leave_what_is_here
from bus.hub.containment import contain, needed_to_run, no_more_local_sockets
from bus.hub.core_dumps import forbid_core_dumps
from bus.hub.household import alone
from bus.hub.shared_trust import begun_with
from bus.hub.state import State
from bus.identity import trust_documents
from bus.identity.anchor import BROKER, Anchor, read_anchor
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.session import Holder
from bus.identity.public_trust import read_broker
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.metrics.sources import plain
from bus.tpm.interface import SOFTWARE, TpmEngine
from bus.transport import address
from bus.transport.address import UnixAddress

_log = logging.getLogger(__name__)
_NATS_LOG = logging.getLogger("bus.backbone.nats")
LOOK_SECONDS: Final = 1.0
_STATEMENT: Final = "statement.bin"


class Program:
    """`servers`: of NATS, their names looked up."""

    def __init__(self, state: State, urls: list[str], servers: NatsServers | None, clock: Clock, *, is_authority: bool) -> None:
        self.state, self.urls, self.servers, self.clock = state, urls, servers, clock
        self._is_authority = is_authority
        self._public = state.trust / "public"
        self._lock = anyio.Lock()
        self._stamp = (0, 0)
        self._engine: TpmEngine
        self._memory: TrustMemory
        self._anchor: Anchor
        self._broker: BrokerHere

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            self._anchor = await to_thread.run_sync(read_anchor, self._public)
            self._memory = await to_thread.run_sync(TrustMemory, self.state.broker, self.clock)
            self._stamp = _stamp(self._public)
            documents, snapshot = await self._trust()
            self._engine = await stack.enter_async_context(open_broker_engine(self.state, clock=self.clock))
            holder = await self._holder()
            self._broker = BrokerHere(
                self.state, self._anchor, self._memory, snapshot=snapshot, documents=documents, servers=self.servers,
                is_authority=self._is_authority, clock=self.clock,
            )  # fmt: skip
            await stack.enter_async_context(self._broker.running(self._engine, holder, self.urls, issue=None))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(self._keep_looking)
            desk = Desk()
            for verb in (self.follow, self._broker.drain, self._broker.live, self.statistics):
                desk.register(verb.__name__, verb)
            desk.register("petitions", self.petitions)
            desk.register("answer_petition", self.answer_petition)
            self._broker.register(desk, self.statistics)
            await tasks.start(desk.serve, self.state.broker_desk)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    @property
    def open_urls(self) -> list[str]:
        return self._broker.urls

    async def _trust(self) -> tuple[TrustDocuments, Snapshot]:
        """To begin with. A gateway's broker hears what is new before anybody else here does, and keeps it in its own folder."""
        if self._is_authority:
            return await trust_documents.accept_from(self._public, self._memory, self._verifier())
        snapshot, documents = await begun_with(self._public, self.state.broker, self._anchor, self._memory)
        return documents, snapshot

    async def follow(self) -> None:
        """Read what is public again, and act by it. Raises what does not verify; then nothing changes."""
        if not self._is_authority:  # what is public here came from this very broker
            await self._broker.take_holder(await self._holder())
            return
        async with self._lock:
            stamp = _stamp(self._public)
            documents, snapshot = await trust_documents.accept_from(self._public, self._memory, self._verifier())
            self._broker.follow(snapshot, documents)
            await self._broker.take_holder(await self._holder())
            newest = self._memory.highest
            _log.info("follows policy version %d and trust statement %d", newest.policy_version, newest.number)
            self._stamp = stamp  # what was not taken in, for want of room on the disk perhaps, is looked at again

    async def petitions(self) -> AsyncGenerator[list[Any], None]:
        """What agents ask of the authority, which the supervisor has: numbers and requests, in hex."""
        async with aclosing(self._broker.petitions()) as taken:
            async for number, request in taken:
                yield [number, request.hex()]

    def answer_petition(self, number: int, answer: str) -> None:
        self._broker.answer_petition(number, bytes.fromhex(answer))

    async def statistics(self) -> dict[str, Any]:
        return dict(plain(await self._broker.statistics()))

    async def _keep_looking(self) -> None:
        said = ""
        while True:
            await self.clock.sleep(LOOK_SECONDS)
            if self._is_authority and await to_thread.run_sync(_stamp, self._public) != self._stamp:
                try:
                    await self.follow()
                    said = ""
                except BusError as error:
                    if str(error) != said:
                        _log.error("what is public is not believed, and looked at again each second: %s", error)
                    said = str(error)

    def _verifier(self) -> Verifier:
        return Verifier(self._anchor.root, self._anchor.domain, ml_dsa_root=self._anchor.ml_dsa_root)

    async def _holder(self) -> Holder:
        """Its key, and the certificate for it that is public."""
        if not self._is_authority:
            return await gateway_holder(self.state, self._engine, self._anchor)
        key = await self._engine.create(BROKER, BROKER_SUITE, origin=SOFTWARE)
        anchor = self._anchor
        found = await to_thread.run_sync(lambda: read_broker(self._public, BROKER, root=anchor.root, domain=anchor.domain))
        if found is None or found.spki != key.spki:
            text = "the broker has no certificate for its key: the hub that starts it makes one"
            raise VaultError("missing", text, path=str(self._public / "certificates"))
        return holder_of(found, key)


def _stamp(public: Path) -> tuple[int, int]:
    """The statement is replaced at each change, and last."""
    try:
        status = (public / _STATEMENT).stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_ino


async def _serve(state: State, urls: list[str], servers: NatsServers | None, held: frozenset[str], *, is_authority: bool) -> None:
    program = Program(state, urls, servers, SystemClock(), is_authority=is_authority)
    waits = _Waits(logging.WARNING)
    _NATS_LOG.addHandler(waits)
    async with alone(), program.running():  # alone: what keeps it from running is said as it is, not in a group
        _NATS_LOG.removeHandler(waits)
        if servers is not None and not no_more_local_sockets():
            held -= {"calls"}
        _say(urls=program.open_urls, held=sorted(held))
        leave_what_is_here()
        await _until_alone()
        await program._broker.drain()  # noqa: SLF001  they are one


class _Waits(logging.Handler):
    """What a start waits for: whoever started it has no other way to see it."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(waiting=record.getMessage())


async def _until_alone() -> None:
    """The supervisor never writes again; its end of the pipe closes when it ends, however it does."""
    while True:
        await anyio.wait_readable(sys.stdin.fileno())
        if not os.read(sys.stdin.fileno(), 4_096):
            return


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _contained(state: State, urls: list[str], servers: NatsServers | None) -> frozenset[str]:
    write = [state.journal, state.broker, state.broker_desk.parent]
    write += [place.path.parent for url in urls if isinstance(place := address.parse(url), UnixAddress)]
    read = [*needed_to_run(), state.trust / "public", *map(Path, filter(None, [os.environ.get("SSL_CERT_FILE")]))]
    ports = () if servers is None else servers.ports
    return contain(read=read, write=[place for place in write if place.is_dir()], ports=ports)


def main() -> None:
    """Exits with 1 after a line that says why."""
    order: Mapping[str, Any] = json.loads(sys.stdin.readline())
    state, urls = State(Path(order["folder"]), Path(order["runtime"])), [str(url) for url in order["urls"]]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s broker %(levelname)s %(message)s", stream=sys.stderr)
    forbid_core_dumps()
    backend_options = {"use_uvloop": find_spec("uvloop") is not None}
    try:
        servers = NatsServers.parse(order["servers"]).looked_up().logged_in(os.environ) if "servers" in order else None
        held = _contained(state, urls, servers)
        serve = partial(_serve, state, urls, servers, held, is_authority=bool(order.get("authority", True)))
        anyio.run(serve, backend_options=backend_options)
    except BusError as error:
        _say(error=described(error))
        sys.exit(1)


if __name__ == "__main__":
    main()

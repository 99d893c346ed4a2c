"""The papers of a gateway: what the hub with the authority gives, and what the other machine makes of it.

    there    a key of its broker's own, made in STATE/broker and never carried anywhere
    here     a certificate of profile broker for that key, under a name that no agent and no other gateway has
    then     root, broker names, policy, revocations, statement, as for any other machine (`far_host`); TLS for a day

Who may have a certificate made decides who may carry messages, so the way to it is the operator's own: `tpmbus host desk
--gateways`, by an ssh key that is good for that. The desk that other machines use (`far_desk`) knows none of these verbs.

A name that has another key already is refused: a gateway that lost its key gets another name, or its certificate is revoked first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NamedTuple

from anyio import to_thread

from bus.clock import Clock
from bus.errors import NotPermittedError, RemoteProtocolError, VaultError
from bus.hub.admin import Desk
from bus.hub.broker_identity import BROKER_SUITE, gateway_key, open_broker_engine, pin_gateway, was_revoked
from bus.hub.doors import broker_tls, hosts_of
from bus.hub.enrolling import fits
from bus.hub.far_desk import Asks
from bus.hub.far_host import FarHost
from bus.hub.in_force import InForce
from bus.hub.state import State
from bus.hub.tls_papers import NO_HOSTS
from bus.identity import durable
from bus.identity.anchor import BROKER, Anchor, read_anchor
from bus.identity.authority import Authority
from bus.identity.public_trust import pem, read_broker, read_crl
from bus.policy import Policy
from bus.protocol.names import is_agent_name
from bus.tpm.interface import SOFTWARE, KeyInfo, TpmEngine
from bus.trust import certificates, revocations
from bus.trust.certificates import Certificate, Profile

VERBS: Final = frozenset(("papers", "certify_gateway", "issue_gateway_tls"))
"""What `tpmbus host desk --gateways` answers."""


class GatewayDesk:
    """At the hub with the authority."""

    def __init__(self, authority: Authority, in_force: InForce, policy: Callable[[], Policy]) -> None:
        self._authority, self._in_force, self._policy = authority, in_force, policy

    def register(self, desk: Desk) -> None:
        for verb in (self.certify_gateway, self.issue_gateway_tls):
            desk.register(verb.__name__, verb)

    async def certify_gateway(self, name: str, spki: str) -> str:
        """A certificate for a year, for the broker of this name, whose key this is, both in hex (DER).

        Raises NotPermittedError for a name that somebody has, AttestationError("name_taken") for one that has another key.
        """
        check_name(name, self._policy())
        made: list[bytes] = []
        key = bytes.fromhex(spki)

        def work() -> None:
            if was_revoked(self._authority, name, key):
                raise NotPermittedError(
                    "operator", f"have {name} back as a gateway", "that key was revoked: make one in another folder"
                )
            pin_gateway(self._authority, name)
            made.append(self._authority.issue_identity(name, key, BROKER_SUITE, SOFTWARE, 0, b"", profile=Profile.BROKER))

        await self._in_force.settle(work)
        return made[0].hex()

    async def issue_gateway_tls(self, name: str, spki: str, dns: Sequence[str], ips: Sequence[str]) -> str:
        """What a gateway shows at its addresses for a day. Raises AttestationError("not_enrolled")."""
        check_name(name, self._policy())
        authority, found = self._authority, [ip_address(one) for one in ips]

        def work() -> bytes:
            if authority.holder(name, profile=Profile.BROKER) is None:
                raise NotPermittedError("operator", f"show {name} over TLS", "it is no gateway: `tpmbus host gateway` makes it one")
            return authority.issue_tls(name, bytes.fromhex(spki), [*dns], found)

        return (await to_thread.run_sync(work)).hex()


def check_name(name: str, policy: Policy) -> None:
    """Raises NotPermittedError for what no gateway is called."""
    if not is_agent_name(name):
        raise NotPermittedError("operator", f"name a gateway {name[:40]!r}", "a name is 1 to 32 of A-Z 0-9, a letter first")
    if name == BROKER or name in policy.agents:
        raise NotPermittedError("operator", f"name a gateway {name}", "somebody has this name already")


class Brought(NamedTuple):
    certificate: Certificate
    is_new: bool


@dataclass(frozen=True, slots=True)
class GatewayPapers:
    """At the gateway's machine. `way` leads to `tpmbus host desk --gateways`."""

    state: State
    way: Asks
    clock: Clock

    async def bring(self, name: str, urls: Sequence[str]) -> Brought:
        """All that is missing or due, so that `tpmbus run --backbone` can serve at these addresses. Makes nothing twice.

        Raises VaultError("wrong_domain") for a folder of another bus or with another gateway's key, and what the hub refuses.
        """
        hosts = hosts_of(urls)
        host = FarHost(self.state, self.way, self.clock)
        check_name(name, await host.take_trust())  # before there is a key that is called so
        async with open_broker_engine(self.state, clock=self.clock) as engine:
            key = await self._key(engine, name)
            anchor = await to_thread.run_sync(read_anchor, self.state.trust / "public")
            brought = await self._certificate(key, anchor)
            if brought.is_new:
                await host.take_trust()  # with its name among those of brokers
        if hosts != NO_HOSTS:

            async def issue(spki: bytes) -> bytes:
                asked = {"dns": [*hosts.dns], "ips": [*map(str, hosts.ips)]}
                return _bytes(await self.way.ask("issue_gateway_tls", name=name, spki=spki.hex(), **asked))

            papers = broker_tls(self.state, anchor, urls, name=name)
            await papers.get(issue, is_client=False, now_ms=self.clock.now_ms())
        return brought

    async def _key(self, engine: TpmEngine, name: str) -> KeyInfo:
        known = await gateway_key(engine)
        if known is not None and known.name != name:
            text = f"this state folder is the gateway {known.name}'s: call it so, or choose another folder with --state"
            raise VaultError("wrong_domain", text, path=str(self.state.broker))
        return known or await engine.create(name, BROKER_SUITE, origin=SOFTWARE)

    async def _certificate(self, key: KeyInfo, anchor: Anchor) -> Brought:
        public = self.state.trust / "public"
        held = await to_thread.run_sync(lambda: read_broker(public, key.name, root=anchor.root, domain=anchor.domain))
        taken_back = revocations.read(await to_thread.run_sync(read_crl, public), root=anchor.root).revoked
        is_good = held is not None and fits(held, key, now_ms=self.clock.now_ms()) and held.serial not in taken_back
        if held is not None and is_good and key.name in anchor.brokers:
            return Brought(held, is_new=False)
        der = _bytes(await self.way.ask("certify_gateway", name=key.name, spki=key.spki.hex()))
        made = certificates.read(der, root=anchor.root, domain=anchor.domain, profile=Profile.BROKER)
        if (made.name, made.spki) != (key.name, key.spki):
            raise RemoteProtocolError("malformed", "the hub certified another key, or another name")
        place = public / "certificates" / f"broker.{key.name}.pem"
        await to_thread.run_sync(lambda: durable.replace(place, pem("CERTIFICATE", der).encode()))
        return Brought(made, is_new=True)


def _bytes(said: object) -> bytes:
    try:
        return bytes.fromhex(str(said))
    except ValueError as error:
        raise RemoteProtocolError("malformed", "what answers there makes no papers") from error

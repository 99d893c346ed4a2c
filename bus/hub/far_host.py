"""The state folder of another machine: what is pinned there, its agents' keys and papers, and what they show over TLS.

    public    root and ML-DSA root key are written once and never replaced, and of broker names none goes: the hub whose root that
              is may name new ones (gateways that came later); policy, revocations, statement each time
    keys      made here, in this machine's TPM; nothing private goes anywhere
    papers    enrolled at the hub's desk: by a token, by a chip that is listed, or by the key that has the name already
    tls       a key and a certificate for a day

Every step looks at what is there and makes what is missing. So the same call joins a machine, renews what is due, and brings what
was revoked meanwhile: once a day is enough, since a TLS certificate is renewed when a third of its day is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from anyio import to_thread

from bus.clock import Clock
from bus.errors import AttestationError, RemoteProtocolError, VaultError, VerificationError
from bus.hub.enrolling import fits
from bus.hub.far_desk import Asks
from bus.hub.inboxes import Inboxes
from bus.hub.join_advice import advised
from bus.hub.state import State
from bus.hub.tls_papers import TlsPapers
from bus.identity import durable, kem_keys, trust_documents
from bus.identity.anchor import BROKERS, Anchor, encode_brokers, parse_brokers, read_anchor, read_brokers
from bus.identity.enroll import Predecessor, Wish, enroll
from bus.identity.envelopes.verifier import Verifier
from bus.identity.inbox import Signer
from bus.identity.provision import plan, provision
from bus.identity.public_trust import ML_DSA_ROOT, pem, read_agent, read_crl
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.policy import Policy
from bus.protocol import kem
from bus.protocol.kem import PrivateKey
from bus.tpm.interface import SOFTWARE, KeyInfo, TpmEngine
from bus.trust import revocations
from bus.trust.certificates import Certificate
from bus.trust.enrolment_messages import LISTED, RENEWAL, TOKEN
from bus.trust.root import Root

MAX_ROOT_BYTES: Final = 8_192
SHOWN: Final = ("root", "ml_dsa_root", "brokers", "crl", "bundle", "statement")


class Member(NamedTuple):
    certificate: Certificate
    enrolled: bool
    """Just now."""

    @property
    def name(self) -> str:
        return self.certificate.name


@dataclass(frozen=True, slots=True)
class FarHost:
    state: State
    way: Asks
    clock: Clock

    @property
    def _public(self) -> Path:
        return self.state.trust / "public"

    async def take_trust(self) -> Policy:
        """What everybody may read, believed and written down; the policy in force.

        Raises VaultError("wrong_domain") for a folder that has another root pinned, or an authority of its own; VerificationError.
        """
        said = _files(await self.way.ask("papers"))
        await to_thread.run_sync(self._pin, said)
        anchor = await to_thread.run_sync(read_anchor, self._public)
        memory = await to_thread.run_sync(TrustMemory, self.state.trust)
        documents = TrustDocuments(said["crl"], said["bundle"], said["statement"])
        verifier = Verifier(anchor.root, anchor.domain, ml_dsa_root=anchor.ml_dsa_root)
        snapshot = await trust_documents.accept(documents, memory, verifier)
        await to_thread.run_sync(keep_documents, self._public, documents)
        return snapshot.policy

    async def join(
        self, engine: TpmEngine, names: Sequence[str], tokens: Mapping[str, bytes], *, environ: Mapping[str, str], policy: Policy
    ) -> list[Member]:
        """Raises NotPermittedError, AttestationError with the authority's reason, TpmError, VaultError."""
        anchor = await to_thread.run_sync(read_anchor, self._public)
        wanted = plan(policy, names, origin=(await engine.facts()).origin, environ=environ)
        keys = {one.wanted.agent: one.key async for one in provision(engine, wanted)}
        now_ms = self.clock.now_ms()
        held = await to_thread.run_sync(lambda: {name: self._held(name, anchor, now_ms) for name in names})
        due = [name for name in names if not fits(held[name], keys[name], now_ms=now_ms)]
        prepared = {name: kem_keys.generate(kem.BY_WORD[policy.role_of(name).inbox]) for name in due}
        every = {info.spki: info for info in await engine.keys()}
        wishes = [_wish(keys[name], prepared[name], held[name], tokens.get(name, b""), engine, every) for name in due]
        if wishes:
            try:
                enrolled = await enroll(engine, wishes, exchange=self._exchange, root=anchor.root, domain=anchor.domain)
            except AttestationError as error:
                raise advised(error, self.state) from error
            for one in enrolled:
                held[one.name] = one.certificate
                await to_thread.run_sync(self._keep, one.certificate)
        inboxes = await Inboxes.open(self.state, engine, policy, clock=self.clock)
        members = []
        for name in names:
            certificate = held[name]
            if certificate is not None:
                await inboxes.keep(Signer(certificate, keys[name].id), prepared=prepared.get(name))
                await self._show_over_tls(name, anchor)
                members.append(Member(certificate, name in due))
        return members

    async def _show_over_tls(self, name: str, anchor: Anchor) -> None:
        async def issue(spki: bytes) -> bytes:
            return bytes.fromhex(await self.way.ask("issue_tls", name=name, spki=spki.hex()))

        papers = TlsPapers(self.state.tls, name, anchor, self._public)
        await papers.get(issue, is_client=True, now_ms=self.clock.now_ms())

    async def _exchange(self, message: bytes) -> bytes:
        return bytes.fromhex(await self.way.ask("enroll_from_afar", message=message.hex()))

    # ---- files, in a thread --------------------------------------------------------------------------------------------------

    def _pin(self, said: Mapping[str, bytes]) -> None:
        if (self.state.trust / "private").exists():
            text = "this state folder has an authority of its own: choose another one with --state for agents of another hub"
            raise VaultError("wrong_domain", text, path=str(self.state.trust))
        place, root = self._public / "root.pem", pem("CERTIFICATE", said["root"]).encode()
        known = durable.read(place, longest=2 * MAX_ROOT_BYTES)
        if known is None:
            durable.make_folder(self._public / "certificates")
            durable.replace(self._public / ML_DSA_ROOT, said["ml_dsa_root"])
            durable.replace(self._public / BROKERS, said["brokers"])
            durable.replace(place, root)
        elif known != root:
            text = "this machine believes another root than that hub's: if that hub was made anew, move this state folder away"
            raise VaultError("wrong_domain", text, path=str(place))
        else:
            self._name_brokers(said["brokers"])

    def _name_brokers(self, said: bytes) -> None:
        before = read_brokers(self._public)
        if (now := before | parse_brokers(said)) != before:
            durable.replace(self._public / BROKERS, encode_brokers(now))

    def _held(self, name: str, anchor: Anchor, now_ms: int) -> Certificate | None:
        """What it was given here; one that was revoked since is none, and its key signs for no successor."""
        found = read_agent(self._public, name, root=anchor.root, domain=anchor.domain)
        if found is None:
            return None
        try:
            revocations.read(read_crl(self._public), root=anchor.root).verdict(found.serial, now_ms)
        except VerificationError:
            return None
        return found

    def _keep(self, certificate: Certificate) -> None:
        text = pem("CERTIFICATE", certificate.der)
        durable.replace(self._public / "certificates" / f"{certificate.name}.pem", text.encode())


def shown(public: Path) -> dict[str, str]:
    """What a hub shows another machine, in hex: all of it is public. Blocks."""
    anchor, documents = read_anchor(public), trust_documents.load(public)
    said = {
        "root": anchor.root.der,
        "ml_dsa_root": anchor.ml_dsa_root or b"",
        "brokers": encode_brokers(anchor.brokers),
        "crl": documents.crl,
        "bundle": documents.bundle,
        "statement": documents.statement,
    }
    return {name: data.hex() for name, data in said.items()}


def keep_documents(public: Path, documents: TrustDocuments) -> None:
    """The statement, which names the others, last. Blocks."""
    durable.replace(public / "crl.pem", pem("X509 CRL", documents.crl).encode())
    durable.replace(public / "bundle.bin", documents.bundle)
    durable.replace(public / "statement.bin", documents.statement)


def _files(said: Any) -> dict[str, bytes]:
    try:
        files = {name: bytes.fromhex(said[name]) for name in SHOWN}
        Root.of(files["root"])
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteProtocolError("malformed", "what answers there shows no papers of a hub") from error
    return files


def _wish(  # noqa: PLR0917  one agent's, in the order in which they are found
    key: KeyInfo, inbox_key: PrivateKey, held: Certificate | None, token: bytes, engine: TpmEngine, every: Mapping[bytes, KeyInfo]
) -> Wish:
    """Who has the name already signs for what comes after it."""
    old = None if held is None else every.get(held.spki)
    renews = old is not None and key.origin != SOFTWARE
    way = TOKEN if token else RENEWAL if renews else LISTED
    predecessor = None if old is None else Predecessor(engine, old.id)
    return Wish(key.name, inbox_key.kem, inbox_key.public, way, token=token, predecessor=predecessor)

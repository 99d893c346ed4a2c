"""The authority itself: what it certifies, revokes and signs.

Everything that it does is one entry of its journal, on disk before anybody hears of it; what it publishes follows from there.
Nothing leaves that a reader would refuse: each certificate and list is read back, strictly, before it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from threading import RLock
from typing import Final, NamedTuple

from cryptography import x509

from bus.errors import AttestationError
from bus.identity.authority.dates import Dates
from bus.identity.authority.index import Change, Index, Issued
from bus.identity.authority.keys import KeyFiles
from bus.identity.authority.published import Published
from bus.identity.authority.records import Records
from bus.identity.authority.restored import taken_back
from bus.identity.authority.signers import TRUST_SUITE, PolicySignature, RootKeys, StatementSignature, TrustKey
from bus.identity.authority.store import Store
from bus.protocol.names import is_agent_name
from bus.protocol.skew import SKEW_MS
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.trust import certificates, revocations
from bus.trust.certificates import DNS_NAME, MAX_HOSTS, Certificate, Pinned, Profile, Root
from bus.trust.profiles import DAY_MS, RULES
from bus.trust.revocations import Reason, Revocation, RevocationList
from bus.trust.statement import Statement

Hosts = Sequence[str]
Addresses = Sequence[IPv4Address | IPv6Address]

RENEW_SIGNER_MS: Final = 30 * DAY_MS
TRUST_NAME: Final = "TRUST"

_IDENTITIES: Final = (Profile.AGENT, Profile.BROKER)


class Holder(NamedTuple):
    """Who has a name: the newest certificate that is not revoked, even if it has ended."""

    ek_hash: bytes
    der: bytes


class Authority:
    """Made by `open_authority`. Every method blocks (disk, RSA): call it in a worker thread. Several threads may."""

    def __init__(
        self, store: Store, files: KeyFiles, records: Records, root_keys: RootKeys, dates: Dates, *, root: Root, domain: str
    ) -> None:
        self.domain, self.root = domain, root
        self._store, self._files, self._records, self._keys, self._dates = store, files, records, root_keys, dates
        self._lock = RLock()
        self._published = Published(store, root)
        self._crl: RevocationList | None = None
        self._signer: tuple[Certificate, TrustKey] | None = None
        self._mend()

    @property
    def _index(self) -> Index:
        return self._records.index

    @property
    def ml_dsa_root(self) -> bytes:
        """The public ML-DSA-65 key (1,952 bytes) that is pinned beside the root."""
        return self._keys.ml_dsa_public

    @property
    def public(self) -> Path:
        """STATE/trust/public: what everybody may read."""
        return self._store.folder / "public"

    @property
    def private(self) -> Path:
        """STATE/trust/private: 0700."""
        return self._store.folder / "private"

    def now_ms(self) -> int:
        """The clock's time. Raises VaultError("clock") if the authority cannot believe it, VaultError("root_ended")."""
        return self._dates.now_ms()

    def reached_ms(self) -> int:
        """The same, but never before what was done last: for what must not go back."""
        return self._dates.reached_ms()

    # ---- certificates ------------------------------------------------------------------------------------------------------

    def issue_identity(  # noqa: PLR0917  facts that a desk has in this order
        self,
        name: str,
        spki: bytes,
        suite: Suite,
        origin: str,
        level: int,
        ek_hash: bytes,
        dns: Hosts = (),
        ips: Addresses = (),
        *,
        profile: Profile = Profile.AGENT,
        overlap_ms: int = 0,
        successor: bool = False,
    ) -> bytes:
        """A certificate (DER) for a year, of profile AGENT or BROKER.

        The key that the name has already: renewal, the old certificate runs out by itself. Another key, or the same one with
        something else pinned: rotation, the old certificates are revoked with reason `rotated` from `overlap_ms` from now on.
        Raises AttestationError("name_taken") if the name is held from another EK (or, where `ek_hash` is empty, by another
        key), unless `successor` says that the old identity key signed for the new one. Raises VerificationError("untrusted")
        for a key that does not fit the suite.
        """
        if profile not in _IDENTITIES:
            raise ValueError(f"{profile} is no profile of identities")
        with self._lock:
            held = self._index.current(profile, name)
            if held is not None and not successor and not self._is_held_by(held, ek_hash, spki):
                text = "another TPM or key has this name: revoke it first, or let its key sign for the new one"
                raise AttestationError("name_taken", agent=name, detail=text)
            made = self._certify(profile, name, spki, Pinned(suite, origin, level), dns=dns, ips=ips)
            rotated = self._rotated(made, from_ms=self.now_ms() + overlap_ms)
            self._commit(Change(issued=(_issued(made, ek_hash),), revoked=rotated))
            self._show_certificate(profile, name)
            if rotated:
                self.revocations()
            return made.der

    def renew(self, name: str, *, profile: Profile = Profile.AGENT) -> bytes:
        """The same certificate for another year: who enrolled is not asked again. Raises AttestationError("not_enrolled")."""
        with self._lock:
            held = self._index.current(profile, name)
            if held is None:
                raise AttestationError("not_enrolled", agent=name, detail="it has no certificate to renew; enroll it")
            old, (dns, ips) = self._read(held), certificates.hosts(held.der)
            return self.issue_identity(name, old.spki, old.suite, old.origin, old.level, held.ek_hash, dns, ips, profile=profile)

    def issue_tls(self, name: str, spki: bytes, dns: Hosts = (), ips: Addresses = ()) -> bytes:
        """A TLS certificate (DER) for 24 hours, for the P-256 key of an agent or broker that has an identity certificate.

        Raises AttestationError("not_enrolled"), VerificationError("untrusted") for a key that is not P-256.
        """
        with self._lock:
            if all(self._index.current(profile, name) is None for profile in _IDENTITIES):
                raise AttestationError("not_enrolled", agent=name, detail="it has no identity certificate; enroll it first")
            pinned = Pinned(IDENTITY_SUITES["ecc256/sha256"], "software", 0)
            made = self._certify(Profile.TLS, name, spki, pinned, dns=dns, ips=ips)
            self._commit(Change(issued=(_issued(made, b""),)))
            return made.der

    def holder(self, name: str, *, profile: Profile = Profile.AGENT) -> Holder | None:
        """Who has this name; None if nobody has, or all certificates of the name are revoked."""
        with self._lock:
            held = self._index.current(profile, name)
            return None if held is None else Holder(held.ek_hash, held.der)

    def issued(self) -> list[tuple[Issued, Revocation | None]]:
        """Every certificate that is remembered, in the order of issue, each with its revocation."""
        with self._lock:
            return [(one, self._index.revoked.get(serial)) for serial, one in self._index.issued.items()]

    def revoke(self, name: str, reason: Reason, *, profile: Profile = Profile.AGENT) -> RevocationList:
        """Revoke all that this name has (TLS certificates too), now, and publish a new list.

        An agent's generation rises, unless the reason is `rotated`. A revocation for another reason takes the place of a
        rotation: what the older keys signed does not stand any more either. Raises AttestationError("not_enrolled").
        """
        with self._lock:
            found = [*self._index.of(profile, name), *(self._index.of(Profile.TLS, name) if profile in _IDENTITIES else ())]
            good = [one.serial for one in found if not self._is_settled(one.serial, reason)]
            if not good:
                raise AttestationError("not_enrolled", agent=name, detail="it has no certificate that could be revoked")
            now = self.now_ms() // 1000 * 1000
            change = Change(revoked=dict.fromkeys(good, Revocation(now, reason)))
            if profile is Profile.AGENT and reason is not Reason.ROTATED:
                raised = self._index.generations.get(name, 0) + 1
                change = replace(change, generations={name: raised}, ml_dsa={name: b""})
            self._commit(change)
            self._show_certificate(profile, name)
            return self.revocations()

    def revocations(self) -> RevocationList:
        """The list in force, made anew when half of its life has passed or something was revoked."""
        with self._lock:
            now = self.now_ms()
            crl = self._crl
            if crl is None or not crl.this_update_ms <= now < (crl.this_update_ms + crl.next_update_ms) // 2:
                self._crl = crl = self._list_revoked(now - SKEW_MS)
            return crl

    # ---- what trust statements say -----------------------------------------------------------------------------------------

    def standings(self) -> Mapping[str, tuple[int, int]]:
        """(generation, sessions_not_before_ms) of each agent for which they are not both 0."""
        with self._lock:
            generations, sessions = self._index.generations, self._index.sessions
            return {name: (generations.get(name, 0), sessions.get(name, 0)) for name in sorted({*generations, *sessions})}

    def end_sessions(self, name: str) -> int:
        """No session certificate of this agent from before now counts any more. Gives that instant.

        It never goes back: after a clock was turned back, sessions that were ended stay so, and those that run are ended too.
        """
        with self._lock:
            since = max(self.reached_ms(), self._index.sessions.get(name, 0))
            self._commit(Change(sessions={_agent(name): since}))
            return since

    def register_ml_dsa(self, name: str, digest: bytes) -> None:
        """This agent co-signs with the ML-DSA-65 key of this SHA-256; revoking the name ends it."""
        if len(digest) != 32:
            raise ValueError(f"a SHA-256 has 32 bytes, not {len(digest)}")
        with self._lock:
            self._commit(Change(ml_dsa={_agent(name): digest}))

    def ml_dsa_hashes(self) -> Mapping[str, bytes]:
        with self._lock:
            return {name: digest for name, digest in sorted(self._index.ml_dsa.items()) if digest}

    def next_statement_number(self) -> int:
        """Higher than every one before, and on disk before it is given out."""
        return self._take_number("statement", at_least=self._seconds())

    def next_policy_version(self, *, after: int = 0) -> int:
        """One more than the last, and on disk before it is given out. `after`: the one that was published last."""
        return self._take_number("policy", at_least=after + 1)

    # ---- signatures --------------------------------------------------------------------------------------------------------

    def sign_statement(self, body: bytes) -> StatementSignature:
        """The context is put in front here, so that these keys sign nothing else. The signer's certificate is renewed in time."""
        with self._lock:
            certificate, key = self._trust_signer()
            return StatementSignature(certificate.der, key.sign_statement(body), self._keys.cosign_statement(body))

    def sign_policy(self, body: bytes) -> PolicySignature:
        """The same for policy bundles, by the root key."""
        return self._keys.sign_policy(body)

    # ---- small files beside ------------------------------------------------------------------------------------------------

    def publish(self, path: str, data: bytes) -> None:
        """Replace trust/public/PATH (`statement.bin`, `inbox/NAME.bin`) atomically; on disk when this returns."""
        self._store.write(f"public/{path}", data)

    def published(self, path: str) -> bytes | None:
        return self._store.read(f"public/{path}")

    def keep(self, path: str, data: bytes) -> None:
        """Replace trust/private/PATH atomically, 0600; on disk when this returns."""
        self._store.write(f"private/{path}", data)

    def kept(self, path: str) -> bytes | None:
        return self._store.read(f"private/{path}")

    def last_statement(self) -> Statement | None:
        """The one that was published last; None if there is none that can be read."""
        return self._published.statement(domain=self.domain, ml_dsa_root=self.ml_dsa_root)

    # ---- inside ------------------------------------------------------------------------------------------------------------

    def _seconds(self) -> int:
        """Numbers that only have to rise begin here: an authority that was restored from a backup repeats none."""
        return self.now_ms() // 1000

    def _take_number(self, which: str, *, at_least: int) -> int:
        with self._lock:
            return self._records.take_number(which, at_least=at_least, now_ms=self.now_ms())

    def _is_held_by(self, held: Issued, ek_hash: bytes, spki: bytes) -> bool:
        if ek_hash and held.ek_hash == ek_hash:
            return True
        return held.ek_hash == ek_hash and self._read(held).spki == spki

    def _is_settled(self, serial: int, reason: Reason) -> bool:
        """Revoked already, and not just rotated where something worse happened."""
        before = self._index.revoked.get(serial)
        return before is not None and (before.reason is not Reason.ROTATED or reason is Reason.ROTATED)

    def _rotated(self, made: Certificate, *, from_ms: int) -> dict[int, Revocation]:
        """The older certificates of the name that the new one replaces, and from when on."""
        date = -(-from_ms // 1000) * 1000
        older = [one for one in self._index.of(made.profile, made.name) if one.serial not in self._index.revoked]
        return {one.serial: Revocation(date, Reason.ROTATED) for one in older if _pins(self._read(one)) != _pins(made)}

    def _read(self, one: Issued) -> Certificate:
        return certificates.read(one.der, root=self.root, domain=self.domain)

    def _certify(
        self, profile: Profile, name: str, spki: bytes, pinned: Pinned, *, dns: Hosts = (), ips: Addresses = ()
    ) -> Certificate:
        for host in dns:
            if DNS_NAME.fullmatch(host) is None:
                raise ValueError(f"{host!r} is no DNS name: small letters, digits and hyphens, no wildcard, no final dot")
        if len(dns) + len(ips) > MAX_HOSTS:
            raise ValueError(f"a certificate names at most {MAX_HOSTS} hosts")
        begins = max(self.now_ms() - SKEW_MS, self.root.not_before_ms)
        der = self._keys.certify(
            certificates.builder(
                profile,
                root=self.root,
                domain=self.domain,
                name=_agent(name),
                spki=spki,
                pinned=pinned,
                serial=x509.random_serial_number(),
                not_before_ms=begins,
                not_after_ms=min(begins + RULES[profile].lifetime_ms, self.root.not_after_ms),
                dns=dns,
                ips=ips,
            )
        )
        return certificates.read(der, root=self.root, domain=self.domain, profile=profile)

    def _trust_signer(self) -> tuple[Certificate, TrustKey]:
        """The signer in use; a new key and certificate when there is none, or its end or revocation is near."""
        held = self._index.current(Profile.TRUST, TRUST_NAME)
        if held is not None and held.not_after_ms - RENEW_SIGNER_MS > self.now_ms():
            if self._signer is not None and self._signer[0].serial == held.serial:
                return self._signer
            certificate = self._read(held)
            key = TrustKey.load(self._files, certificate.spki)
            if key is not None:
                self._signer = certificate, key
                return self._signer
        key = TrustKey.make(self._files)
        certificate = self._certify(Profile.TRUST, TRUST_NAME, key.spki, Pinned(TRUST_SUITE, "software", 0))
        self._commit(Change(issued=(_issued(certificate, b""),)))
        key.keep_alone(self._files)
        self._show_certificate(Profile.TRUST, TRUST_NAME)
        self._signer = certificate, key
        return self._signer

    def _commit(self, change: Change) -> None:
        """What was revoked makes the list old."""
        self._records.commit(change, now_ms=self.now_ms())
        if change.revoked:
            self._crl = None

    def _list_revoked(self, this_update_ms: int) -> RevocationList:
        number = self._take_number("crl", at_least=self._seconds())
        builder = revocations.builder(
            root=self.root,
            number=number,
            this_update_ms=this_update_ms,
            next_update_ms=this_update_ms + revocations.LIFETIME_MS,
            revoked=self._index.revoked,
        )
        crl = revocations.read(self._keys.list_revoked(builder), root=self.root)
        self._published.show_crl(crl)
        return crl

    def _show_certificate(self, profile: Profile, name: str) -> None:
        held = self._index.current(profile, name)
        self._published.show_certificate(profile, name, None if held is None else held.der)

    def _mend(self) -> None:
        """Whatever an interruption left unpublished. The list that lies there counts if it is the newest and says all."""
        self._published.show_root()
        self._take_back_what_was_published()
        index = self._records.index
        for profile, name in index.names():
            if profile is not Profile.TLS:
                self._show_certificate(profile, name)
        crl = self._published.crl()
        if crl is not None and crl.number == index.numbers.get("crl") and crl.revoked == index.revoked:
            self._crl = crl
        self.revocations()

    def _take_back_what_was_published(self) -> None:
        crl, said = self._published.crl(), self.last_statement()
        self._dates.learn(crl.this_update_ms if crl else 0, said.issued_ms if said else 0)
        for change in taken_back(self._index, crl, said):
            self._commit(change)

    def close(self) -> None:
        with self._lock:
            self._records.close()


def _agent(name: str) -> str:
    if not is_agent_name(name):
        raise ValueError(f"{name!r} is no name: A to Z and digits, at most 32, a letter first")
    return name


def _issued(made: Certificate, ek_hash: bytes) -> Issued:
    return Issued(made.serial, made.profile, made.name, ek_hash, made.not_after_ms, made.der)


def _pins(one: Certificate) -> tuple[bytes, Suite, str, int]:
    return one.spki, one.suite, one.origin, one.level

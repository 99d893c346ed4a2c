"""Roots, certificates, revocation lists, statements, bundles, papers and inbox certificates, right and wrong."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import forge as forgery
import test_certificates as wrong_certificates
import test_revocations as wrong_lists
import vector_der
from cryptography import x509
from vector_envelopes import Cast
from vector_forms import around, fields_of
from vector_keys import ec_key, rsa_key
from vector_ranges import NAMED, changes
from vector_stage import DAY, DOMAIN, HOUR, MINUTE, NOW, Stage, chance

from bus.protocol import papers as paper
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.kem import PrivateKey
from bus.protocol.papers import Papers, SessionCertificate
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust import bundle as bundles
from bus.trust.certificates import Pinned, Profile
from bus.trust.revocations import Reason, Revocation
from bus.trust.root import Root

READER = "BUILDER listens"
LATER = "a millisecond too long"
"""Of an example that begins at another time."""
for module in (forgery, wrong_certificates):
    module.DOMAIN = DOMAIN  # type: ignore[attr-defined]  # for vectors alone
forgery.P256, forgery.P384, forgery.P521 = ec_key("forge", "ecc256"), ec_key("forge", "ecc384"), ec_key("forge", "p521")
forgery.RSA3072, forgery.RSA2048 = rsa_key("forge", 3_072), rsa_key("forge", 2_048)
wrong_certificates.RSA4096 = wrong_lists.RSA4096 = rsa_key("stranger", 4_096)


def make(cast: Cast) -> None:
    stage = cast.stage
    forge = forgery.Forge(stage.authority.root, stage.authority.root_key)
    roots(stage, forge)
    certificates(stage, forge)
    lists(stage, forge)
    statements(stage)
    statements_in_time(stage)
    policies(stage)
    all_papers(cast)
    inboxes(cast)


def add(stage: Stage, kind: str, name: str, data: bytes, answer: Any, **fields: Any) -> None:
    said = {"code": answer} if isinstance(answer, str) else {"result": answer}
    facts = fields if kind == "root" else {"world": READER} | fields
    stage.add(f"{kind}s".replace("papers" + "s", "papers").replace("inboxs", "inboxes"), kind, name, **facts, bytes=data, **said)


# ---- X.509 -----------------------------------------------------------------------------------------------------------------------


def roots(stage: Stage, forge: Any) -> None:
    def right(name: str, der: bytes) -> None:
        found = Root.of(der)
        add(stage, "root", name, der, {"subject": found.subject, "key_id": found.ski})

    right("the root of these vectors", stage.authority.root.der)
    right("a root of the longest life, without a name of its domain", forge.root_certificate())
    right(
        "an extension that nobody knows",
        forge.root_certificate(extra=[(x509.UnrecognizedExtension(forgery.own(99), b"\5\0"), False)]),
    )
    for name, made in wrong_certificates.ROOT.items():
        add(stage, "root", f"wrong: {name}", made(forge), "untrusted")
    for name, der in vector_der.roots(forge).items():
        add(stage, "root", f"DER: {name}", der, "untrusted")


def read_certificate(cast_stage: Stage, der: bytes) -> dict[str, Any]:
    from bus.trust.certificates import read

    found = read(der, root=cast_stage.authority.root, domain=DOMAIN)
    return {
        "name": found.name,
        "suite": found.suite.number,
        "origin": found.origin,
        "level": found.level,
        "serial": f"{found.serial:x}",
        "not_before_ms": found.not_before_ms,
        "not_after_ms": found.not_after_ms,
        "signer": found.signer,
    }


def profile_of(name: str) -> str:
    """Which profile a wrong one would be, if it were right."""
    if "TLS" in name or "host" in name or "wildcard" in name or "network" in name:
        return "tls"
    return "trust" if "trust signer" in name else "agent"


def certificates(stage: Stage, forge: Any) -> None:
    made: dict[Profile, bytes] = {
        Profile.AGENT: forge.certificate(),
        Profile.TLS: forge.tls(
            san=forgery.names(x509.DNSName("bus.example"), x509.IPAddress(wrong_certificates.ip_address("::1")), path="tls")
        ),
        Profile.BROKER: forge.certificate(eku=x509.ExtendedKeyUsage([forgery.own(3)]), san=forgery.names(path="broker")),
        Profile.TRUST: forge.trust(),
    }
    for profile, der in made.items():
        stage.called(f"certificate of the profile {profile.path}", der)
        for wanted in Profile:
            answer = read_certificate(stage, der) if wanted is profile else "untrusted"
            add(stage, "certificate", f"of the profile {profile.path}, for {wanted.path}", der, answer, profile=wanted.path)
    for suite in IDENTITY_SUITES.values():
        key = {"rsa3072": forgery.RSA3072, "ecc256": forgery.P256, "ecc384": forgery.P384}[suite.kind]
        facts = {"name": "DIRECTOR", "spki": forgery.spki(key), "pinned": Pinned(suite, "hardware", 6), "serial": 2**159 - 1}
        for profile in (Profile.AGENT, Profile.BROKER):
            der = stage.authority.certificate(profile, **facts)
            add(stage, "certificate", f"{profile.path}, {suite}", der, read_certificate(stage, der), profile=profile.path)
    right = {
        "a whole year": forge.certificate(ends=NOW + 365 * DAY),
        "from the root's first moment": forge.certificate(begins=NOW - DAY, ends=NOW),
        "to the root's last moment": forge.certificate(begins=NOW + 2_900 * DAY, ends=NOW + 3_000 * DAY),
        "a name of 32": forge.certificate(san=forgery.names(named="A" * 32), subject=forgery.name("A" * 32)),
        "16 hosts": forge.certificate(san=forgery.names(*(x509.DNSName(f"h{n}") for n in range(16)))),
        "an extension that nobody knows": forge.certificate(extra=[(x509.UnrecognizedExtension(forgery.own(99), b"\5\0"), False)]),
    }
    for name, der in right.items():
        add(stage, "certificate", name, der, read_certificate(stage, der), profile="agent")
    seen = {sha256(der).digest() for der in [*made.values(), *right.values()]}
    for name, build in wrong_certificates.WRONG.items():
        der = build(forge)
        if sha256(der).digest() not in seen and len(der) < 8_200:
            add(stage, "certificate", f"wrong: {name}", der, "untrusted", profile=profile_of(name))
    for name, der in vector_der.certificates(forge).items():
        add(stage, "certificate", f"DER: {name}", der, "untrusted", profile="agent")


def lists(stage: Stage, forge: Any) -> None:
    revoked = {number: Revocation(NOW + 1_000 * number, reason) for number, reason in enumerate(Reason, start=1)}
    revoked[2**159 - 1] = Revocation(NOW - 1_000, Reason.COMPROMISED)
    for name, number, entries in (
        ("every reason", 2**40, revoked),
        ("nobody is revoked", 1, {}),
        ("the highest number", 2**63 - 1, {}),
    ):
        found = stage.authority.revocations(number, entries)
        listed = [{"serial": f"{serial:x}", "date_ms": one.date_ms, "reason": one.reason.value} for serial, one in entries.items()]
        result = {"number": number, "this_update_ms": NOW, "next_update_ms": NOW + 7 * DAY, "revoked": listed}
        add(stage, "crl", name, found.der, result)
    for name, build in wrong_lists.WRONG.items():
        if len(der := build(forge)) < 8_200:
            add(stage, "crl", f"wrong: {name}", der, "untrusted")
    for name, der in vector_der.lists(forge).items():
        add(stage, "crl", f"DER: {name}", der, "untrusted")


# ---- the authority's word --------------------------------------------------------------------------------------------------------


def read_statement(stage: Stage, data: bytes) -> dict[str, Any]:
    found = stage.authority.read(data)
    named = (
        "number",
        "issued_ms",
        "next_update_ms",
        "policy_version",
        "policy_digest",
        "crl_number",
        "crl_digest",
        "digest",
        "body_digest",
    )
    agents = [[name, *standing] for name, standing in found.agents.items()]
    return {
        **{name: getattr(found, name) for name in named},
        "agents": agents,
        "ml_dsa": [list(one) for one in found.ml_dsa.items()],
    }


def statements(stage: Stage) -> None:
    authority, now = stage.authority, stage.now
    crl = authority.revocations(50)
    stage.called("CRL 50", crl.der)
    facts = {"number": 50, "issued_ms": now, "next_update_ms": now + HOUR, "crl": (50, crl.digest)}

    def said(name: str, data: bytes, answer: Any = None, **fields: Any) -> None:
        add(
            stage, "statement", name, data, read_statement(stage, data) if answer is None else answer, **({"crl": crl.der} | fields)
        )

    body = authority.body(**facts, agents={"BUILDER": (1, 0), "DIRECTOR": (0, now)}, ml_dsa={"DIRECTOR": bytes(32)})
    good = authority.sealed_statement(body)
    said("two agents", good)
    said("nobody", authority.statement_bytes(**facts))
    said("a cosignature where no ML-DSA key is pinned is not looked at", authority.sealed_statement(body, cosignature=bytes(3_309)))
    outer = fields_of(good)
    half = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    twin = outer[2][:48] + (half - int.from_bytes(outer[2][48:], "big")).to_bytes(48, "big")
    said("the twin of a signature", authority.sealed_statement(body, signature=twin))
    for name, data in around(outer):
        said(f"wrong: {name}", data, "malformed")
    for name, changed in changes(NAMED["statement_body"][0], NAMED["statement_body"][2][0]):
        said(f"a body: {name}", authority.sealed_statement(changed), "malformed")
    for name, changed in around(fields_of(body)):
        said(f"a body: {name}", authority.sealed_statement(changed), "malformed")
    malformed = {
        "a signature of 95 bytes": [outer[0], outer[1], outer[2][1:], b""],
        "a cosignature of 3,308 bytes": [*outer[:3], bytes(3_308)],
        "a signer of 8,193 bytes": [outer[0], bytes(8_193), *outer[2:]],
        "a body as text": ["body", *outer[1:]],
    }
    for name, fields in malformed.items():
        said(f"wrong: {name}", pack(fields), "malformed")
    agent = stage.authority.certificate(Profile.AGENT, serial=9)
    untrusted = {
        "no signer": authority.sealed_statement(body, signer=b""),
        "a signer that is an agent": authority.sealed_statement(body, signer=agent),
        "a signer that is a broker": authority.sealed_statement(body, signer=stage.authority.certificate(Profile.BROKER, serial=9)),
        "a signature of zeros": authority.sealed_statement(body, signature=bytes(96)),
        "a signature over the body alone": authority.sealed_statement(body, signature=authority.sign_trust(body)),
        "another signer": authority.sealed_statement(body, signer=forgery.Forge(authority.root, authority.root_key).trust()),
        "a signer of another domain": authority.sealed_statement(body, signer=authority.certificate(domain="elsewhere.invalid")),
        "another domain": authority.statement_bytes(**facts, domain="elsewhere.invalid"),
        "issued before its signer": authority.statement_bytes(
            **(facts | {"issued_ms": NOW - HOUR - MINUTE - 1, "next_update_ms": NOW})
        ),
        "issued after its signer": authority.statement_bytes(
            **(facts | {"issued_ms": NOW + 365 * DAY + 1, "next_update_ms": NOW + 366 * DAY})
        ),
        "a body that does not parse, and a wrong signature": authority.sealed_statement(b"", signature=bytes(96)),
    }
    for name, data in untrusted.items():
        said(f"wrong: {name}", data, "untrusted")
    said("another revocation list in hand", good, "untrusted", crl=authority.revocations(51).der)
    said(
        "issued a minute before its signer",
        authority.statement_bytes(**(facts | {"issued_ms": NOW - HOUR - MINUTE, "next_update_ms": NOW})),
    )
    cosigned(stage, body, said)


def cosigned(stage: Stage, body: bytes, said: Any) -> None:
    world = {"world": "BUILDER, with an ML-DSA root"}
    good = stage.cosigning.sealed_statement(body)
    said("a cosignature", good, read_statement(stage, good), **world)
    said("wrong: no cosignature, and an ML-DSA key is pinned", stage.authority.sealed_statement(body), "untrusted", **world)
    said("wrong: a cosignature of zeros", stage.authority.sealed_statement(body, cosignature=bytes(3_309)), "untrusted", **world)
    other = stage.cosigning.ml_dsa.sign(body)
    said(
        "wrong: a cosignature over the body alone", stage.authority.sealed_statement(body, cosignature=other), "untrusted", **world
    )


def statements_in_time(stage: Stage) -> None:
    """Against what was seen before."""
    authority, now = stage.authority, stage.now
    crl, revoked = authority.revocations(60), authority.revocations(61, {7: Revocation(now, Reason.COMPROMISED)})
    policy = (authority.policy_bundle.version, authority.policy_bundle.digest)

    def body(**changed: Any) -> bytes:
        facts = {"number": 60, "issued_ms": now, "next_update_ms": now + HOUR, "crl": (60, crl.digest), "policy": policy}
        return authority.body(**(facts | changed))

    seen = {
        "number": 60, "digest": sha256(body()).digest(), "crl_number": 60, "crl_digest": crl.digest, "policy_version": 2,
        "policy_digest": policy[1],
    }  # fmt: skip
    world = stage.world("BUILDER saw statement 60", like=READER, highest=seen)

    def said(name: str, answer: str | None, *, of: str = world, hand: bytes = crl.der, **changed: Any) -> None:
        data = authority.sealed_statement(body(**changed))
        add(stage, "statement", name, data, answer or read_statement(stage, data), world=of, crl=hand)

    said("the same once more", None)
    said("the next", None, number=61)
    said("a policy that is older than one that is here", None, number=61, policy=(1, bytes(32)))
    said("a policy that is newer", None, number=61, policy=(3, bytes(32)))
    said("a lower number", "trust_rollback", number=59)
    said("an equal number and another body", "trust_fork", next_update_ms=now + HOUR + 1)
    said("a lower number of the revocation list", "trust_rollback", number=61, crl=(59, crl.digest))
    said("an equal number and another revocation list", "trust_fork", number=61, crl=(60, bytes(32)))
    said("an equal version and another policy", "policy_fork", number=61, policy=(2, bytes(32)))
    said("a newer list than the one in hand", "untrusted", number=61, crl=(61, revoked.digest))
    said("a signer that is revoked", "revoked", number=61, crl=(61, revoked.digest), hand=revoked.der)
    for name, date, answer in (("when it was issued", now, "revoked"), ("a second later", now + 1_000, None)):
        rotated = authority.revocations(61, {7: Revocation(date, Reason.ROTATED)})
        said(f"a signer that was rotated {name}", answer, number=61, crl=(61, rotated.digest), hand=rotated.der)


def policies(stage: Stage) -> None:
    authority = stage.authority

    def body(**changed: Any) -> bytes:
        files = {"policy.yaml": b"version: 1\n", "rosters/a.yaml": b"agents: {}\n"}
        return bundles.body_bytes(**({"domain": DOMAIN, "version": 7, "made_ms": NOW, "files": files} | changed))

    def said(name: str, data: bytes, answer: str | None = None, **fields: Any) -> None:
        found = None if answer else authority.read_bundle(data)
        result = found and {
            "version": found.version,
            "made_ms": found.made_ms,
            "files": [list(one) for one in found.files.items()],
            "digest": found.digest,
        }
        add(stage, "bundle", name, data, answer or result, **fields)

    good = authority.sealed_bundle(body())
    outer = fields_of(good)
    said("two files", good)
    said("the policy of these vectors", authority.policy_bundle.raw)
    said("a cosignature where no ML-DSA key is pinned is not looked at", authority.sealed_bundle(body(), cosignature=bytes(3_309)))
    for name, data in around(outer):
        said(f"wrong: {name}", data, "malformed")
    for name, changed in [*changes(body(), NAMED["bundle_body"][2][0]), *around(fields_of(body()))]:
        if len(changed) < 5_000:
            said(f"a body: {name}", authority.sealed_bundle(changed), "malformed")
    said("wrong: a signature of 511 bytes", pack([outer[0], outer[1][1:], b""]), "malformed")
    said("wrong: a cosignature of 3,308 bytes", pack([*outer[:2], bytes(3_308)]), "malformed")
    said("wrong: a signature of zeros", authority.sealed_bundle(body(), signature=bytes(512)), "untrusted")
    said(
        "wrong: a signature over the body alone",
        authority.sealed_bundle(body(), signature=authority.sign_root(body())),
        "untrusted",
    )
    said("wrong: another domain", authority.sealed_bundle(body(domain="elsewhere.invalid")), "untrusted")
    said(
        "wrong: a body that does not parse, and a wrong signature", authority.sealed_bundle(b"", signature=bytes(512)), "untrusted"
    )
    root = {"world": "BUILDER, with an ML-DSA root"}
    said("a cosignature", stage.cosigning.sealed_bundle(body()), **root)
    said("wrong: no cosignature, and an ML-DSA key is pinned", good, "untrusted", **root)
    said("wrong: a cosignature of zeros", authority.sealed_bundle(body(), cosignature=bytes(3_309)), "untrusted", **root)
    for name, version, digest, answer in (
        ("the same once more", 7, sha256(body()).digest(), None),
        ("the next", 6, bytes(32), None),
        ("an equal version and another body", 7, bytes(32), "policy_fork"),
        ("a lower version", 8, bytes(32), "policy_rollback"),
    ):
        seen = {"number": 0, "digest": b"", "crl_number": 0, "crl_digest": b"", "policy_version": version, "policy_digest": digest}
        world = stage.world(f"BUILDER saw a policy: {name}", like=READER, highest=seen)
        said(name, good, answer, world=world)


# ---- what agents show ------------------------------------------------------------------------------------------------------------


def all_papers(cast: Cast) -> None:
    stage, now, agent = cast.stage, cast.stage.now, cast.builder
    good = Papers.parse(agent.papers)
    certificate = SessionCertificate.parse(good.session)
    body, identity = certificate.body, agent.identity

    def said(name: str, data: bytes, answer: str | None = None, **fields: Any) -> None:
        parsed = None if answer else SessionCertificate.parse(Papers.parse(data).session)
        result = parsed and {"session": parsed.id, "name": parsed.body.name}
        add(stage, "papers", name, data, answer or result, **fields)

    def signed(body_bytes: bytes, *, purpose: int = 2, by: Any = identity, **papers: Any) -> bytes:
        blind = chance(16)
        digest = paper.content(Purpose(purpose), body_bytes, blind=blind, suite=by.suite)
        proof = by.prove(Purpose(purpose), [digest], [blind])[0]
        return good._replace(**({"session": SessionCertificate(body_bytes, proof).encode()} | papers)).encode()

    def changed(**changes_: Any) -> bytes:
        return body._replace(**changes_).encode()

    for one in (cast.director, cast.monitor, cast.builder):
        said(f"papers of {one.name}", one.papers)
    said("an ML-DSA key", good._replace(ml_dsa=bytes(1_952)).encode())
    said("begun a minute before its statement", signed(changed(not_before_ms=now - MINUTE, not_after_ms=now)))
    forms_of_papers(said, signed, good, body.encode())
    end = identity.certificate.not_after_ms
    untrusted = {
        "another name": signed(changed(name="TESTER")),
        "another domain": signed(changed(domain="elsewhere.invalid")),
        "another identity's hash": signed(changed(identity=bytes(32))),
        "the identity of another agent": good._replace(identity=cast.tester.identity.certificate.der).encode(),
        "an identity that is none": good._replace(identity=b"\x30\x00").encode(),
        "another number of its statement": signed(changed(trust_number=body.trust_number + 1)),
        "another digest of its statement": signed(changed(trust_digest=bytes(32))),
        "begun before its statement": signed(changed(not_before_ms=now - MINUTE - 1, not_after_ms=now)),
        "begun after its statement ended": signed(changed(not_before_ms=now + HOUR + 1, not_after_ms=now + HOUR + 2)),
        "longer than its identity": signed(changed(not_before_ms=end - 1_000, not_after_ms=end + 1)),
    }
    for profile in (Profile.BROKER, Profile.TLS, Profile.TRUST):
        untrusted[f"an identity of the profile {profile.path}"] = good._replace(identity=other_profile(stage, profile)).encode()
    for name, data in untrusted.items():
        said(f"wrong: {name}", data, "untrusted")
    for seconds, answer in ((60, None), (61, "untrusted")):
        begins = cast.fleet.identity("BUILDER", number=90, not_before_ms=now + 1_000 * seconds)
        data = signed(changed(identity=begins.certificate.signer), by=begins, identity=begins.certificate.der)
        said(f"an identity that begins {seconds} s later", data, answer)
    for seconds, answer in ((900, None), (899, "untrusted")):
        ends = cast.fleet.identity("BUILDER", number=91, not_after_ms=now + 1_000 * seconds)
        data = signed(changed(identity=ends.certificate.signer), by=ends, identity=ends.certificate.der)
        said(f"a session of 900 s and an identity of {seconds} s", data, answer)
    statement = fields_of(good.statement)
    broken = good._replace(statement=pack([statement[0], statement[1], bytes(96), b""])).encode()
    said("wrong: a statement that nobody signed", broken, "untrusted")
    said("wrong: a statement that is none", good._replace(statement=b"\x90").encode(), "malformed")
    proof = certificate.proof
    bad = {
        "signed for an envelope": signed(body.encode(), purpose=3),
        "signed by another agent": good._replace(session=fields_with(signed(body.encode(), by=cast.tester.identity))).encode(),
        "a signature of zeros": session_with(good, certificate, proof._replace(signature=bytes(96))),
        "another blind": session_with(good, certificate, proof._replace(blind=bytes(16))),
        "n of 2": session_with(good, certificate, proof._replace(n=2)),
        "another suite": session_with(good, certificate, proof._replace(suite=49)),
        "the host's suite": session_with(good, certificate, proof._replace(suite=1)),
        "another signer": session_with(good, certificate, proof._replace(signer=bytes(32))),
    }
    for name, data in bad.items():
        said(f"wrong: {name}", data, "bad_proof")


def forms_of_papers(said: Any, signed: Any, good: Papers, body: bytes) -> None:
    for name, data in [*around(list(good)), *changes(good.encode(), NAMED["papers"][2][0])]:
        said(f"wrong: {name}", data, "malformed")
    for name, changed_body in changes(body, NAMED["session"][2][0]):
        if name != LATER:
            said(f"a body: {name}", signed(changed_body), "malformed")
    for name, session in [*around(fields_of(good.session)), *changes(good.session, NAMED["session_certificate"][2][0])]:
        if session:
            said(f"a session: {name}", good._replace(session=session).encode(), "malformed")


def other_profile(stage: Stage, profile: Profile) -> bytes:
    forge = forgery.Forge(stage.authority.root, stage.authority.root_key)
    if profile is Profile.BROKER:
        der: bytes = forge.certificate(eku=x509.ExtendedKeyUsage([forgery.own(3)]), san=forgery.names(path="broker"))
        return der
    return bytes(forge.tls() if profile is Profile.TLS else forge.trust())


def fields_with(papers: bytes) -> bytes:
    return Papers.parse(papers).session


def session_with(good: Papers, certificate: SessionCertificate, proof: Any) -> bytes:
    return good._replace(session=SessionCertificate(certificate.body_bytes, proof).encode()).encode()


def inboxes(cast: Cast) -> None:
    stage, identity = cast.stage, cast.builder.identity
    keys = [PrivateKey.from_bytes(1, chance(32)), PrivateKey.from_bytes(2, chance(96))]
    der = stage.called("identity of BUILDER", identity.certificate.der)

    def said(name: str, data: bytes, answer: Any, identity_der: bytes = der) -> None:
        add(stage, "inbox", name, data, answer, identity=identity_der)

    for key in keys:
        said(f"kem {key.kem}", stage.inbox(identity, key), {"name": "BUILDER", "counter": 3, "key_id": key.id})
    good = stage.inbox(identity, keys[0])
    for name, data in [*around(fields_of(good)), *changes(good, NAMED["inbox_certificate"][2][0])]:
        said(f"wrong: {name}", data, "malformed")
    for name, changed in changes(fields_of(good)[0], NAMED["inbox"][2][0]):
        if name != LATER:
            said(f"a body: {name}", pack([changed, fields_of(good)[1]]), "malformed")
    untrusted: dict[str, dict[str, Any]] = {
        "another name": {"name": "TESTER"},
        "another domain": {"domain": "elsewhere.invalid"},
        "another identity": {"identity": bytes(32)},
    }
    for name, change in untrusted.items():
        said(f"wrong: {name}", stage.inbox(identity, keys[0], **change), "untrusted")
    said("wrong: the identity of another agent", good, "untrusted", cast.tester.identity.certificate.der)
    said("wrong: a broker's identity", good, "untrusted", other_profile(stage, Profile.BROKER))
    said("wrong: signed as a session", stage.inbox(identity, keys[0], purpose=Purpose.SESSION), "bad_proof")
    fields = fields_of(good)
    for name, place, value in (
        ("a signature of zeros", 5, bytes(96)),
        ("another blind", 7, bytes(16)),
        ("n of 2", 2, 2),
        ("another suite", 0, 49),
    ):
        proof = [value if n == place else one for n, one in enumerate(fields[1])]
        said(f"wrong: {name}", pack([fields[0], proof]), "bad_proof")

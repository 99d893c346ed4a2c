"""The trust signer's key is stolen: its certificate is taken back, and with it every session that names one of its statements."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

sys.path.insert(0, str(Path(__file__).parent))

from authorities import DOMAIN, EK, PASSPHRASE

from bus.identity.authority import TRUST_NAME, open_authority
from bus.identity.authority.statements import Statements
from bus.identity.envelopes.believe import believe
from bus.identity.envelopes.standing import standing_of
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Holder, certify
from bus.policy import load
from bus.protocol.kem import X25519
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.vault import MemoryVault
from bus.trust import certificates
from bus.trust.certificates import Profile
from bus.trust.revocations import Reason
from bus.trust.view import TrustView

POLICY = load(
    {
        "p.yaml": b"version: 1\ndomain: tpmbus.test\nagents: {ALPHA: x}\n"
        b"roles:\n  x: {key: ecc256/sha256, key_origin: software, publish: ['news.>']}\n"
    }
)


class Agent:
    """One that has a certificate, and sessions under the statements that it is given."""

    def __init__(self, authority, clock, engine) -> None:
        self.authority, self.clock, self.engine = authority, clock, engine
        self.verifier = Verifier(authority.root, DOMAIN, ml_dsa_root=authority.ml_dsa_root)

    async def enroll(self):
        key = await self.engine.create("ALPHA", IDENTITY_SUITES["ecc256/sha256"])
        suite = IDENTITY_SUITES[key.suite]
        der = await run_sync(self.authority.issue_identity, "ALPHA", key.spki, suite, "software-tpm", 0, EK)
        identity = certificates.read(der, root=self.authority.root, domain=DOMAIN)
        self.holder = Holder(identity, key.id, 900_000, X25519)

    async def session(self, statement):
        keys = HostKeys.make(X25519, lambda size: b"\x07" * size)
        now = self.clock.ms
        return await certify(self.engine, self.holder, keys, statement, now=0.0, now_ms=now, random=lambda size: b"\x08" * size)

    async def fault(self, session, statement):
        """Why a reader who has this statement does not believe that session; None if it does."""
        believed = believe(session.papers, self.verifier, now_ms=self.clock.ms)
        view = TrustView(self.authority.root, DOMAIN, statement, await run_sync(self.authority.revocations))
        standing = standing_of(believed, "news.today", reply=False, policy=POLICY, trust=view)
        assert standing.forbidden is None
        return standing.fault and standing.fault.reason


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reason", "fault"), [(Reason.COMPROMISED, "revoked"), (Reason.RETIRED, "revoked"), (Reason.ROTATED, None)]
)
async def test_what_becomes_of_sessions_when_the_trust_signer_is_revoked(tmp_path, reason, fault):
    clock = ManualClock()
    opening = open_authority(tmp_path / "trust", domain=DOMAIN, protection=PASSPHRASE, clock=clock)
    async with opening as authority, Engine(FakeTpm, MemoryVault()) as engine:
        agent, ours = Agent(authority, clock, engine), Statements(authority, clock=clock)
        await agent.enroll()
        old = await run_sync(ours.issue)
        session = await agent.session(old)
        assert await agent.fault(session, old) is None
        clock.advance(60)
        crl = await run_sync(lambda: authority.revoke(TRUST_NAME, reason, profile=Profile.TRUST))
        new = await run_sync(ours.issue)
        assert (new.signer.spki == old.signer.spki, new.crl_digest) == (False, crl.digest)
        assert await agent.fault(session, new) == fault
        assert await agent.fault(await agent.session(new), new) is None

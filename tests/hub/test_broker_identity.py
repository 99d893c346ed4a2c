"""The broker's own identity: certified once, renewed in time, replaced when it was revoked, and nobody else's business."""

from __future__ import annotations

import stat

import pytest
from anyio import to_thread
from hub_authority import DOMAIN, opened

from bus.errors import VerificationError
from bus.hub.broker_identity import BROKER_SUITE, enroll_broker, open_broker_engine
from bus.hub.state import State
from bus.identity.anchor import read_anchor
from bus.identity.authority.statements import Statements
from bus.identity.envelopes.believe import believe
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.testing import ManualClock
from bus.trust.certificates import Profile
from bus.trust.revocations import Reason

YEAR = 365 * 86_400


async def enrolled(state: State, clock: ManualClock, *, name: str = "BROKER") -> Holder:
    async with opened(state, clock) as authority, open_broker_engine(state, clock=clock) as engine:
        return await enroll_broker(authority, engine, name=name, clock=clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.mark.anyio
async def test_it_has_a_certificate_of_its_profile_that_says_the_key_is_software(state, clock):
    identity = (await enrolled(state, clock)).identity
    assert (identity.profile, identity.name, identity.origin, identity.level) == (Profile.BROKER, "BROKER", "software", 0)
    assert identity.suite == BROKER_SUITE
    assert (state.trust / "public" / "certificates" / "broker.BROKER.pem").exists()


@pytest.mark.anyio
async def test_again_it_is_the_same_until_a_month_before_its_end(state, clock):
    first = await enrolled(state, clock)
    clock.advance(YEAR - 31 * 86_400)
    assert (await enrolled(state, clock)) == first
    clock.advance(2 * 86_400)
    renewed = await enrolled(state, clock)
    assert renewed.identity.spki == first.identity.spki
    assert renewed.identity.not_after_ms > first.identity.not_after_ms
    async with opened(state, clock) as authority:
        assert not authority.revocations().revoked


@pytest.mark.anyio
async def test_a_session_of_it_is_believed_as_a_brokers_and_as_nobody_elses(state, clock):
    async with opened(state, clock) as authority, open_broker_engine(state, clock=clock) as engine:
        holder = await enroll_broker(authority, engine, clock=clock)
        statement = await to_thread.run_sync(Statements(authority, clock=clock).issue)
        sessions = Sessions(engine, lambda: statement, clock)
        await sessions.open(holder)
        papers = sessions.current("BROKER").papers
        verifier = Verifier(authority.root, DOMAIN, ml_dsa_root=authority.ml_dsa_root)
        believed = believe(papers, verifier, now_ms=clock.now_ms(), profile=Profile.BROKER)
        assert believed.name == "BROKER"
        with pytest.raises(VerificationError):
            believe(papers, verifier, now_ms=clock.now_ms())


@pytest.mark.anyio
async def test_after_a_revocation_it_has_another_key(state, clock):
    first = await enrolled(state, clock)
    async with opened(state, clock) as authority:
        await to_thread.run_sync(lambda: authority.revoke("BROKER", Reason.COMPROMISED, profile=Profile.BROKER))
    second = await enrolled(state, clock)
    assert second.identity.spki != first.identity.spki
    assert (await enrolled(state, clock)) == second
    async with opened(state, clock) as authority:
        assert set(authority.revocations().revoked) == {first.identity.serial}


@pytest.mark.anyio
async def test_a_key_that_was_thrown_away_is_replaced_and_its_certificate_ends_at_once(state, clock):
    first = await enrolled(state, clock)
    await to_thread.run_sync(lambda: state.broker.rename(state.broker.with_name("thrown-away")))
    second = await enrolled(state, clock)
    assert second.identity.spki != first.identity.spki
    async with opened(state, clock) as authority, open_broker_engine(state, clock=clock):
        revoked = authority.revocations().revoked[first.identity.serial]
    assert (revoked.reason, revoked.date_ms <= clock.now_ms() + 1000) == (Reason.ROTATED, True)


@pytest.mark.anyio
async def test_a_folder_that_is_found_again_counts_again(state, clock):
    first = await enrolled(state, clock)
    away = state.broker.with_name("away")
    await to_thread.run_sync(lambda: state.broker.rename(away))
    await enrolled(state, clock)
    await to_thread.run_sync(lambda: (state.broker.rename(state.broker.with_name("other")), away.rename(state.broker)))
    assert (await enrolled(state, clock)).identity.spki == first.identity.spki


@pytest.mark.anyio
async def test_another_name_is_pinned_in_place_of_the_usual_one_and_then_beside_the_first(state, clock):
    public = state.trust / "public"
    for name, pinned in (("NORTH", {"NORTH"}), ("SOUTH", {"NORTH", "SOUTH"}), ("NORTH", {"NORTH", "SOUTH"})):
        await enrolled(state, clock, name=name)
        assert (await to_thread.run_sync(read_anchor, public)).brokers == pinned


@pytest.mark.anyio
async def test_an_agent_may_be_called_like_the_broker_and_is_not_it(state, clock):
    holder = await enrolled(state, clock)
    async with opened(state, clock) as authority:
        assert authority.holder("BROKER") is None
        await to_thread.run_sync(
            lambda: authority.issue_identity("BROKER", holder.identity.spki, BROKER_SUITE, "software", 0, b"ek" * 16)
        )
    assert (await enrolled(state, clock)) == holder


@pytest.mark.anyio
async def test_its_folder_is_ours_alone(state, clock):
    await enrolled(state, clock)

    def modes() -> set[int]:
        return {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [state.broker, *state.broker.rglob("*")]}

    assert await to_thread.run_sync(modes) == {0}

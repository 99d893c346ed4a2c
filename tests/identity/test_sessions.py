"""Sessions of many agents: what they say, when they are renewed, and what becomes of them when things go wrong."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import anyio
import pytest
from open_agents import DAY_MS, MINUTE_MS, at_point, place

from bus.errors import LocalProtocolError, SessionEndedError, TpmRefusedError, TpmUnavailableError, VerificationError
from bus.identity.envelopes.believe import believe
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Holder, body_of
from bus.identity.host.sessions import Sessions
from bus.protocol import kem
from bus.protocol.contexts import Purpose
from bus.protocol.kem import HYBRID, X25519
from bus.protocol.papers import Papers, SessionCertificate
from bus.protocol.signatures import verify_host
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.interface import Priority
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.anyio

FLEET = [f"AGENT{number}" for number in range(76)]


# ---- what a session says -------------------------------------------------------------------------------------------------------


async def test_a_session_names_the_hosts_keys_the_identity_and_the_statement_for_the_roles_time():
    async with place() as here:
        await here.open("ALPHA", minutes=10, ml_dsa=b"m" * 1952)
        session, keys, identity = here.sessions.current("ALPHA"), here.sessions.keys, here.sessions.holder("ALPHA").identity
        body = session.certificate.body
        assert (body.domain, body.name, body.identity) == ("tpmbus.test", "ALPHA", identity.signer)
        assert (body.host_key, body.kem, body.kem_key) == (keys.public, X25519, keys.kem_key)
        assert (body.not_before_ms, body.not_after_ms) == (here.clock.ms, here.clock.ms + 10 * MINUTE_MS)
        assert (body.trust_number, body.trust_digest) == (here.statement.number, here.statement.digest)
        assert Papers.parse(session.papers) == Papers(session.certificate.encode(), identity.der, here.statement.raw, b"m" * 1952)
        again = SessionCertificate.parse(session.certificate.encode())
        again.check(identity.public_key, identity.suite, identity.signer)
        assert (again.id, session.keys) == (session.id, keys)
        assert here.engine.asked == [("ALPHA.1", Purpose.SESSION, 1, Priority.RENEWAL)]


async def test_a_session_that_outlives_its_identity_cannot_be_made():
    async with place() as here:
        holder = await here.holder("ALPHA", days=5 / 1440)
        await here.sessions.open(holder)
        session = here.sessions.current("ALPHA")
        assert session.not_after_ms == holder.identity.not_after_ms == here.clock.ms + 5 * MINUTE_MS
        await here.advance(300)
        assert here.sessions.current("ALPHA") is session
        assert len(here.engine.asked) == 1  # to ask again would not have helped
        await here.advance(1)
        with pytest.raises(SessionEndedError) as caught:
            here.sessions.current("ALPHA")
        assert (caught.value.agent, caught.value.reason) == ("ALPHA", "identity_ended")
        with pytest.raises(VerificationError) as refused:
            body_of(holder, session.keys, here.newest(), now_ms=here.clock.ms, random=bytes(16))
        assert refused.value.reason == "identity_ended"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ms": 90 * MINUTE_MS}, "trust_stale"),
        ({"ms": -90_000}, None),
        ({"sessions_not_before": 59_000}, None),
        ({"sessions_not_before": 61_000}, None),  # the statement that says so proves that it is as late as that
        ({"identity": 61_000}, "clock_behind"),
        ({"identity": 30_000}, None),
    ],
)
async def test_what_no_receiver_would_believe_is_not_made(change, reason):
    async with place() as here:
        here.withheld = True
        now = here.clock.ms
        here.clock.ms += change.get("ms", 0)
        if "sessions_not_before" in change:
            here.restate(ALPHA=(1, now + change["sessions_not_before"]))
        holder = await here.holder("ALPHA")
        if "identity" in change:
            holder = Holder(replace(holder.identity, not_before_ms=now + change["identity"]), holder.key, holder.session_ms, X25519)
        if reason is None:
            await here.sessions.open(holder)
            session = here.sessions.current("ALPHA")
            floor = max(here.statement.issued_ms, holder.identity.not_before_ms, here.standing.get("ALPHA", (0, 0))[1])
            assert session.not_before_ms >= floor
            assert session.begun_ms >= here.standing.get("ALPHA", (0, 0))[1], "or every reader would call it revoked"
            return
        with pytest.raises(VerificationError) as caught:
            await here.sessions.open(holder)
        assert (caught.value.agent, caught.value.reason) == ("ALPHA", reason)
        assert not here.sessions.holders


async def test_under_a_statement_that_ends_it_no_session_is_made():
    async with place() as here:
        holder = await here.holder("ALPHA")
        ended = replace(here.statement, agents={"ALPHA": (1, here.statement.issued_ms + 1)})
        keys = HostKeys.make(X25519, os.urandom)
        with pytest.raises(VerificationError) as caught:
            body_of(holder, keys, ended, now_ms=here.clock.ms + 1_000, random=bytes(16))
        assert caught.value.reason == "trust_stale"


async def test_a_session_made_before_its_host_heard_that_all_are_ended_is_made_anew_at_once():
    """It is younger than the date, and its statement is not: readers go by the older of both."""
    async with place() as here:
        here.withheld = True
        await here.open("ALPHA")
        await here.advance(30)
        old = here.sessions.current("ALPHA")
        here.restate(ALPHA=(1, here.clock.ms))
        await here.advance(6)
        assert here.sessions.current("ALPHA").begun_ms >= here.standing["ALPHA"][1] > old.begun_ms


async def test_a_role_gives_its_time_and_its_kind_of_key():
    from bus.policy import load

    role = load({"p.yaml": "version: 1\nroles: {a: {key: ecc256/sha256, session: 2m, inbox: hybrid}}"}).roles["a"]
    async with place() as here:
        holder = Holder.of((await here.holder("ALPHA")).identity, "ALPHA.1", role)
        assert (holder.name, holder.session_ms, holder.kem) == ("ALPHA", 120_000, HYBRID)


async def test_readers_believe_what_was_made(world, anyio_backend):
    """With an authority that signs: from the key in the TPM to what another host believes."""
    async with Engine(FakeTpm, MemoryVault()) as engine:
        await _is_believed(world, engine)


async def test_readers_believe_what_a_real_tpm_signed(world, swtpm):
    from bus.tpm.esapi import EsapiTpm

    async with Engine(lambda: EsapiTpm(swtpm.tcti), MemoryVault()) as engine:
        await _is_believed(world, engine)


async def _is_believed(world, engine):
    from small_authority import Pinned, Profile
    from small_world import DAY, NOW

    from bus.trust.certificates import read

    clock = ManualClock(ms=world.now)
    sessions = Sessions(engine, lambda: world.snapshot.trust.statement, clock)
    for serial, (name, suite) in enumerate({"BUILDER": "ecc384/sha3-256", "MONITOR": "ecc256/sha256"}.items()):
        key = await engine.create(name, IDENTITY_SUITES[suite])
        der = world.authority.certificate(
            Profile.AGENT,
            name=name,
            spki=key.spki,
            pinned=Pinned(IDENTITY_SUITES[suite], "software-tpm", 0),
            serial=900 + serial,
            not_before_ms=NOW - DAY,
            not_after_ms=NOW + DAY,
        )
        identity = read(der, root=world.authority.root, domain=world.authority.domain)
        await sessions.open(Holder.of(identity, key.id, world.policy.role_of(name)))
    for name in ("BUILDER", "MONITOR"):
        session = sessions.current(name)
        believed = believe(session.papers, world.verifier, now_ms=world.now)
        assert (believed.name, believed.id, believed.host_key) == (name, session.id, sessions.keys.public)
        assert believed.session.body.kem == HYBRID  # the monitor's role asks for it, and there is one pair


# ---- opening and closing -------------------------------------------------------------------------------------------------------


async def test_an_agent_that_opens_later_is_certified_for_the_current_pair():
    async with place() as here:
        await here.open("ALPHA")
        keys, first = here.sessions.keys, here.sessions.current("ALPHA")
        await here.advance(60)
        await here.open("BETA")
        assert here.sessions.keys is keys is here.sessions.current("BETA").keys
        assert here.sessions.current("ALPHA") is first
        assert here.engine.asked_for(Purpose.SESSION) == {"ALPHA.1": 1, "BETA.1": 1}


async def test_an_agent_that_needs_a_stronger_kem_brings_a_stronger_pair_for_all_at_once():
    async with place() as here:
        await here.open("ALPHA", "BETA")
        old = here.sessions.keys
        assert old.kem == X25519
        await here.open("GAMMA", kem=HYBRID)
        keys = here.sessions.keys
        assert keys is not old
        assert keys.kem == HYBRID
        assert {here.sessions.current(name).keys for name in ("ALPHA", "BETA", "GAMMA")} == {keys}
        assert here.sessions.opener(old.kem_key_id) is old
        await here.open("DELTA")  # a weaker one changes nothing
        assert here.sessions.keys is keys


async def test_a_stronger_pair_that_cannot_be_certified_for_everybody_changes_nothing():
    async with place() as here:
        await here.open("ALPHA")
        keys, session = here.sessions.keys, here.sessions.current("ALPHA")
        here.engine.refuses["ALPHA.1"] = TpmRefusedError("key_ended", "it has ended")
        with pytest.raises(TpmRefusedError):
            await here.open("BETA", kem=HYBRID)
        assert here.sessions.keys is keys
        assert here.sessions.current("ALPHA") is session
        assert set(here.sessions.holders) == {"ALPHA"}


async def test_agents_that_open_at_once_share_one_pair():
    async with place() as here:
        holders = [await here.holder(name, kem=HYBRID if name == "AGENT3" else X25519) for name in FLEET[:9]]
        async with anyio.create_task_group() as tasks:
            for holder in holders:
                tasks.start_soon(here.sessions.open, holder)
        assert {here.sessions.current(name).keys for name in FLEET[:9]} == {here.sessions.keys}
        assert here.sessions.keys.kem == HYBRID


async def test_all_are_opened_or_none():
    async with place() as here:
        here.engine.refuses["BETA.1"] = TpmRefusedError("unknown_key", "no such key")
        with pytest.raises(TpmRefusedError) as caught:
            await here.open("ALPHA", "BETA")
        assert caught.value.code == "unknown_key"
        assert not here.sessions.holders
        with pytest.raises(LocalProtocolError):
            here.sessions.current("ALPHA")
        here.engine.refuses.clear()
        await here.open("ALPHA", "BETA")
        assert here.valid() == {"ALPHA", "BETA"}


async def test_an_agent_is_open_once_in_a_process():
    async with place() as here:
        holder = await here.holder("ALPHA")
        with pytest.raises(LocalProtocolError):
            await here.sessions.open(holder, holder)
        await here.sessions.open(holder)
        with pytest.raises(LocalProtocolError):
            await here.sessions.open(holder)
        here.sessions.close("ALPHA")
        here.sessions.close("ALPHA")
        await here.sessions.open(holder)


async def test_a_key_that_is_not_the_certificates_is_found_before_anybody_reads_it():
    async with place() as here:
        holder = await here.holder("ALPHA")
        other = await here.holder("BETA")
        with pytest.raises(VerificationError) as caught:
            await here.sessions.open(Holder(holder.identity, other.key, holder.session_ms, X25519))
        assert caught.value.reason == "bad_proof"
        longer = await here.holder("GAMMA", suite=IDENTITY_SUITES["ecc384/sha384"])
        with pytest.raises(TpmRefusedError) as refused:
            await here.sessions.open(Holder(holder.identity, longer.key, holder.session_ms, X25519))
        assert refused.value.code == "wrong_suite"


async def test_a_session_that_was_replaced_can_be_shown_until_it_ends_or_the_authority_or_its_agent_ends_it():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA", "BETA")
        first = {name: here.sessions.current(name) for name in ("ALPHA", "BETA")}
        await here.sessions.replace(await here.holder("ALPHA", number=1))
        second = here.sessions.current("ALPHA")
        assert [*here.sessions.former()] == [first["ALPHA"]]
        await here.advance(500)  # all are renewed
        assert {*here.sessions.former()} == {first["ALPHA"], second, first["BETA"]}
        verify_host(second.keys.public, b"tbs", second.keys.prove(b"tbs"))
        assert not {*here.sessions.former()} & {*here.sessions.held.values()}
        here.sessions.close("BETA")
        assert {*here.sessions.former()} == {first["ALPHA"], second}
        await here.advance(405)
        assert second not in here.sessions.former()
        assert len(here.sessions._former) == 1, "it is of the pair of now, and what has ended is not kept"


async def test_a_session_that_the_authority_ended_is_not_shown():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA", "BETA")
        await here.advance(500)
        assert {one.holder.name for one in here.sessions.former()} == {"ALPHA", "BETA"}
        here.restate(ALPHA=(1, here.clock.ms + 1))
        assert {one.holder.name for one in here.sessions.former()} == {"BETA"}
        here.signer = (await here.holder("TRUST")).identity
        here.restate()
        assert not [*here.sessions.former()]
        here.sessions.retire()
        assert not here.sessions._former


async def test_a_replaced_identity_vouches_for_the_current_pair():
    async with place() as here:
        await here.open("ALPHA", "BETA")
        before, other, keys = here.sessions.current("ALPHA"), here.sessions.current("BETA"), here.sessions.keys
        await here.sessions.replace(await here.holder("ALPHA", number=1))
        after = here.sessions.current("ALPHA")
        assert after.id != before.id
        assert after.keys is keys
        assert here.sessions.current("BETA") is other
        with pytest.raises(LocalProtocolError):
            await here.sessions.replace(await here.holder("GAMMA"))


async def test_who_must_grant_anew_is_told_in_the_same_step():
    async with place() as here:
        told = []
        here.sessions.on_change.append(lambda: told.append((here.sessions.generation, here.sessions.keys.public)))
        await here.open("ALPHA")
        first = here.sessions.keys.public
        await here.open("BETA")
        await here.advance(13 * 60)
        assert [public for _, public in told] == [first, first, here.sessions.keys.public]
        assert [generation for generation, _ in told] == sorted({generation for generation, _ in told})


# ---- renewal -------------------------------------------------------------------------------------------------------------------


async def test_76_agents_through_an_hour_without_a_gap_and_with_one_switch_each_time():
    async with place() as here:
        await here.open(*FLEET)
        switches = [here.sessions.keys]
        lives = []

        def look():
            keys = {here.sessions.current(name).keys for name in FLEET}
            assert len(keys) == 1, "agents of one host sign under two pairs"
            if here.sessions.keys is not switches[-1]:
                lives.append(here.clock.seconds - sum(lives))
                switches.append(here.sessions.keys)
            assert keys == {switches[-1]}

        await here.advance(3_600, step=2, look=look)
        while len({*here.engine.asked_for(Purpose.SESSION).values()}) > 1:  # the hour is over in the middle of a renewal
            await here.advance(2, step=2, look=look)
        assert 5 <= len(switches) <= 9
        assert all(0.5 * 900 - 2 <= life <= 0.8 * 900 + 7 for life in lives), lives
        asked = here.engine.asked_for(Purpose.SESSION)
        assert asked == dict.fromkeys((f"{name}.1" for name in FLEET), len(switches))  # one for each agent and pair, no more
        assert here.engine.most_pending <= 4
        assert {priority for _, _, _, priority in here.engine.asked} == {Priority.RENEWAL}
        assert len({keys.public for keys in switches}) == len({keys.kem_key for keys in switches}) == len(switches)
        assert here.sessions.statistics() == {
            "renewals": len(lives),
            "certified": 76 * len(switches),
            "failed": 0,
            "open": 76,
            "valid": 76,
            "old_pairs": here.sessions.statistics()["old_pairs"],
        }


async def test_the_tpm_may_be_away_for_five_minutes_in_the_middle_of_an_hour():
    async with place(random=at_point(0.2)) as here:  # renewal at 56 %: 504 s
        await here.open(*FLEET)

        def look():
            assert len({here.sessions.current(name).keys for name in FLEET}) == 1

        await here.advance(500, look=look)
        here.engine.away = True
        tries = len(here.engine.asked)
        await here.advance(300, look=look)
        assert len(here.engine.asked) - tries < 150, "a TPM that is away is asked again and again"
        here.engine.away = False
        before = here.sessions.keys
        await here.advance(20, look=look)
        assert here.sessions.keys is not before
        await here.advance(3_600 - 820, step=2, look=look)


async def test_a_tpm_that_goes_away_in_the_middle_of_a_renewal_stops_nobody():
    async with place(random=at_point(0.0)) as here:
        await here.open(*FLEET)
        before = here.sessions.keys
        for name in FLEET[30:]:
            here.engine.refuses[f"{name}.1"] = TpmUnavailableError("no_tpm", "gone")

        def look():
            assert {here.sessions.current(name).keys for name in FLEET} == {before}

        await here.advance(0.98 * 900 - 1, look=look)
        assert 30 <= here.sessions.statistics()["certified"] - 76 < 40
        here.engine.refuses.clear()
        await here.advance(3)
        assert here.sessions.keys is not before
        assert here.valid() == set(FLEET)


async def test_those_who_are_ready_switch_at_the_last_call_and_the_others_follow():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA", "BETA", "GAMMA")
        before = here.sessions.keys
        here.engine.refuses["BETA.1"] = TpmUnavailableError("no_tpm", "gone")
        await here.advance(0.98 * 900 - 2)
        assert {here.sessions.current(name).keys for name in ("ALPHA", "BETA", "GAMMA")} == {before}
        await here.advance(4)
        assert here.valid() == {"ALPHA", "GAMMA"}
        assert {here.sessions.current(name).keys for name in ("ALPHA", "GAMMA")} == {here.sessions.keys} != {before}
        with pytest.raises(SessionEndedError) as caught:
            here.sessions.current("BETA")
        assert caught.value.reason == here.sessions.state("BETA") == "no_tpm"
        here.engine.refuses.clear()
        await here.advance(61)
        assert here.valid() == {"ALPHA", "BETA", "GAMMA"}
        assert here.sessions.current("BETA").keys is here.sessions.keys


async def test_agents_whose_keys_are_stuck_do_not_keep_the_others_from_theirs():
    async with place(random=at_point(0.0)) as here:
        await here.open(*FLEET[:20])
        for name in FLEET[:5]:
            here.engine.refuses[f"{name}.1"] = TpmUnavailableError("busy", "try again")
        await here.advance(0.98 * 900 + 3)
        assert here.valid() == set(FLEET[5:20])
        assert {here.sessions.state(name) for name in FLEET[:5]} == {"busy"}


async def test_an_agent_whose_key_is_refused_holds_nobody_up():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA", "BETA")
        before = here.sessions.keys
        here.engine.refuses["BETA.1"] = TpmRefusedError("key_ended", "it has ended")
        await here.advance(460)
        assert here.sessions.keys is not before
        assert (here.sessions.state("ALPHA"), here.sessions.state("BETA")) == ("valid", "key_ended")
        await here.advance(600)
        assert here.sessions.state("ALPHA") == "valid"
        assert here.engine.asked_for(Purpose.SESSION)["BETA.1"] < 25
        here.engine.refuses.clear()
        await here.advance(61)
        assert here.sessions.state("BETA") == "valid"


async def test_without_a_tpm_the_old_pair_signs_to_its_end_and_not_longer():
    async with place() as here:
        await here.open("ALPHA", "BETA")
        keys = here.sessions.keys
        here.engine.away = True
        await here.advance(900, look=lambda: here.sessions.current("ALPHA"))
        await here.advance(1)
        with pytest.raises(SessionEndedError) as caught:
            here.sessions.current("ALPHA")
        assert caught.value.reason == "no_tpm"
        assert here.sessions.opener(keys.kem_key_id) is keys
        await here.advance(66)
        assert here.sessions.opener(keys.kem_key_id) is None
        with pytest.raises(LocalProtocolError):
            keys.sign(b"tbs")
        with pytest.raises(LocalProtocolError):
            keys.open(bytes(80), b"info")
        await here.advance(3_600, step=5)
        here.engine.away = False
        await here.advance(20)
        assert here.valid() == {"ALPHA", "BETA"}
        assert here.sessions.keys is not keys


async def test_a_tpm_that_hangs_is_not_waited_for_for_ever():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA", "BETA")
        before = here.sessions.keys
        here.engine.hangs = True
        await here.advance(500, look=lambda: here.sessions.current("ALPHA"))
        here.engine.hangs = False
        await here.advance(50)
        assert here.sessions.keys is not before
        assert here.valid() == {"ALPHA", "BETA"}


async def test_who_opens_or_closes_in_the_middle_of_a_renewal_is_in_the_next_pair_or_out_of_it():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA", "BETA")
        before = here.sessions.keys
        late = await here.holder("GAMMA")
        here.engine.refuses["ALPHA.1"] = TpmUnavailableError("no_tpm", "gone")
        await here.advance(460)
        await here.sessions.open(late)
        assert here.sessions.current("GAMMA").keys is before
        await here.sessions.replace(await here.holder("BETA", number=1))
        await here.advance(30)
        here.sessions.close("ALPHA")
        await here.advance(20)
        keys = here.sessions.keys
        assert keys is not before
        assert {here.sessions.current(name).keys for name in ("BETA", "GAMMA")} == {keys}
        assert here.sessions.current("BETA").holder.identity.serial == 2
        assert set(here.sessions.held) == {"BETA", "GAMMA"}


async def test_a_role_with_short_sessions_hurries_its_host_and_an_identity_that_ends_does_not():
    async with place(random=at_point(1.0)) as here:
        await here.open("ALPHA")
        await here.open("ENDING", days=30 / 86_400)
        await here.advance(60)
        assert here.engine.asked_for(Purpose.SESSION) == {"ALPHA.1": 1, "ENDING.1": 1}
        await here.open("BRIEF", minutes=1)
        await here.advance(50)
        assert here.engine.asked_for(Purpose.SESSION)["ALPHA.1"] == 2
        assert here.sessions.state("ENDING") == "identity_ended"
        assert here.valid() == {"ALPHA", "BRIEF"}


async def test_hosts_that_began_together_do_not_renew_together():
    moments = []
    for _ in range(8):
        async with place() as here:
            await here.open("ALPHA")
            before = here.sessions.keys
            while here.sessions.keys is before:
                await here.advance(3, step=3)
            moments.append(here.clock.seconds)
    # Eight moments within 60 of 270 seconds: once in ten thousand runs; within 20 of them: once in ten million.
    assert max(moments) - min(moments) > 20
    assert max(Counter(moments).values()) <= 4
    assert 449 <= min(moments) <= max(moments) <= 729


async def test_old_keys_open_for_a_minute_after_their_last_certificate_and_no_longer():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA")
        old = here.sessions.keys
        sealed = kem.seal(X25519, old.kem_key, b"a grant", b"info")
        await here.advance(100)
        await here.open("BETA")  # its certificate is the last one of this pair: until 1,000 s
        await here.advance(400)
        assert here.sessions.keys is not old
        with pytest.raises(LocalProtocolError):
            old.sign(b"tbs")
        await here.advance(560)
        assert here.sessions.opener(old.kem_key_id).open(sealed, b"info") == b"a grant"
        await here.advance(6)
        assert here.sessions.opener(old.kem_key_id) is None
        with pytest.raises(LocalProtocolError):
            old.open(sealed, b"info")


async def test_a_pair_does_not_outlive_its_time_because_agents_come_and_go():
    async with place() as here:
        ages = []
        for number in range(40):
            await here.open("ALPHA")
            ages.append(here.clock.seconds - here.sessions.born)
            await here.advance(61 + number)
            ages.append(here.clock.seconds - here.sessions.born)
            here.sessions.close("ALPHA")
            await here.advance(20)
        assert max(ages) <= 900 * 0.8 + 120
        assert here.sessions.statistics()["renewals"] > 2


async def test_an_agent_with_a_stronger_kem_that_opens_during_a_renewal_gets_no_weaker_pair():
    async with place(random=at_point(0.0)) as here:
        await here.open("STRONG", kem=HYBRID)
        await here.open("ALPHA")
        here.sessions.close("STRONG")
        await here.advance(449)
        here.engine.away = True
        await here.advance(3)  # the renewal has begun, with a pair for ALPHA alone
        here.engine.away = False
        await here.open("STRONG", kem=HYBRID)
        here.engine.away = True
        await here.advance(2)
        here.engine.away = False
        await here.advance(30)
        assert here.sessions.statistics()["renewals"] == 1
        assert here.sessions.keys.kem == HYBRID
        assert here.valid() == {"ALPHA", "STRONG"}


async def test_an_agent_that_closes_while_its_identity_is_replaced_stays_closed():
    async with place() as here:
        await here.open("ALPHA", "BETA")
        new = await here.holder("ALPHA", number=1)
        with pytest.raises(LocalProtocolError):
            await _while_it_is_certified(here, lambda: here.sessions.replace(new), lambda: here.sessions.close("ALPHA"))
        assert set(here.sessions.holders) == {"BETA"}


async def test_who_opens_while_all_switch_is_certified_for_the_new_pair():
    async with place() as here:
        await here.open("ALPHA")
        late, strong = await here.holder("LATE"), await here.holder("STRONG", kem=HYBRID)

        async def switch():
            await here.sessions.open(strong)

        await _while_it_is_certified(here, lambda: here.sessions.open(late), lambda: here.tasks.start_soon(switch))
        await here.settle()
        assert {here.sessions.current(name).keys for name in ("ALPHA", "LATE", "STRONG")} == {here.sessions.keys}
        assert here.sessions.keys.kem == HYBRID


async def _while_it_is_certified(here, call, meanwhile):
    """`meanwhile` happens after the TPM has signed the first certificate that is asked for, and before its caller hears of it."""
    sign_many, first = here.engine.sign_many, [True]

    async def watched(*arguments, **options):
        proofs = await sign_many(*arguments, **options)
        if first.pop() if first else False:
            meanwhile()
            await here.settle()
        return proofs

    here.engine.sign_many = watched
    try:
        await call()
    finally:
        del here.engine.sign_many


async def test_a_long_trouble_is_told_once(caplog):
    async with place(random=at_point(0.0)) as here:
        await here.open(*FLEET[:10])
        here.engine.away = True
        await here.advance(800)
        assert len([record for record in caplog.records if record.name == "bus.identity.host.sessions"]) == 1
        here.engine.away = False
        await here.advance(20)
        here.engine.refuses["AGENT1.1"] = TpmRefusedError("key_ended", "it has ended")
        await here.advance(500)
        assert len([record for record in caplog.records if record.name == "bus.identity.host.sessions"]) == 2


# ---- clocks --------------------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_back_a_little_dates_nothing_before_the_session():
    async with place() as here:
        await here.open("ALPHA")
        session = here.sessions.current("ALPHA")
        here.clock.ms -= 20_000
        assert here.sessions.current("ALPHA") is session
        assert session.sent_ms(here.clock.ms) == session.not_before_ms
        await here.advance(30)
        assert here.sessions.current("ALPHA") is session


async def test_a_clock_that_is_set_back_a_lot_is_answered_also_where_the_identity_ends_soon():
    async with place() as here:
        await here.advance(200)
        await here.open("ENDING", days=10 / 1440)
        here.clock.ms -= 180_000
        assert here.valid() == set()
        await here.advance(6)
        assert here.valid() == {"ENDING"}


@pytest.mark.parametrize("minutes", [-4, 14, 16, 45])
async def test_a_clock_that_jumps_is_answered_by_new_sessions(minutes):
    async with place() as here:
        await here.open(*FLEET[:5])
        await here.advance(310)  # the second statement is ten seconds old
        here.withheld = True  # there is no newer one for the new time
        before = here.sessions.keys
        here.clock.ms += minutes * MINUTE_MS
        await here.advance(6)
        if minutes < 0:  # the statement holds the time
            assert here.sessions.now_ms() == here.statement.issued_ms > here.clock.ms
        else:
            assert here.sessions.keys is not before
        assert here.valid() == set(FLEET[:5])
        here.clock.ms -= minutes * MINUTE_MS
        here.withheld = False
        await here.advance(6)
        assert here.valid() == set(FLEET[:5])
        body = here.sessions.current("AGENT0").certificate.body
        assert body.not_before_ms <= here.clock.ms + 60_000


async def test_a_clock_that_jumps_past_the_statement_stops_everybody_until_it_is_set_right():
    async with place() as here:
        await here.open("ALPHA")
        session = here.sessions.current("ALPHA")
        here.withheld = True
        here.clock.ms += DAY_MS
        await here.advance(20)
        with pytest.raises(SessionEndedError) as caught:
            here.sessions.current("ALPHA")
        assert caught.value.reason == "trust_stale"
        here.clock.ms -= DAY_MS
        assert here.sessions.current("ALPHA") is session
        await here.advance(20)
        assert here.valid() == {"ALPHA"}


async def test_sessions_that_the_authority_ends_are_made_anew():
    async with place() as here:
        await here.open("ALPHA", "BETA")
        before = here.sessions.keys
        await here.advance(30)
        here.restate(ALPHA=(1, here.clock.ms + 20_000))
        await here.advance(6)
        session = here.sessions.current("ALPHA")
        assert session.keys is here.sessions.keys is not before
        assert session.not_before_ms == here.standing["ALPHA"][1]
        assert here.sessions.current("BETA").keys is session.keys
        asked = len(here.engine.asked)
        await here.advance(60)
        assert len(here.engine.asked) == asked


async def test_a_new_trust_signer_vouches_for_new_sessions_at_once():
    """The old one may have been revoked, and then nobody believes a session that names its statements."""
    async with place() as here:
        await here.open("ALPHA", "BETA")
        before = here.sessions.keys
        await here.advance(30)
        here.signer = (await here.holder("TRUST")).identity
        here.restate()
        await here.advance(6)
        for name in ("ALPHA", "BETA"):
            assert here.sessions.current(name).keys is here.sessions.keys is not before
            assert here.sessions.current(name).certificate.body.trust_digest == here.statement.digest
        asked = len(here.engine.asked)
        await here.advance(60)
        assert len(here.engine.asked) == asked


async def test_an_agent_that_must_wait_for_its_time_is_waited_for():
    async with place() as here:
        await here.open("ALPHA", "BETA")
        before = here.sessions.keys
        await here.advance(30)
        here.restate(BETA=(1, here.clock.ms + 100_000))  # by an authority whose clock is ahead

        def look():
            assert here.sessions.current("ALPHA").keys is here.sessions.current("BETA").keys

        await here.advance(90, look=look)
        assert here.sessions.keys is not before
        assert here.sessions.current("BETA").not_before_ms == here.standing["BETA"][1]


async def test_giving_up_gives_up_every_key():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA")
        old = here.sessions.keys
        await here.advance(460)
        new = here.sessions.keys
        here.sessions.retire()
        for keys in (old, new):
            with pytest.raises(LocalProtocolError):
                keys.open(bytes(80), b"info")
        with pytest.raises(LocalProtocolError):
            _ = here.sessions.keys
        with pytest.raises(LocalProtocolError):
            here.sessions.current("ALPHA")
        await here.advance(10)
        with pytest.raises(LocalProtocolError):
            await here.open("ALPHA")


async def test_what_was_under_way_when_all_was_given_up_brings_nothing_back():
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA")
        late = await here.holder("LATE")
        with pytest.raises(LocalProtocolError):
            await _while_it_is_certified(here, lambda: here.sessions.open(late), here.sessions.retire)
        assert not here.sessions.holders
    async with place(random=at_point(0.0)) as here:
        await here.open("ALPHA")

        async def renewed():
            await here.advance(455)

        await _while_it_is_certified(here, renewed, here.sessions.retire)
        with pytest.raises(LocalProtocolError):
            _ = here.sessions.keys
        assert not here.sessions.held


async def test_each_certificate_has_its_own_randomness():
    async with place() as here:
        await here.open("ALPHA")
        first = here.sessions.current("ALPHA")
        await here.sessions.replace(here.sessions.holder("ALPHA"))
        second = here.sessions.current("ALPHA")
        assert first.id != second.id
        assert first.certificate.proof.blind != second.certificate.proof.blind
        assert first.certificate.body.random != second.certificate.body.random

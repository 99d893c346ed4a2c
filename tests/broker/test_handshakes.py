"""Who comes in: only agents with papers that hold, whose host key is proven on this very link, within five seconds."""

from __future__ import annotations

import os
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from played import Played, Stage, settle
from small_world import MINUTE

from bus.broker import accounts, arriving
from bus.broker.host_link import HostLink
from bus.broker.outbox import Outbox
from bus.errors import ClosedError, RemoteProtocolError
from bus.identity.host.host_keys import HostKeys
from bus.policy.model import UidGrant
from bus.protocol.frames import Frame, parse
from bus.protocol.handshake import HelloA, agent_tbs, broker_tbs, transcript
from bus.protocol.kem import HYBRID
from bus.protocol.papers import Papers, SessionCertificate, claimed
from bus.protocol.skew import SKEW_MS
from bus.transport.link import Peer
from bus.transport.memory import memory_pair
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


def hello(*papers: bytes, versions: tuple[int, ...] = (1,)) -> bytes:
    return HelloA(versions, os.urandom(32), papers).encode()


async def refusal(stage: Stage, host) -> str:
    """With what word it was refused; the link is over."""
    (refused,) = await host.hears()
    assert (refused[0], refused[2]) == (Frame.REFUSE, b"")
    assert host.lost, "the link is over"
    counted = stage.counted
    assert (counted["links_open"], counted["links_half_open"], counted["agents"]) == (0, 0, 0)
    return refused[1]


async def test_agents_of_one_host_come_in_together_and_hear_of_trust(stage: Stage):
    host = stage.connect("DIRECTOR", "MONITOR")
    await host.shake_hands()
    assert host.came == []
    counted = stage.counted
    assert (counted["links_open"], counted["agents"], counted["handshakes"]) == (1, 2, {"open": 1})


async def test_trust_comes_after_the_handshake_and_the_statement_last(stage: Stage):
    host = stage.connect("DIRECTOR")
    hello_a = hello(host.agents["DIRECTOR"].papers)
    (_, hello_b), _ = await host.say(Frame.HELLO_A, hello_a)
    frames = await host.say(Frame.PROVE, host.keys.sign(agent_tbs(transcript(hello_a, hello_b))))
    documents = [*stage.documents.in_order()]
    assert frames == [[Frame.TRUST, what, len(data), 0, data] for what, data in documents]


async def test_what_comes_right_behind_the_proof_waits_until_all_papers_were_looked_at(stage: Stage):
    names = ["DIRECTOR", "DEPUTY", "BUILDER", "TESTER", "PACKER", "MONITOR"]
    assert len(names) > arriving.AT_ONCE
    host = stage.connect(*names)
    hello_a = hello(*(agent.papers for agent in host.agents.values()))
    (_, hello_b), _ = await host.say(Frame.HELLO_A, hello_a)
    host.send(Frame.PROVE, host.keys.sign(agent_tbs(transcript(hello_a, hello_b))))
    host.send(Frame.SUBSCRIBE, 1, "MONITOR", "tasks.>", "", "", "new", 10, "block")
    host.send(Frame.PING, 77)
    assert [one[:2] for one in await host.hears() if one[0] != Frame.TRUST] == [[Frame.SUBSCRIBED, 1], [Frame.PONG, 77]]
    assert stage.counted["agents"] == 6


async def test_a_version_that_nobody_speaks_is_said(stage: Stage):
    host = stage.connect("DIRECTOR")
    host.send(Frame.HELLO_A, hello(host.agents["DIRECTOR"].papers, versions=(7, 9)))
    assert await refusal(stage, host) == "version"


async def test_papers_of_another_host_key_are_refused(stage: Stage):
    host, other = stage.connect("DIRECTOR"), stage.connect("MONITOR")
    host.agents["MONITOR"] = other.agents["MONITOR"]
    other.link.close()
    await host.shake_hands()
    assert await refusal(stage, host) == "unverified"


@pytest.mark.parametrize("case", ["another key", "the broker's words", "no signature at all"])
async def test_a_host_key_that_is_not_proven_is_refused(stage: Stage, case: str):
    host = stage.connect("DIRECTOR")
    proofs = {
        "another key": HostKeys.make(HYBRID, os.urandom).sign,
        "the broker's words": lambda tbs: host.keys.sign(broker_tbs(tbs[-32:])),
        "no signature at all": lambda _: bytes(64),
    }
    await host.shake_hands(proves=proofs[case])
    assert await refusal(stage, host) == "unverified"


@pytest.mark.parametrize("early", [Frame.OPEN, Frame.PING, Frame.PROVE])
async def test_nothing_but_a_handshake_comes_first(stage: Stage, early: Frame):
    host = stage.connect("DIRECTOR")
    fields = {Frame.OPEN: (2, "tasks.build"), Frame.PING: (1,), Frame.PROVE: (bytes(64),)}
    host.send(early, *fields[early])
    assert await refusal(stage, host) == "malformed"


async def test_an_open_link_never_shakes_hands_again(stage: Stage):
    host = await stage.host("DIRECTOR")
    await host.say(Frame.HELLO_A, hello(host.agents["DIRECTOR"].papers))
    assert host.lost
    assert stage.counted["cut"] == {"malformed": 1}


async def test_what_no_frame_is_ends_the_link(stage: Stage):
    host = await stage.host("DIRECTOR")
    host.link.send(b"\x91\xc0")
    await settle()
    assert host.lost
    assert stage.counted["links_open"] == 0


async def test_a_session_that_has_ended_is_refused(stage: Stage):
    host = stage.connect("DIRECTOR")
    stage.clock.advance(16 * 60 + 1)
    await host.shake_hands()
    assert await refusal(stage, host) == "unverified"


async def test_a_session_that_begins_later_than_clocks_may_differ_is_refused(stage: Stage):
    stage.world.now += SKEW_MS
    await stage.host("DIRECTOR")
    assert [one.agent for one in stage.broker.listing.live()] == ["DIRECTOR"]
    stage.world.now += 1
    host = stage.connect("DEPUTY")
    await host.shake_hands()
    assert [one[:2] for one in await host.hears()] == [[Frame.REFUSE, "unverified"]]
    assert host.lost


@pytest.mark.parametrize("reason", [Reason.COMPROMISED, Reason.RETIRED, Reason.ROTATED])
async def test_who_is_revoked_is_refused_and_told_so(stage: Stage, reason: Reason):
    """Whose key was replaced is not told that it was revoked: its agent has another one."""
    host = stage.connect("DIRECTOR")
    serial = host.agents["DIRECTOR"].identity.certificate.serial
    await stage.follow(revoked={serial: Revocation(stage.world.now, reason)})
    await host.shake_hands()
    *said, refused = await host.hears()
    assert said == ([] if reason is Reason.ROTATED else [[Frame.DRAIN, "revoked DIRECTOR"]])
    assert refused == [Frame.REFUSE, "unverified", b""]
    assert host.lost, "the link is over"
    assert (stage.counted["links_open"], stage.counted["agents"]) == (0, 0)


async def test_sessions_from_before_a_date_are_refused(stage: Stage):
    host = stage.connect("DIRECTOR")
    await stage.follow(agents={"DIRECTOR": (0, stage.world.now + MINUTE)})
    await host.shake_hands()
    assert await refusal(stage, host) == "unverified"


async def test_whose_key_is_not_where_its_role_demands_is_refused(stage: Stage):
    host = stage.connect()
    identity = stage.world.identity("DIRECTOR", origin="software")
    host.agents["DIRECTOR"] = stage.world.agent("DIRECTOR", identity=identity, host=host.keys)
    await host.shake_hands()
    assert await refusal(stage, host) == "not_permitted"


async def test_whom_policy_does_not_know_is_refused(stage: Stage):
    host = stage.connect()
    identity = stage.world.identity("STRANGER", suite="ecc256/sha256")
    host.agents["STRANGER"] = stage.world.agent("STRANGER", identity=identity, host=host.keys)
    await host.shake_hands()
    assert await refusal(stage, host) == "not_permitted"


@pytest.mark.parametrize(
    ("uid", "code"), [(os.geteuid(), None), (0, None), (4_711, None), (4_712, "not_permitted"), (None, "not_permitted")]
)
async def test_the_kernel_s_user_only_restricts(stage: Stage, uid: int | None, code: str | None):
    policy = stage.world.policy
    roles = {**policy.roles, "command": replace(policy.roles["command"], uids=(UidGrant(4_711, frozenset()),))}
    await stage.follow(policy=replace(policy, roles=roles))
    host = stage.connect("DIRECTOR")
    host.link.other.peer = Peer("unix", "/run/bus.sock", uid=uid, pid=1)
    await host.shake_hands()
    if code is None:
        assert stage.counted["agents"] == 1
    else:
        assert await refusal(stage, host) == code


async def test_who_says_nothing_for_five_seconds_is_put_off(stage: Stage):
    async with stage.running():
        host, other = stage.connect("DIRECTOR"), stage.connect("MONITOR")
        await host.say(Frame.HELLO_A, hello(host.agents["DIRECTOR"].papers))
        await stage.later(4.9)
        assert not host.lost
        await stage.later(0.3)
        assert host.lost
        assert other.lost
        assert stage.counted["handshakes"] == {"busy": 2}


async def test_how_long_it_was_silent_before_there_was_a_link_counts(stage: Stage):
    async with stage.running():
        near, far = memory_pair()
        far.peer = Peer("unix", "/run/bus.sock", uid=os.getuid(), silent_seconds=4)
        stage.broker.attach(far)
        host = Played(stage, near, ["DIRECTOR"])
        await stage.later(0.9)
        assert not host.lost
        await stage.later(0.3)
        assert await refusal(stage, host) == "busy"


async def test_who_goes_before_it_was_a_link_is_counted_and_told_as_any_other(stage: Stage, caplog: pytest.LogCaptureFixture):
    for uid in (7, 7, 8):
        told = stage.broker.turn_away(Peer("unix", "/run/bus.sock", uid=uid), "it said nothing")
        assert parse(told) == [Frame.REFUSE, "busy", b""]
    counted = stage.counted
    assert (counted["links"], counted["handshakes"], counted["links_half_open"]) == (3, {"busy": 3}, 0)
    assert counted["offences"] == {f"unix uid {uid}: handshake refused as busy": times for uid, times in ((7, 2), (8, 1))}
    assert len(caplog.records) == 2


async def test_time_passes_over_those_who_are_not_in_yet(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """A thousand of them may be there; nothing waits for them, and nothing grows."""
    seen: list[HostLink] = []
    expire = Outbox.expire
    monkeypatch.setattr(Outbox, "expire", lambda self, now_ms: (seen.append(self._host), expire(self, now_ms)))
    for _ in range(3):
        stage.connect("DIRECTOR")
    host = stage.connect("MONITOR")
    await host.shake_hands()
    async with stage.running():
        await stage.later(1)
    assert {*map(repr, seen)} == {"<HostLink 4 memory of MONITOR>"}


async def test_a_crowd_whose_time_is_over_goes_a_few_in_each_turn_of_the_loop(stage: Stage):
    hosts = [stage.connect("DIRECTOR") for _ in range(3 * arriving.AT_ONCE)]
    await settle()
    stage.broker._arriving.tick(stage.clock.monotonic() + 5.1)
    assert stage.counted["links_half_open"] == 2 * arriving.AT_ONCE
    await settle()
    assert all(host.lost for host in hosts)
    assert stage.counted["handshakes"] == {"busy": 3 * arriving.AT_ONCE}


async def test_of_too_many_in_a_handshake_the_oldest_goes(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arriving, "MAX_HALF_OPEN", 2)
    hosts = [stage.connect("DIRECTOR") for _ in range(3)]
    await settle()
    assert [bool(host.lost) for host in hosts] == [True, False, False]
    await hosts[2].shake_hands()
    assert stage.counted["links_half_open"] == 1


async def test_of_too_much_in_handshakes_the_oldest_goes(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    hosts = [stage.connect("DIRECTOR") for _ in range(3)]
    papers = hosts[0].agents["DIRECTOR"].papers
    monkeypatch.setattr(arriving, "MAX_BYTES", 5 * len(papers) + 100)
    for host in hosts:
        await host.say(Frame.HELLO_A, hello(*[papers] * 2))
    assert [bool(host.lost) for host in hosts] == [True, False, False]
    await hosts[2].say(Frame.PROVE, bytes(64))
    await settle()
    assert stage.broker._arriving._bytes == 2 * len(papers)


async def test_who_is_revoked_while_its_papers_are_looked_at_does_not_come_in(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arriving, "AT_ONCE", 1)
    names = ["DIRECTOR", "DEPUTY", "BUILDER", "TESTER", "PACKER", "MONITOR"]
    host = stage.connect(*names)
    hello_a = hello(*(agent.papers for agent in host.agents.values()))
    (_, hello_b), _ = await host.say(Frame.HELLO_A, hello_a)
    host.send(Frame.PROVE, host.keys.sign(agent_tbs(transcript(hello_a, hello_b))))
    while not stage.counted["sessions"]:
        await anyio.lowlevel.checkpoint()
    assert stage.counted["links_half_open"] == 1
    serial = host.agents["DIRECTOR"].identity.certificate.serial
    await stage.follow(revoked={serial: Revocation(stage.world.now, Reason.COMPROMISED)})
    assert await host.hears(Frame.DRAIN) == [[Frame.DRAIN, "revoked DIRECTOR"]]
    assert stage.counted["agents"] == 5


async def test_a_link_that_is_lost_in_its_handshake_leaves_nothing(stage: Stage):
    host = stage.connect("DIRECTOR")
    await host.say(Frame.HELLO_A, hello(host.agents["DIRECTOR"].papers))
    host.link.close()
    await settle()
    assert isinstance(host.lost[0], ClosedError)
    assert (stage.counted["links_half_open"], stage.counted["handshakes"]) == (0, {"lost": 1})


# ---- papers later ----------------------------------------------------------------------------------------------------------------


async def test_an_agent_that_opens_later_comes_with_its_papers(stage: Stage):
    host = await stage.host("DIRECTOR")
    deputy = stage.world.agent("DEPUTY", host=host.keys)
    assert await host.say(Frame.PAPERS, [deputy.papers], b"") == []
    assert stage.counted["agents"] == 2


async def test_another_host_key_counts_once_it_signed_this_handshake(stage: Stage):
    host = await stage.host("DIRECTOR")
    keys = HostKeys.make(HYBRID, os.urandom)
    renewed = stage.world.agent("DIRECTOR", identity=host.agents["DIRECTOR"].identity, host=keys)
    assert await host.say(Frame.PAPERS, [renewed.papers], b"") == [[Frame.REFUSE, "unverified", renewed.session]]
    wrong = keys.sign(agent_tbs(bytes(32)))
    assert await host.say(Frame.PAPERS, [renewed.papers], wrong) == [[Frame.REFUSE, "unverified", renewed.session]]
    assert await host.say(Frame.PAPERS, [renewed.papers], keys.sign(agent_tbs(host.t))) == []
    assert await host.say(Frame.PAPERS, [stage.world.agent("DEPUTY", host=keys).papers], b"") == [], "proven from now on"


async def test_papers_that_do_not_hold_leave_the_link_and_the_older_session_as_they_were(stage: Stage):
    host = await stage.host("DIRECTOR")
    other = stage.world.identity("DIRECTOR", number=1)
    papers = stage.world.papers(host.agents["DIRECTOR"].identity, host.keys, proof={"signer": other.certificate.signer})
    session = SessionCertificate.parse(Papers.parse(papers).session).id
    assert await host.say(Frame.PAPERS, [papers], b"") == [[Frame.REFUSE, "unverified", session]]
    assert not host.lost
    await host.open("tasks.build")
    host.publish(host.seal("tasks.build"), topic="tasks.build")
    await settle()
    assert stage.counted["admitted"] == 1


async def test_whose_papers_are_refused_is_put_off_and_who_comes_with_it_comes_in(stage: Stage):
    host = await stage.host("DIRECTOR")
    good, other = stage.world.agent("BUILDER", host=host.keys), stage.world.agent("DEPUTY", host=HostKeys.make(HYBRID, os.urandom))
    said = await host.say(Frame.PAPERS, [other.papers, good.papers], b"")
    assert said == [[Frame.DRAIN, "unverified DEPUTY"]]
    assert not host.lost
    assert [name for name, _ in stage.broker._seats] == ["DIRECTOR", "BUILDER"]


async def test_who_brings_bad_papers_all_the_time_is_slowed_down_like_anybody_who_asks_for_much(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(accounts, "STOCK", 500)
    async with stage.running():
        host, other = await stage.host("DIRECTOR"), await stage.host("BUILDER")
        bad = stage.world.agent("DEPUTY", host=HostKeys.make(HYBRID, os.urandom))
        for _ in range(100):
            host.send(Frame.PAPERS, [bad.papers] * 4, b"")
        assert 0 < len(await host.hears(Frame.DRAIN)) <= 24
        assert [Frame.PONG, 5] in await other.say(Frame.PING, 5)


async def test_what_papers_claim_is_what_they_say_when_they_are_looked_at(stage: Stage):
    papers = stage.world.agent("DIRECTOR", host=HostKeys.make(HYBRID, os.urandom)).papers
    certificate = SessionCertificate.parse(Papers.parse(papers).session)
    assert claimed(papers) == (certificate.body.name, certificate.body.host_key, certificate.id)
    for other in (papers[:-1], b"", papers.replace(b"DIRECTOR", b"director")):
        with pytest.raises(RemoteProtocolError):
            claimed(other)

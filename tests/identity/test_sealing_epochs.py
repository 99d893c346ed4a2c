"""Which epoch an agent seals with: one for all that policy treats alike, another one when anything that matters has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from keyrings import session_of
from small_world import HOUR, MINUTE, POLICY, World

from bus.errors import LocalProtocolError, VerificationError
from bus.identity.envelopes import seal
from bus.identity.epochs.sealing import DURABLE_MS, LINGER_MS, Sealing, SealingEpochs, Use
from bus.identity.host.session import Session
from bus.policy import load
from bus.protocol.epochs import Params
from bus.protocol.header import MAX_SEQ


class Scene:
    def __init__(self, world: World) -> None:
        self.world = world
        self.epochs = SealingEpochs(world.snapshot)
        self.agents = {name: world.agent(name) for name in ("DIRECTOR", "BUILDER")}
        self.sessions = {name: session_of(agent, world) for name, agent in self.agents.items()}

    def get(self, topic: str = "tasks.build", *, sender: str = "DIRECTOR", session: Session | None = None, **use: str) -> Sealing:
        session = session or self.sessions[sender]
        return self.epochs.get(Use(sender, topic, **use), session, sent_ms=self.world.now, random=os.urandom)

    def renew(self, *names: str) -> None:
        for name in names:
            self.sessions[name] = session_of(self.world.agent(name, identity=self.agents[name].identity), self.world)
        self.epochs.renewed(self.sessions, now_ms=self.world.now)

    def follow(self, policy: str | None = None, **changes: object) -> None:
        found = None if policy is None else load({"policy.yaml": policy.encode()})
        self.epochs.follow(self.world.trust(policy=found, **changes), now_ms=self.world.now)


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def test_topics_that_policy_treats_alike_share_one(scene: Scene):
    one = scene.get("tasks.build")
    assert scene.get("tasks.test.all") is one
    assert len(scene.epochs) == 1
    assert one.epoch.params == Params(*one.key, made_ms=scene.world.now, ends_ms=scene.sessions["DIRECTOR"].not_after_ms)


@pytest.mark.parametrize(
    ("topic", "use"),
    [
        ("control.stop", {}),
        ("work.build", {}),
        ("secret.plan", {}),
        ("tasks.build", {"priority": "bulk"}),
        ("ask.time", {}),
        ("_reply.BUILDER." + "0" * 32, {"request": "tasks.build"}),
    ],
)
def test_whatever_policy_decides_makes_another_one(scene: Scene, topic, use):
    one, other = scene.get(), scene.get(topic, **use)
    assert other.key != one.key
    assert other.epoch.id != one.epoch.id
    assert scene.get(topic, **use) is other
    assert scene.get() is one


def test_every_sender_has_its_own(scene: Scene):
    assert scene.get("results.a").epoch.id != scene.get("results.a", sender="BUILDER").epoch.id


def test_replies_to_one_requester_share_one_and_only_it_may_have_them(scene: Scene):
    topics = [f"_reply.BUILDER.{os.urandom(16).hex()}" for _ in range(100)]
    found = {id(scene.get(topic, request="work.build")) for topic in topics}
    assert len(found) == 1
    one = scene.get(topics[0], request="work.build")
    assert one.grantable.members == (("BUILDER", 0),)
    assert not one.epoch.params.is_durable
    assert one.grantable.topics == {"_reply.BUILDER." + "0" * 32}
    assert one.grantable.entitled(scene.world.snapshot, now_ms=scene.world.now) == {("BUILDER", 0)}


def test_a_renewed_session_ends_live_epochs_at_once_and_durable_ones_go_on(scene: Scene):
    live, durable, builders = scene.get(), scene.get("work.build"), scene.get("results.a", sender="BUILDER")
    scene.renew("DIRECTOR")
    assert not live.still_good(scene.world.now)
    with pytest.raises(LocalProtocolError):
        live.epoch.take()
    again = scene.get()
    assert again.epoch.id != live.epoch.id
    assert scene.get("work.build") is durable
    assert durable.still_good(scene.world.now)
    assert builders.still_good(scene.world.now), "another agent's session is its own"


def test_one_that_nobody_told_of_a_renewal_is_not_used_under_another_session(scene: Scene):
    live = scene.get()
    renewed = session_of(scene.world.agent("DIRECTOR"), scene.world)
    assert scene.get(session=renewed).epoch.id != live.epoch.id


def test_what_is_being_signed_at_a_renewal_can_still_be_sealed(scene: Scene):
    live = scene.get("control.stop")
    outgoing = scene.world.outgoing(scene.agents["DIRECTOR"], "control.stop")
    random = os.urandom(seal.RANDOM_BYTES)
    draft = seal.draft(live.epoch, outgoing, suite=scene.agents["DIRECTOR"].identity.suite, random=random)
    scene.renew("DIRECTOR")
    proof = scene.agents["DIRECTOR"].identity.prove(1, [draft.content], [draft.blind])[0]
    assert seal.seal(draft, proof)
    assert not live.still_good(scene.world.now)
    scene.epochs.forget(scene.world.now + LINGER_MS)
    with pytest.raises(LocalProtocolError):
        live.epoch.take()


def test_drafts_for_an_audience_that_is_no_longer_right_are_lost(scene: Scene):
    live = scene.get("control.stop")
    suite = scene.agents["DIRECTOR"].identity.suite
    outgoing = scene.world.outgoing(scene.agents["DIRECTOR"], "control.stop")
    draft = seal.draft(live.epoch, outgoing, suite=suite, random=os.urandom(seal.RANDOM_BYTES))
    scene.follow(agents={"BUILDER": (1, 0)})
    proof = scene.agents["DIRECTOR"].identity.prove(1, [draft.content], [draft.blind])[0]
    with pytest.raises(LocalProtocolError):
        seal.seal(draft, proof)


def test_after_news_of_trust_a_lane_asks_again_and_gets_the_same(scene: Scene):
    one = scene.get()
    scene.follow()
    assert not one.still_good(scene.world.now)
    assert scene.get() is one
    assert one.still_good(scene.world.now)


@pytest.mark.parametrize(
    "change",
    [
        {"agents": {"BUILDER": (1, 0)}},
        {"policy": POLICY.replace('subscribe: ["tasks.>"]', 'subscribe: ["results.>"]')},
        {"policy": POLICY.replace("{match: tasks.>, priority: normal", "{match: tasks.>, kem: hybrid, priority: normal")},
    ],
    ids=["a name was revoked", "a role hears less", "a stronger key"],
)
def test_another_audience_or_rule_is_another_epoch_and_the_old_one_is_given_up(scene: Scene, change):
    one, other = scene.get(), scene.get("secret.plan", sender="DIRECTOR")
    scene.follow(**change)
    assert scene.get().epoch.id != one.epoch.id
    with pytest.raises(LocalProtocolError):
        one.epoch.take()
    assert len(scene.epochs) <= 2
    assert other.key.kem == 2


def test_what_one_topic_has_lost_is_not_sealed_with_because_another_topic_has_it_still(scene: Scene):
    """Two topics share an epoch; then one of them gets other readers."""
    tasks, ask = scene.get("tasks.build"), None
    apart = POLICY.replace('publish: ["control.>"', 'publish: ["other.>", "control.>"')
    scene.follow(apart.replace('subscribe: ["tasks.>"]', 'subscribe: ["tasks.>", "tasks.secret"]'))
    ask = scene.get("tasks.secret")
    assert ask.key == tasks.key
    denied = apart.replace("key_origin: software\n", "key_origin: software\n    deny: {subscribe: [tasks.secret]}\n")
    scene.follow(denied)
    assert not ask.still_good(scene.world.now)
    now = {name for name, _ in scene.get("tasks.secret").grantable.members}
    assert "GUEST" not in now
    assert "GUEST" in {name for name, _ in scene.get("tasks.build").grantable.members}


def test_its_end_and_the_end_of_trust_are_its_own_end(scene: Scene):
    live, durable = scene.get(), scene.get("work.build")
    assert durable.epoch.params.ends_ms == scene.world.now + DURABLE_MS
    assert live.still_good(live.epoch.params.ends_ms)
    assert not live.still_good(live.epoch.params.ends_ms + 1)
    stale = scene.world.snapshot.trust.statement.next_update_ms
    assert durable.still_good(stale)
    assert not durable.still_good(stale + 1)
    scene.world.now = stale + 1
    with pytest.raises(VerificationError) as caught:
        scene.get("work.build")
    assert caught.value.reason == "trust_stale"


def test_a_durable_one_ends_after_a_day(scene: Scene):
    durable = scene.get("work.build")
    scene.world.now += DURABLE_MS + 1
    scene.follow()
    assert scene.get("work.build") is not durable


def test_a_spent_one_is_replaced(scene: Scene):
    one = scene.get()
    one.epoch.next_seq = MAX_SEQ + 1
    assert not one.still_good(scene.world.now)
    assert scene.get() is not one
    assert len(scene.epochs) == 1


def test_what_ended_can_be_granted_for_some_seconds_and_then_nothing_is_left_of_it(scene: Scene):
    one = scene.get()
    scene.renew("DIRECTOR")
    assert scene.epochs.find(one.epoch.id) is one
    assert len(one.grantable.secret) == 32
    assert scene.epochs.forget(scene.world.now + LINGER_MS - 1) == []
    assert scene.epochs.forget(scene.world.now + LINGER_MS) == []
    assert scene.epochs.find(one.epoch.id) is None
    assert one.grantable.secret == b""


def test_a_durable_one_that_ended_is_handed_on_with_its_secret_and_seals_nothing(scene: Scene):
    one = scene.get("work.build")
    scene.follow(agents={"BUILDER": (1, 0)})
    assert scene.epochs.forget(scene.world.now + LINGER_MS) == [one.grantable]
    assert len(one.grantable.secret) == 32
    assert one.epoch.is_spent
    assert not one.still_good(scene.world.now)


def test_policy_that_changes_all_the_time_leaves_no_heap_of_epochs(scene: Scene):
    for generation in range(1, 50):
        scene.get()
        scene.get("work.build")
        scene.follow(agents={"BUILDER": (generation, 0)})
        scene.world.now += LINGER_MS + 1
        scene.epochs.forget(scene.world.now)
        assert len(scene.epochs) == 0
        assert len(scene.epochs._by_id) <= 2
    assert (scene.epochs.made, scene.epochs.ended) == (98, 98)


def test_a_closed_agent_seals_no_more(scene: Scene):
    one, durable = scene.get(), scene.get("work.build")
    ended = scene.get("ask.time")
    scene.follow(agents={"TESTER": (1, 0)})
    scene.get(), scene.get("work.build"), scene.get("results.a", sender="BUILDER")
    scene.epochs.close("DIRECTOR")
    assert ended.grantable.secret == one.grantable.secret == durable.grantable.secret == b""
    assert scene.epochs.forget(scene.world.now + LINGER_MS) == []
    assert not one.still_good(scene.world.now)
    assert not durable.still_good(scene.world.now)
    assert [left.key.sender for left in scene.epochs] == ["BUILDER"]


def test_the_end_of_a_live_one_is_found_by_who_looks_now_and_then(scene: Scene):
    scene.get()
    assert scene.epochs.forget(scene.world.now + HOUR) == []
    assert len(scene.epochs) == 0


def test_many_topics_are_not_all_remembered(scene: Scene):
    one = scene.get()
    for number in range(1_000):
        scene.get(f"tasks.build.{number}")
    assert one.grantable.topics is None
    assert one.grantable.entitled(scene.world.snapshot, now_ms=scene.world.now) == set(one.grantable.members)


def test_a_session_that_is_dated_later_than_the_clock_dates_its_epochs(scene: Scene):
    session = replace(scene.sessions["DIRECTOR"], not_before_ms=scene.world.now + MINUTE)
    sent = session.sent_ms(scene.world.now)
    made = scene.epochs.get(Use("DIRECTOR", "tasks.build"), session, sent_ms=sent, random=os.urandom)
    assert made.epoch.params.made_ms == sent


def test_a_forked_child_has_no_epoch_and_no_secret(tmp_path):
    program = tmp_path / "forks.py"
    program.write_text(
        f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from small_world import SmallAuthority, World
from test_sealing_epochs import Scene
from bus.errors import LocalProtocolError

scene = Scene(World(SmallAuthority()))
one = scene.get()
child = os.fork()
if child == 0:
    try:
        one.epoch.take()
    except LocalProtocolError:
        os._exit(0 if not one.grantable.secret and not one.still_good(scene.world.now) and not len(scene.epochs) else 2)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert one.still_good(scene.world.now)
one.epoch.seal(b"x", seq=one.epoch.take(), header=b"h", guard=bytes(4))
"""
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr

"""What the threat model promises of a dishonest broker (docs/spec, part 1), line by line, with a broker's own process that lies.

The hub and its authority are honest, agents are in processes of their own, and between them runs `lying_program` with the broker's
true key, certificate, journal and sockets. After each lie what is honest arrives, exactly once, and nothing else ever did.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from policies_of_scenarios import POLICY
from seams import changed, header_of
from troupe import PATIENCE, Actor, Company, Nursery, ToldError, company

from bus.cli.main import cli
from bus.errors import BusError
from bus.protocol.frames import BUNDLE, CRL, LISTENS, STATEMENT
from bus.protocol.header import MAX_SEQ, Header

SAID, REQUEST_SECONDS = 1, 2.0
TOPIC = "tasks.a"
Hex = str


@pytest.fixture(scope="module")
def kept_liars(nursery: Nursery, made: Company, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """A bus whose broker lies."""
    runtime = Path(tempfile.mkdtemp(prefix="tpmbus-", dir="/tmp"))
    with company(nursery, made, tmp_path_factory.mktemp("liars"), runtime, POLICY) as found:
        hub = found.lying_hub()
        yield found
        hub.end()  # in order, so that its broker has ended, too
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def liars(kept_liars: Company) -> Iterator[Company]:
    """The same for each test, which leaves hub and authority as they are."""
    here_before = len(kept_liars.actors)
    yield kept_liars
    kept_liars.lie("be_honest")
    for actor in kept_liars.actors[here_before:]:
        if not actor.has_ended:
            actor.kill()


@pytest.fixture
def own(bus_of: Company) -> Iterator[Company]:
    """One whose policy, time or agents change."""
    hub = bus_of.lying_hub()
    yield bus_of
    hub.end()


class Scene:
    """LEAD publishes and ALICE reads, each in a process of its own."""

    def __init__(self, found: Company, *, url: str = "own", loop: str = "uvloop", durable: str | None = None) -> None:
        self.company, self._url = found, url
        self.lead, self.alice = (found.agents(name, url=url, role="deceived", loop=loop) for name in ("LEAD", "ALICE"))
        if durable is None:
            self.alice.ask("subscribe", name="ALICE", pattern="tasks.>")
        self.arrived = self.said = 0

    def lie(self, verb: str, **arguments: Any) -> Any:
        return self.company.lie(verb, **arguments)

    def another(self, name: str, pattern: str = "") -> Actor:
        other = self.company.agents(name, url=self._url, role="deceived")
        if pattern:
            other.ask("subscribe", name=name, pattern=pattern)
        return other

    def say(self, topic: str = TOPIC) -> Hex:
        """LEAD says the next one, and it is with the broker: the envelope."""
        self.lead.ask("publish", name="LEAD", topic=topic, run=SAID, count=1, first=self.said)
        told = self.lead.ask("published", run=SAID)
        assert (told["accepted"], told["failed"]) == (1, {})
        self.said += 1
        envelope: Hex = self.lie("said", name="LEAD", topic=topic)[-1]
        return envelope

    def say_and_hear(self, topic: str = TOPIC) -> Hex:
        envelope = self.say(topic)
        self.arrived += 1
        self.hears()
        return envelope

    def say_what_is_kept_back(self, topic: str = TOPIC) -> Hex:
        """Its grant arrives, and it does not."""
        self.say_and_hear(topic)
        self.lie("withhold", kinds=["DELIVER"])
        envelope = self.say(topic)
        self.lie("be_honest")
        return envelope

    def hears(self) -> None:
        """The last that was said has come, and all that came until then came once."""
        found = self.alice.ask("until", key="ALICE", run=SAID, number=self.said - 1)
        assert (found["messages"], found["twice"]) == (self.arrived, 0)

    def goes_on(self) -> None:
        self.lie("be_honest")
        self.say_and_hear()

    def bring(self, *envelopes: Hex, to: str = "ALICE", pattern: str = "tasks.>", times: int = 1) -> None:
        self.lie("deliver", name=to, envelopes=[*envelopes], pattern=pattern, times=times)

    def refuses(self, **times: int) -> None:
        """All of this, and nothing else; and what is honest goes on."""
        for reason, count in times.items():
            self.alice.ask("until_refused", name="ALICE", reason=reason, count=count)
        self.goes_on()
        assert self.alice.ask("refused", name="ALICE") == times


def until_told(file: Path, line: str) -> None:
    until = time.monotonic() + PATIENCE
    while line not in file.read_text().splitlines():
        assert time.monotonic() < until, f"never {line}"
        time.sleep(0.001)


def header(envelope: Hex) -> Header:
    return header_of(bytes.fromhex(envelope))


def with_changed(envelope: Hex, **fields: Any) -> Hex:
    return changed(bytes.fromhex(envelope), **fields).hex()


def with_flipped(envelope: Hex, bit: int) -> Hex:
    flipped = bytearray.fromhex(envelope)
    flipped[bit // 8] ^= 1 << bit % 8
    return flipped.hex()


# ---- it cannot read -------------------------------------------------------------------------------------------------------------


def test_it_sees_neither_what_is_said_nor_any_key(liars: Company):
    """Live, stored, signed by the TPM's key, asked and answered."""
    one = Scene(liars)
    one.alice.ask("subscribe", name="ALICE", pattern="work.>", durable="mine", key="work")
    one.alice.ask("subscribe", name="ALICE", pattern="control.>", key="control")
    one.alice.ask("answer", name="ALICE", pattern="tasks.ask")
    one.say_and_hear()
    for topic in ("work.a", "control.a"):
        one.lead.ask("publish", name="LEAD", topic=topic, run=2, count=5, stored=topic == "work.a", size=300)
        one.alice.ask("until", key=topic.split(".")[0], run=2, count=5)
        assert one.lead.ask("published", run=2)["failed"] == {}
    assert one.lead.ask("request", name="LEAD", topic="tasks.ask", count=3) == 3
    secrets = [*one.lead.ask("secrets", name="LEAD"), *one.alice.ask("secrets", name="ALICE")]
    assert len(secrets) > 10
    assert one.lie("seen", secrets=[b"work.a".hex()]), "what is in the clear was seen, so this would see the rest"
    assert one.lie("seen", secrets=secrets) == []


# ---- it cannot forge, or change -------------------------------------------------------------------------------------------------


def test_what_an_insider_seals_for_it_is_not_taken_for_the_senders(liars: Company):
    """BOB reads what LEAD says, and has the key of the epoch. His next number, or the last of all, shuts LEAD out of nothing."""
    one = Scene(liars)
    bob = one.another("BOB", pattern="tasks.>")
    envelope = one.say_and_hear()
    bob.ask("until", key="BOB", run=SAID, number=0)
    for seq in (header(envelope).seq + 1, 1_000_000, MAX_SEQ):
        one.bring(bob.ask("sealed_again", name="BOB", envelope=envelope, seq=seq))
    one.refuses(bad_proof=3)


def test_a_bit_that_is_flipped_is_refused_wherever_it_is(liars: Company):
    """Each byte of an envelope, and what is refused is told."""
    one = Scene(liars)
    envelope = one.say_what_is_kept_back()
    flips = range(0, len(envelope) * 4, 11)
    one.bring(*(with_flipped(envelope, bit) for bit in flips))
    one.bring(envelope)  # it was harmed by none of them
    one.arrived += 1
    one.hears()
    one.goes_on()
    at_once = one.alice.ask("refused", name="ALICE")
    assert {"bad_seal", "malformed", "unsolicited"} <= at_once.keys()
    assert sum(at_once.values()) > len(flips) / 2, "the others name keys or papers that may still come"


CHANGES: dict[str, list[tuple[str, Callable[[Header], dict[str, Any]]]]] = {
    "bad_seal": [
        ("another topic", lambda _: {"topic": "tasks.deploy"}),
        ("another number", lambda _: {"seq": 1_000}),
        ("more records", lambda _: {"records": 2}),
        ("a gap", lambda _: {"before": 7}),
        ("a request", lambda _: {"flags": 1}),
        ("another id", lambda _: {"id": bytes(16)}),
        ("later sent", lambda was: {"sent_ms": was.sent_ms + 1}),
        ("to last longer", lambda was: {"expires_ms": was.expires_ms - 1}),
    ],
    "wrong_epoch": [
        ("of another agent", lambda _: {"sender": "DEPUTY"}),
        ("of its reader", lambda _: {"sender": "ALICE"}),
        ("critical", lambda _: {"priority": 1}),
    ],
    "unsolicited": [
        ("elsewhere", lambda _: {"topic": "plans.build"}),
        ("as a reply", lambda _: {"flags": 2, "ref": bytes(16), "topic": "_reply.ALICE." + "0" * 32}),
    ],
    "before_session": [("of before", lambda was: {"sent_ms": was.sent_ms - 30_000, "expires_ms": was.expires_ms - 30_000})],
    "ttl_too_long": [("for ever", lambda was: {"expires_ms": was.expires_ms + 10**9})],
    "from_future": [("of tomorrow", lambda was: {"sent_ms": was.sent_ms + 86_400_000, "expires_ms": was.expires_ms + 86_400_000})],
    "malformed": [("as a grant", lambda _: {"kind": 2, "topic": "_grant.ALICE", "priority": 0, "ref": bytes(16)})],
}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio", "trio"])
def test_what_the_header_says_cannot_be_changed(liars: Company, loop: str):
    one = Scene(liars, loop=loop)
    envelope = one.say_what_is_kept_back()
    was = header(envelope)
    one.bring(*(with_changed(envelope, **change(was)) for changes in CHANGES.values() for _, change in changes))
    one.bring(envelope)
    one.arrived += 1
    one.refuses(**{reason: len(changes) for reason, changes in CHANGES.items()})


# ---- it cannot hand it to others ------------------------------------------------------------------------------------------------


def test_who_may_not_hear_it_gets_no_key_whatever_it_says_of_who_listens(liars: Company):
    """EVE may hear tasks.open alone. LEAD is told that she listens to all, with her papers; she is brought all that ALICE is."""
    one = Scene(liars)
    eve = one.another("EVE", pattern="tasks.open")
    one.lie("tell", name="LEAD", kind="PAPERS", fields=[[{"hex": one.lie("papers", name="EVE")}], {"hex": ""}])
    one.lie("tell", name="LEAD", kind="INTEREST", fields=[1_000, [["EVE", "tasks.>", LISTENS]]])
    envelope = one.say_and_hear()
    grants = one.lie("said", name="LEAD", kind="grant")
    assert {header(grant).topic for grant in grants} == {"_grant.ALICE"}
    one.bring(*grants, to="EVE", pattern="")
    one.bring(envelope, to="EVE", pattern="tasks.open")
    eve.ask("until_refused", name="EVE", reason="unsolicited", count=len(grants) + 1)
    one.lead.ask("publish", name="LEAD", topic="tasks.open", run=9, count=1)
    found = eve.ask("until", key="EVE", run=9, number=0)
    assert found["came"] == {"9": 1}
    assert eve.ask("refused", name="EVE") == {"unsolicited": len(grants) + 1}


def test_a_handler_gets_what_its_topic_is_for_and_nothing_else(liars: Company):
    one = Scene(liars)
    one.alice.ask("subscribe", name="ALICE", pattern="control.>", key="control")
    envelope = one.say_what_is_kept_back()
    one.bring(envelope, pattern="control.>")
    one.bring(envelope, pattern="")
    one.refuses(unsolicited=2)
    assert one.alice.ask("until", key="control", run=SAID, count=0)["messages"] == 0


def test_nobody_can_be_added_and_grants_open_for_whom_they_are(liars: Company):
    """Itself, with its own good papers; and grants of one reader brought to another, under that one's name and key too."""
    one = Scene(liars)
    bob = one.another("BOB", pattern="tasks.>")
    one.lie("tell", name="LEAD", kind="PAPERS", fields=[[{"hex": one.lie("papers")}], {"hex": ""}])
    one.lie("tell", name="LEAD", kind="INTEREST", fields=[1_000, [["BROKER", "tasks.>", LISTENS]]])
    one.say_and_hear("tasks.b")
    bob.ask("until", key="BOB", run=SAID, number=0)
    grants = {header(grant).topic: grant for grant in one.lie("said", name="LEAD", kind="grant")}
    assert grants.keys() == {"_grant.ALICE", "_grant.BOB"}
    assert one.lead.ask("refused", name="LEAD") == {"untrusted": 1}
    of_bob, of_alice = grants["_grant.BOB"], grants["_grant.ALICE"]
    renamed = with_changed(of_bob, topic="_grant.ALICE")
    keyed = with_changed(of_bob, topic="_grant.ALICE", ref=header(of_alice).ref)
    one.bring(of_bob, renamed, keyed, pattern="")
    one.refuses(unsolicited=2, bad_seal=1)


# ---- it cannot replay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["unix", "tls"])
def test_what_was_heard_comes_no_second_time(bus_of: Company, over: str):
    """On this link, on the next one, and to a process that was killed and began again."""
    hub = bus_of.lying_hub(listen=() if over == "unix" else ("tls://127.0.0.1:0",))
    url = next(one for one in hub.urls if one.startswith(over))
    one = Scene(bus_of, url=url)
    envelope = one.say_and_hear()
    one.bring(envelope, times=3)
    one.refuses(replayed=3)
    grants = one.lie("said", name="LEAD", kind="grant")
    before = one.lie("links", name="ALICE")
    one.lie("cut", name="ALICE")
    assert one.lie("links", name="ALICE") == before + 1
    one.bring(*grants, pattern="")
    one.bring(envelope)
    one.refuses(replayed=4)
    one.alice.kill()
    one.alice = one.another("ALICE", pattern="tasks.>")
    one.arrived = 0
    one.bring(*grants, pattern="")
    one.bring(envelope)
    one.alice.ask("until_refused", name="ALICE", reason="before_session", count=1)
    one.goes_on()


def test_a_durable_message_that_was_finished_comes_no_more_though_its_reader_was_killed(liars: Company, tmp_path: Path):
    """The ledger of the reader is on its disk: what a broker says of positions and deliveries does not count."""
    one = Scene(liars, durable="mine")
    told = tmp_path / "told"
    one.alice.ask("subscribe", name="ALICE", pattern="work.>", durable="finished", acks="confirmed", tell=str(told))
    one.lead.ask("publish", name="LEAD", topic="work.a", run=SAID, count=3, stored=True)
    one.alice.ask("until", key="ALICE", run=SAID, number=2)
    assert one.lead.ask("published", run=SAID)["failed"] == {}
    kept = one.lie("told", name="ALICE", topic="work.a")
    grants = one.lie("said", name="LEAD", kind="grant")

    def brought_again(first: int) -> None:
        one.bring(*grants, pattern="")
        for place, frame in enumerate(kept):
            for position in (frame["position"], 1_000 + place):
                one.lie("deliver", name="ALICE", envelopes=[frame["envelope"]], pattern="work.>", position=position)
        one.lead.ask("publish", name="LEAD", topic="work.a", run=SAID, count=1, first=first, stored=True)
        found = one.alice.ask("until", key="ALICE", run=SAID, number=first)
        assert found["came"] == {str(SAID): found["messages"]}, "each once"
        assert found["twice"] == 0
        until_told(told, f"acked {SAID} {first}")

    brought_again(3)
    one.alice.kill()
    one.alice = one.another("ALICE")
    one.alice.ask("subscribe", name="ALICE", pattern="work.>", durable="finished", acks="confirmed", tell=str(told))
    brought_again(4)
    assert sorted(line for line in told.read_text().splitlines() if line.startswith("handed")) == [
        f"handed {SAID} {number}" for number in range(5)
    ]


def test_a_reply_answers_one_request_and_who_was_not_asked_answers_none(liars: Company):
    one = Scene(liars)
    one.alice.ask("answer", name="ALICE", pattern="tasks.ask")
    assert one.lead.ask("request", name="LEAD", topic="tasks.ask", count=1) == 1
    (reply,) = one.lie("said", name="ALICE", topic="_reply.")
    one.lie("pass_nothing_on", name="ALICE")
    one.lead.ask("request_soon", name="LEAD", topic="tasks.ask", seconds=REQUEST_SECONDS)
    while len(requests := one.lie("said", name="LEAD", topic="tasks.ask")) < 2:
        pass
    one.bring(reply, to="LEAD", pattern="")
    one.bring(with_changed(reply, ref=header(requests[-1]).id), to="LEAD", pattern="")
    assert one.lead.ask("became", name="LEAD") == "RequestTimeoutError"
    refused = one.lead.ask("refused", name="LEAD")
    assert refused.pop("unsolicited") == 1
    assert refused in ({"replayed": 1}, {"bad_seal": 1})


# ---- it cannot be another, or bring back what was -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["an_agents_papers", "another_signature", "open_at_once"])
def test_who_cannot_prove_to_be_the_pinned_broker_hears_no_proof_and_no_word(liars: Company, how: str):
    Scene(liars)
    liars.lie("pose", how=how)
    with pytest.raises(ToldError) as caught:
        liars.agents("DEPUTY", role="deceived")
    assert caught.value.facts["type"] in {"VerificationError", "ConnectError", "RemoteProtocolError"}
    assert liars.lie("posed_to") == ["HELLO_A"]


def test_an_older_policy_list_or_statement_never_counts_again(own: Company):
    """ALICE lost a right, and the broker brings back all that was in force before; then forgeries, and nonsense."""
    one = Scene(own)
    one.say_and_hear()
    older = one.lie("frames_told", name="LEAD", kind="TRUST")
    statement = one.lead.ask("statement", name="LEAD")
    own.change('subscribe: [">"]', "subscribe: [results.>]")
    assert own.desk("reload")
    one.lead.ask("until_newer", name="LEAD", statement=statement)
    ended = one.alice.ask("until_ended", key="ALICE")
    assert ended["type"] == "NotPermittedError"
    one.say(TOPIC)
    accepted = one.lead.ask("trust", name="LEAD")["accepted"]
    for fields in older:
        one.lie("tell", name="LEAD", kind="TRUST", fields=fields)
    one.lead.ask("until_trust", name="LEAD", what="policy_rollback")
    one.lie("tell", name="LEAD", kind="TRUST", fields=older[-1])
    one.lead.ask("until_trust", name="LEAD", what="trust_rollback")
    for what in (CRL, BUNDLE, STATEMENT):
        one.lie("tell", name="LEAD", kind="TRUST", fields=[what, 500, 0, {"hex": "00" * 500}])
    one.lead.ask("until_trust", name="LEAD", what="malformed")
    one.lie("tell", name="LEAD", kind="INTEREST", fields=[1_000, [["ALICE", "tasks.>", LISTENS]]])
    grants = len(one.lie("said", name="LEAD", kind="grant"))
    one.say(TOPIC)
    one.say("tasks.new")
    assert len(one.lie("said", name="LEAD", kind="grant")) == grants, "nobody is let in again"
    assert one.lead.ask("trust", name="LEAD") == {
        "accepted": accepted, "policy_rollback": 1, "trust_rollback": 1, "malformed": 1,
    }  # fmt: skip
    statement = one.lead.ask("statement", name="LEAD")
    own.change("subscribe: [results.>]", 'subscribe: [">"]')
    assert own.desk("reload")
    one.lead.ask("until_newer", name="LEAD", statement=statement)


def test_who_was_revoked_is_heard_no_more_whatever_it_goes_on_delivering(own: Company):
    one = Scene(own)
    deputy = one.another("DEPUTY")
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=7, count=1)
    one.alice.ask("until", key="ALICE", run=7, number=0)
    one.lie("withhold", kinds=["DELIVER"])
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=7, count=1, first=1)
    deputy.ask("published", run=7)
    envelope = one.lie("said", name="DEPUTY", topic="tasks.b")[-1]
    one.lie("be_honest")
    statement = one.alice.ask("statement", name="ALICE")
    own.desk("revoke", name="DEPUTY", reason="compromised")
    one.alice.ask("until_newer", name="ALICE", statement=statement)
    one.arrived += 1  # what DEPUTY said before
    one.bring(envelope)
    one.refuses(revoked=1)


def test_trust_that_it_freezes_ends_and_nothing_is_said_or_taken_after_that(own: Company):
    """It passes on no news. An hour later LEAD says nothing more, and ALICE takes nothing."""
    one = Scene(own)
    one.lie("withhold", kinds=["TRUST"])
    envelope = one.say_what_is_kept_back()
    one.lie("withhold", kinds=["TRUST"])
    for actor in (one.lead, one.alice):
        actor.ask("jump", seconds=3_700)
    with pytest.raises(ToldError) as caught:
        one.lead.ask("say_once", name="LEAD", topic=TOPIC, wait="sent")
    assert caught.value.facts["type"] == "TrustStaleError"
    one.bring(envelope)
    one.alice.ask("until_refused", name="ALICE", reason="trust_stale", count=1)


# ---- it says what it likes to its own hub ----------------------------------------------------------------------------------------

NONSENSE = (
    '{"item": [Infinity, "00"]}',
    "nonsense", "", "[]", "{}", "5", '"x"', "[" * 100_000,
    '{"answer": 5}', '{"answer": null}', '{"answer": [1]}', '{"answer": {"a": [NaN], "held": NaN, "neighbours": 1}}',
    '{"answer": {"broker": 7, "dropped": "x", "refused": {"a": "b"}, "gateways": [], "nats": 5, "backbone": "x", "starts": "y"}}',
    '{"answer": ' + '{"a": ' * 900 + "5" + "}" * 901,
    '{"item": 5}', '{"item": ["x", "zz"]}', '{"item": [1, "00"]}', '{"item": [-7, "ff"]}',
    '{"error": 5}', '{"error": {}}', '{"error": {"type": "__name__"}}', '{"error": {"type": "PolicyError", "problems": 5}}',
    '{"error": {"type": "PolicyError", "problems": [{"file": 1}]}}', '{"error": {"type": "ToldError", "message": [], "args": 7}}',
    '{"error": {"type": "StateInUseError", "message": "x", "pid": "y", "reason": {}}}',
)  # fmt: skip
LISTS = ("agents", "topics", "consumers", "dead_letters")
TO_ITS_HUB = ("follow", "live", "statistics", "answer_petition", "trace", *LISTS)


def test_whatever_it_answers_its_own_hub_the_hub_goes_on(own: Company):
    """It rules meanwhile, and what it decided counts as soon as its broker is honest again."""
    one, hub = Scene(own), own.actors[1]
    heard: Counter[str] = Counter()
    for line in NONSENSE:
        one.lie("answer_the_hub", verbs=TO_ITS_HUB, line=line)
        with suppress(BusError):  # the hub has just hung up
            one.lie("ask_the_hub", line=line)
        own.desk("end_sessions", name="EVE")
        for verb in ("status", *LISTS):
            try:
                own.desk(verb)
            except BusError as error:
                heard[str(error).partition(":")[0]] += 1
        try:
            hub.ask("statistics")
        except ToldError as error:
            heard[error.facts["type"]] += 1
    assert heard["malformed"] > len(NONSENSE)
    assert heard["RemoteProtocolError"] > len(NONSENSE) / 2
    assert not {"the hub could not answer", "TypeError", "KeyError"} & heard.keys(), heard
    own.desk("revoke", name="EVE", reason="compromised")
    one.lie("answer_the_hub", verbs=TO_ITS_HUB, line=None)
    own.change("subscribe: [tasks.open]", "subscribe: [tasks.other]")
    assert own.desk("reload")
    with pytest.raises(ToldError) as caught:
        one.another("EVE")
    assert caught.value.facts["reason"] == "revoked"
    assert own.desk("status")["failures"] == {}
    one.goes_on()


UNREADABLE = ('{"answer": 5}', '{"answer": null}', '{"answer": [1]}', '{"answer": [{}]}', '{"answer": {"a": 1}}')


def test_who_looks_at_it_hears_that_what_it_says_cannot_be_read(own: Company):
    """In place of a traceback: that a hub of another version can be meant, too."""
    one = Scene(own)
    commands = (["agents"], ["topics"], ["subscriptions"], ["consumers", "list"], ["dead", "list"])
    for line in UNREADABLE:
        one.lie("answer_the_hub", verbs=[*LISTS, "subscriptions"], line=line)
        for words in commands:
            done = CliRunner(env=own.environ).invoke(cli, [*words, "--state", str(own.state.folder)])
            assert (done.exit_code, "is not what this command reads" in done.stderr) == (1, True), (line, words, done.output)
    one.lie("answer_the_hub", verbs=["statistics"], line='{"answer": {"dropped": "x", "neighbours": 5, "backbone": [1]}}')
    done = CliRunner(env=own.environ).invoke(cli, ["status", "--state", str(own.state.folder)])
    assert done.exit_code in (0, 1), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)


# ---- what is left to it ---------------------------------------------------------------------------------------------------------


def test_what_it_withholds_reorders_and_doubles_shows_or_does_not_matter(liars: Company):
    one = Scene(liars)
    envelopes = [one.say_what_is_kept_back() for _ in range(10)]
    assert one.alice.ask("until", key="ALICE", run=SAID, count=10)["missed"] == 9, "what came after tells of what did not"
    one.bring(*reversed(envelopes), *envelopes)
    one.arrived += 10
    one.refuses(replayed=10)


def test_what_makes_no_sense_ends_a_link_at_most(liars: Company):
    one = Scene(liars)
    one.say_and_hear()
    assert any(one.lie("rave", name="ALICE", seed=seed, count=20) for seed in range(20))
    one.lie("rave_endlessly", name="ALICE")
    assert one.alice.ask("footprint")["rss_mb"] < 300
    one.goes_on()

"""Topics that want two signatures: agents have an ML-DSA key, trust vouches for it, and readers check it, through a real hub."""

from __future__ import annotations

import json

import anyio
import pytest
from anyio import to_thread

import bus
from bus.hub import admin
from bus.hub.cosigners import Cosigners, needs_cosigner
from bus.identity.public_trust import read_public
from bus.policy import load

pytestmark = pytest.mark.anyio
HYBRID = """
version: 1
domain: tpmbus.test
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [tasks.>, halt.>], subscribe: [results.>], key_origin: software, environment: allow}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [tasks.>, halt.>], key_origin: software, environment: allow}
topics:
  - {match: halt.>, signed_by: identity, cosign: ml-dsa-65}
"""


@pytest.fixture
def hybrid(home):
    home.policy.write_text(HYBRID)
    return home


def listed(home):
    return read_public(home.state.trust / "public").statement.ml_dsa


async def halts(sender, *readers) -> None:
    await sender.publish("halt.all", b"stop")
    with anyio.fail_after(20):
        for reader in readers:
            message = await anext(reader)
            assert (message.body, message.sender) == (b"stop", "LEAD")
            assert message.signed_by.startswith("identity")


async def test_an_agent_that_signs_twice_publishes_and_is_read_here_and_elsewhere(hybrid):
    async with (
        hybrid.open() as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        hybrid.connect(hub.url, agent="CARPENTER") as carpenter,
        painter.subscribe("halt.>") as here,
        carpenter.subscribe("halt.>") as elsewhere,
    ):
        await halts(lead, here, elsewhere)
        assert hub._open_agent.__self__.host.signer.statistics().cosignatures >= 1
        assert set(await to_thread.run_sync(listed, hybrid)) == {"LEAD"}


async def test_one_that_is_opened_in_another_process_signs_twice_and_keeps_its_key(hybrid):
    async with hybrid.open() as hub, hub.agent("PAINTER") as painter, painter.subscribe("halt.>") as heard:
        async with hybrid.connect(hub.url, agent="LEAD") as lead:
            await halts(lead, heard)
        before = await to_thread.run_sync(listed, hybrid)
        async with hybrid.connect(hub.url, agent="LEAD") as lead:
            await halts(lead, heard)
        assert await to_thread.run_sync(listed, hybrid) == before


async def test_a_policy_that_begins_to_want_it_is_followed_by_agents_that_are_open(hybrid):
    await to_thread.run_sync(hybrid.change, ", cosign: ml-dsa-65", "")
    async with hybrid.open() as hub, hub.agent("LEAD"):
        assert await to_thread.run_sync(listed, hybrid) == {}
        await to_thread.run_sync(hybrid.change, "signed_by: identity", "signed_by: identity, cosign: ml-dsa-65")
        await hub.reload()
        with anyio.fail_after(20):
            while "LEAD" not in await to_thread.run_sync(listed, hybrid):
                await anyio.lowlevel.checkpoint()


async def test_a_revocation_ends_the_key_too(hybrid):
    async with hybrid.open() as hub:
        async with hub.agent("LEAD"):
            pass
        await admin.ask(hybrid.state.admin_socket, "revoke", name="LEAD", reason="compromised")
        assert await to_thread.run_sync(listed, hybrid) == {}


async def test_its_seed_lies_sealed_and_what_is_no_key_is_said_to_be_damaged(hybrid):
    place = hybrid.state.cosign / "LEAD.json"
    async with hybrid.open() as hub:
        async with hub.agent("LEAD"):
            pass
        document = json.loads(await to_thread.run_sync(place.read_text))
        assert sorted(document) == ["origin", "sealed", "version"]
        assert (await to_thread.run_sync(place.stat)).st_mode & 0o077 == 0
    await to_thread.run_sync(place.write_text, "{}")
    async with hybrid.open() as hub:
        with pytest.raises(bus.VaultError) as caught:
            async with hub.agent("LEAD"):
                pass
        assert caught.value.code == "damaged"


async def test_two_that_make_it_at_once_have_one_key_and_leave_nothing_else(hybrid, tmp_path):
    async with hybrid.open() as hub, hub.agent("LEAD"):
        running = hub._open_agent.__self__
        both = [Cosigners(tmp_path / "cosign", running.engine, None, {}) for _ in range(2)]
        async with anyio.create_task_group() as group:
            for one in both:
                group.start_soon(one.of, "LEAD", running.policy())
        assert len({one.keys["LEAD"].public for one in both}) == 1
        assert [place.name for place in await to_thread.run_sync(list, (tmp_path / "cosign").iterdir())] == ["LEAD.json"]


@pytest.mark.parametrize(
    ("publish", "wanted"), [("halt.all", True), ("*.all", True), (">", True), ("tasks.>", False), ("halt", False)]
)
def test_only_who_may_publish_there_has_such_a_key(publish, wanted):
    policy = load(
        {"policy.yaml": HYBRID.replace("[tasks.>, halt.>], subscribe: [results", f"['{publish}'], subscribe: [results").encode()}
    )
    assert needs_cosigner(policy, "LEAD") is wanted
    assert not needs_cosigner(policy, "PAINTER")

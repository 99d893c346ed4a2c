"""Attacks with the keys that everybody has: whatever is real refuses them, whoever brings them and under whichever name."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

import bus
from bus.agent.host import Host
from bus.clock import SystemClock
from bus.errors import BusError, VerificationError
from bus.hub.materials import Materials
from bus.hub.state import open_state
from bus.identity.authority import Passphrase, open_authority
from bus.identity.envelopes.verifier import Verifier
from bus.testing import ManualClock, ready_made
from bus.testing.authority import MadeUpAuthority
from bus.testing.policy_texts import texts_given
from bus.testing.world import BROKER, World
from bus.transport.dialing import dial
from bus.trust import root, testing_domain
from bus.trust.certificates import Profile
from bus.trust.profiles import DAY_MS
from bus.trust.root_signature import HASH, PSS
from bus.trust.testing_domain import DOMAIN

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
domain: somewhere.example
agents: {LEAD: lead}
roles:
  lead: {key: ecc256/sha256, publish: [tasks.>], key_origin: software, environment: allow}
"""


@pytest.fixture(scope="module")
def mine() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


def foreign_root(domain: str, key: rsa.RSAPrivateKey) -> root.Root:
    now = ManualClock().ms
    draft = root.builder(domain=domain, spki=ready_made.spki(key), serial=9, not_before_ms=now - DAY_MS, not_after_ms=now + DAY_MS)
    return root.Root.of(draft.sign(key, HASH, rsa_padding=PSS).public_bytes(Encoding.DER))


def refuses(root: root.Root, domain: str, **changes) -> str:
    with pytest.raises(VerificationError) as caught:
        Verifier(root, domain, **changes)
    return caught.value.reason


async def test_the_domain_of_tests_is_refused_by_every_real_verifier_and_so_is_its_root_under_any_name(mine):
    everybodys = MadeUpAuthority(ManualClock().ms).root
    assert refuses(everybodys, DOMAIN) == "untrusted"
    assert refuses(everybodys, "bank.example") == "untrusted"
    assert refuses(foreign_root(DOMAIN, mine), DOMAIN) == "untrusted"
    another_name = foreign_root("bank.example", ready_made._rsa(0))
    assert another_name.digest != everybodys.digest
    assert refuses(another_name, "bank.example") == "untrusted"
    Verifier(foreign_root("bank.example", mine), "bank.example")


async def test_a_test_believes_nothing_real(mine):
    assert refuses(foreign_root("bank.example", mine), "bank.example", unsafe_for_tests=True) == "untrusted"
    assert refuses(foreign_root(DOMAIN, mine), DOMAIN, unsafe_for_tests=True) == "untrusted"
    assert refuses(MadeUpAuthority(ManualClock().ms).root, "bank.example", unsafe_for_tests=True) == "untrusted"


async def test_papers_of_a_test_are_worth_nothing_to_a_real_verifier(mine):
    here = World(texts_given(POLICY), ManualClock())
    real = Verifier(foreign_root("bank.example", mine), "bank.example")
    with pytest.raises(VerificationError) as caught:
        real.certificate(here.holder("LEAD").identity.der, profile=Profile.AGENT, now_ms=here.clock.now_ms())
    assert caught.value.reason == "untrusted"


def test_the_root_key_that_is_refused_is_the_one_that_signs():
    assert MadeUpAuthority(ManualClock().ms).root.ski == testing_domain.ROOT_KEY


async def test_no_authority_is_made_for_the_domain_of_tests(tmp_path):
    with pytest.raises(VerificationError) as caught:
        async with open_authority(tmp_path, domain=DOMAIN, protection=Passphrase("correct horse", log_n=10), clock=ManualClock()):
            pass
    assert caught.value.reason == "untrusted"
    assert not list(tmp_path.iterdir())


def home(folder, domain: str) -> dict[str, object]:
    (folder / "policy.yaml").write_text(POLICY.replace("somewhere.example", domain))
    return {"policy": folder / "policy.yaml", "state": folder / "state", "tpm": "software"}


async def test_no_hub_opens_for_the_domain_of_tests(tmp_path):
    with pytest.raises(VerificationError) as caught:
        async with bus.open(**await anyio.to_thread.run_sync(home, tmp_path, DOMAIN)):
            pass
    assert caught.value.reason == "untrusted"


async def test_agents_of_a_test_are_strangers_to_a_real_hub_even_if_they_believe_it(tmp_path):
    """The host of a test is told to believe the real broker: it must be the broker that refuses."""
    async with bus.open(**await anyio.to_thread.run_sync(home, tmp_path, "somewhere.example")) as hub:
        world = World(texts_given(POLICY), SystemClock())
        made = world.materials()
        state = await anyio.to_thread.run_sync(open_state, tmp_path / "state")
        told = await Materials.gather(state, made.engine, clock=made.clock)
        host = Host(
            keyring=told.keyring, sessions=made.sessions, signer=made.signer, memory=told.memory, verifier=told.verifier,
            trust=told.documents, brokers=(BROKER,), clock=made.clock, dial=lambda: dial(hub.url),
        )  # fmt: skip
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, host)
            tasks.start_soon(open_it, host, world)
            with anyio.fail_after(30):
                while not (handshakes := (await hub.statistics())["broker"]["handshakes"]):
                    await checkpoint()
            tasks.cancel_scope.cancel()
        assert "open" not in handshakes
        assert handshakes["unverified"] >= 1


async def open_it(host: Host, world: World) -> None:
    with suppress(BusError):
        await host.open(world.holder("LEAD"))


async def run(host: Host) -> None:
    with suppress(BusError):
        await host.run()

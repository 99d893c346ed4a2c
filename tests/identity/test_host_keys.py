"""The keys of a process: what they sign and open, that they show nothing, and that no forked child has them."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import weakref

import pytest

from bus.errors import LocalProtocolError, RemoteProtocolError, VerificationError
from bus.identity.host import forks
from bus.identity.host.host_keys import OPENS_LONGER_SECONDS, HostKeys, Openers
from bus.protocol import kem
from bus.protocol.kem import HYBRID, X25519
from bus.protocol.papers import host_signer
from bus.protocol.signatures import verify_host


@pytest.mark.parametrize("kind", [X25519, HYBRID])
def test_a_pair_signs_and_opens(kind):
    keys = HostKeys.make(kind, os.urandom)
    verify_host(keys.public, b"tbs", keys.sign(b"tbs"))
    with pytest.raises(VerificationError):
        verify_host(keys.public, b"another", keys.sign(b"tbs"))
    assert keys.signer == host_signer(keys.public)
    assert (keys.kem, keys.kem_key_id) == (kind, kem.key_id(kind, keys.kem_key))
    kem.check_key(kind, keys.kem_key)
    sealed = kem.seal(kind, keys.kem_key, b"secret", b"info")
    assert keys.open(sealed, b"info") == b"secret"
    with pytest.raises(VerificationError) as caught:
        keys.open(sealed, b"another")
    assert caught.value.reason == "bad_seal"


def test_a_pair_is_made_of_the_random_bytes_alone():
    sizes = []

    def random(size):
        sizes.append(size)
        return bytes(range(size))

    one, two = HostKeys.make(HYBRID, random), HostKeys.make(HYBRID, random)
    assert (one.public, one.kem_key) == (two.public, two.kem_key)
    assert sizes == [32, 96] * 2
    assert HostKeys.make(X25519, os.urandom).public != one.public


def test_nothing_of_a_pair_is_shown_copied_or_pickled():
    secret = bytes(range(100, 132))
    keys = HostKeys.make(X25519, lambda size: secret[:size])
    for text in (repr(keys), str(keys), f"{keys!r}", repr([keys])):
        assert secret.hex() not in text
        assert repr(secret) not in text
        assert len(text) < 60
    for misuse in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            misuse(keys)
    with pytest.raises(TypeError):
        vars(keys)  # nothing is stored beside the slots
    assert keys != HostKeys.make(X25519, lambda size: secret[:size])


def test_an_old_pair_opens_and_proves_itself_and_signs_no_more():
    keys = HostKeys.make(X25519, os.urandom)
    sealed = kem.seal(X25519, keys.kem_key, b"secret", b"info")
    assert keys.can_sign
    assert keys.can_prove
    keys.retire_signing()
    assert not keys.can_sign
    with pytest.raises(LocalProtocolError, match="sign no more"):
        keys.sign(b"tbs")
    verify_host(keys.public, b"tbs", keys.prove(b"tbs"))
    keys.retire_proving()
    assert not keys.can_prove
    with pytest.raises(LocalProtocolError, match="prove nothing"):
        keys.prove(b"tbs")
    assert keys.open(sealed, b"info") == b"secret"
    keys.retire()
    keys.retire()
    with pytest.raises(LocalProtocolError):
        keys.open(sealed, b"info")


def test_openers_keep_a_pair_until_a_minute_after_its_last_certificate_and_let_it_prove_itself_to_that():
    openers = Openers()
    one, two = HostKeys.make(X25519, os.urandom), HostKeys.make(X25519, os.urandom)
    openers.keep(one, ends=100.0)
    openers.keep(two, ends=200.0)
    assert not one.can_sign
    assert (openers.find(one.kem_key_id), openers.find(two.kem_key_id), openers.find(bytes(16))) == (one, two, None)
    openers.drop(100.0)
    assert one.can_prove
    openers.drop(100.1)
    assert (one.can_prove, two.can_prove) == (False, True)
    openers.drop(100.0 + OPENS_LONGER_SECONDS)
    assert openers.find(one.kem_key_id) is one
    openers.drop(100.1 + OPENS_LONGER_SECONDS)
    assert (openers.find(one.kem_key_id), openers.find(two.kem_key_id), len(openers)) == (None, two, 1)
    with pytest.raises(LocalProtocolError):
        one.open(bytes(80), b"info")
    openers.retire()
    assert len(openers) == 0
    with pytest.raises(LocalProtocolError):
        two.open(bytes(80), b"info")


def test_an_unknown_kind_of_key_is_a_mistake():
    with pytest.raises(KeyError):
        HostKeys.make(3, os.urandom)
    with pytest.raises(RemoteProtocolError):
        kem.check_key(3, bytes(32))


# ---- forks ---------------------------------------------------------------------------------------------------------------------


def test_to_be_registered_keeps_nothing_alive():
    keys = HostKeys.make(X25519, os.urandom)
    seen = weakref.ref(keys)
    assert keys in forks._registered
    del keys
    gc.collect()
    assert seen() is None


def test_one_that_fails_to_retire_does_not_save_the_others():
    class Thing:
        def __init__(self, error=None):
            self.error, self.retired = error, False

        def retire(self):
            if self.error is not None:
                raise self.error
            self.retired = True

    bad = [forks.retired_in_a_child(Thing(RuntimeError("no"))) for _ in range(3)]
    good = [forks.retired_in_a_child(Thing()) for _ in range(5)]
    try:
        with pytest.raises(RuntimeError):
            forks._retire_all()
        assert all(thing.retired for thing in good)
    finally:
        for thing in (*bad, *good):
            forks._registered.discard(thing)


FORKING = """
import gc, json, os, sys
from bus.errors import LocalProtocolError
from bus.identity.host.forks import retired_in_a_child
from bus.identity.host.host_keys import HostKeys, Openers
from bus.protocol import kem
from bus.protocol.epochs import Params, SealingEpoch

params = Params("tpmbus.test", "ALPHA", bytes(32), 0, 3, 0, 1, 1, 1_000, 2_000)
keys, old = HostKeys.make(kem.HYBRID, os.urandom), HostKeys.make(kem.X25519, os.urandom)
openers = Openers()
openers.keep(old, ends=1_000.0)
epoch = retired_in_a_child(SealingEpoch.make(os.urandom(32), params))
seq = epoch.take()
sealed, sealed_old = kem.seal(2, keys.kem_key, b"secret", b"i"), kem.seal(1, old.kem_key, b"secret", b"i")


def outcomes():
    calls = {
        "sign": lambda: keys.sign(b"tbs"),
        "prove": lambda: keys.prove(b"tbs"),
        "prove old": lambda: old.prove(b"tbs"),
        "open": lambda: keys.open(sealed, b"i"),
        "open old": lambda: old.open(sealed_old, b"i"),
        "seal with a number from before": lambda: epoch.seal(b"text", seq=seq, header=b"h", guard=bytes(4)),
        "take": epoch.take,
        "grant": lambda: epoch.secret,
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "done"
        except LocalProtocolError:
            found[name] = "refused"
    found["own keys"] = "done" if HostKeys.make(kem.X25519, os.urandom).sign(b"tbs") else "none"
    return found


def forked(fork):
    read, write = os.pipe()
    child = fork()
    if child == 0:
        try:
            os.write(write, json.dumps(outcomes()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


def grandchild():
    child = os.fork()
    if child == 0 and (again := os.fork()):
        os.waitpid(again, 0)
        os._exit(0)
    return child


children = {"fork": forked(os.fork), "fork of a fork": forked(grandchild)}
print(json.dumps({"children": children, "parent": outcomes()}))
"""

NAMES = ["sign", "prove", "prove old", "open", "open old", "seal with a number from before", "take", "grant"]


def test_a_forked_child_has_no_keys_and_no_epoch_that_seals_and_the_parent_keeps_them():
    run = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    for child in found["children"].values():
        assert child == {**dict.fromkeys(NAMES, "refused"), "own keys": "done"}
    assert found["parent"] == {**dict.fromkeys(NAMES, "done"), "own keys": "done"}


IN_A_LOOP = """
import json, os, sys
import anyio
sys.path.insert(0, sys.argv[1])
from open_agents import place
from bus.errors import LocalProtocolError
from bus.identity.envelopes import seal
from bus.identity.host.forks import retired_in_a_child
from bus.identity.signer import Signer
from bus.policy import Policy
from bus.protocol.epochs import Params, SealingEpoch
from bus.protocol.records import Records
from bus.protocol.suites import HOST_SUITE


async def main():
    async with place() as here:
        await here.open("ALPHA")
        holder, session, now = here.sessions.holder("ALPHA"), here.sessions.current("ALPHA"), here.clock.ms
        signer = Signer(here.engine, here.sessions, here.clock, Policy(), on_audit=print, environ={})
        params = Params("tpmbus.test", "ALPHA", bytes(32), 0, 3, 0, 1, 1, now, now + 900_000)
        epoch = retired_in_a_child(SealingEpoch.make(os.urandom(32), params))
        outgoing = seal.Outgoing("tasks.build", Records(b"\\0", (b"hello",), {}), session.id, now, now + 60_000, 0)
        draft = seal.draft(epoch, outgoing, suite=HOST_SUITE, random=os.urandom(seal.RANDOM_BYTES))
        (proof,) = signer.sign_by_session([draft])
        calls = {
            "current": lambda: here.sessions.current("ALPHA"),
            "keys": lambda: here.sessions.keys,
            "keys of before": lambda: session.keys.sign(b"tbs"),
            "holder": lambda: here.sessions.holder("ALPHA"),
            "open": lambda: here.sessions.open(holder).send(None),
            "sign": lambda: signer.sign_by_session([draft]),
            "sign by identity": lambda: signer.sign_by_identity("ALPHA", [draft]).send(None),
            "seal": lambda: seal.seal(draft, proof),
        }
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            found = {}
            for name, call in calls.items():
                try:
                    call()
                    found[name] = "done"
                except LocalProtocolError:
                    found[name] = "refused"
            os.write(write, json.dumps(found).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            print(pipe.read().decode())
        os.waitpid(child, 0)
        here.sessions.current("ALPHA").keys.sign(b"tbs")
        seal.seal(draft, proof)


anyio.run(main)
"""


def test_a_forked_child_has_no_session_and_signs_and_seals_nothing():
    command = [sys.executable, "-W", "ignore", "-c", IN_A_LOOP, os.path.dirname(__file__)]  # noqa: PTH120  as the child gets it, text
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    names = ["current", "keys", "keys of before", "holder", "open", "sign", "sign by identity", "seal"]
    assert json.loads(run.stdout) == dict.fromkeys(names, "refused")

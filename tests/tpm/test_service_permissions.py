"""Who may have the service do what: the table, and the kernel's word for who asks."""

from __future__ import annotations

import base64
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bus.errors import NotPermittedError
from bus.policy import Policy, load
from bus.protocol.contexts import Purpose
from bus.tpm.permissions import FOR_SIGNERS, Permissions
from bus.tpm.wire import COMMANDS

sys.path.insert(0, str(Path(__file__).parent))

from served import (
    CONTENT,
    IS_ROOT,
    OWNER,
    STRANGER,
    SUITE,
    ask_as_stranger,
    let_strangers_reach,
    others_are_served,
    policy_for,
    raw,
    serving,
)

OWN_UID, OTHER_UID = 500, 1_001
NEVER_FOR_OTHERS = {
    "create",
    "rotate",
    "seal",
    "unseal",
    "certify",
    "quote",
    "activateCredential",
    "facts",
    "statistics",
    "measure",
}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_others_name_only_keys_that_they_may_see():
    """Else whether a key exists, and in which TPM, could be asked of anything that takes one."""
    policy = load({"p.yaml": _TWO_ROLES.encode()})
    permissions = Permissions(OWN_UID, policy)
    permissions.check(OTHER_UID, "endorsement", beside="MINE")
    permissions.check(OTHER_UID, "attestationKey", beside="MINE.2")
    permissions.check(OWN_UID, "endorsement", beside="THEIRS")
    for key in ("THEIRS", "THEIRS.1", "NOBODY", ""):
        with pytest.raises(NotPermittedError):
            permissions.check(OTHER_UID, "endorsement", beside=key)


_TWO_ROLES = f"""version: 1
agents: {{MINE: mine, THEIRS: theirs}}
roles:
  mine: {{key: ecc256/sha256, uids: [{{uid: {OTHER_UID}, purposes: [envelope]}}]}}
  theirs: {{key: ecc256/sha256}}
"""


def test_the_owner_and_root_may_do_everything():
    permissions = Permissions(OWN_UID, Policy())
    for command in COMMANDS:
        for uid in (OWN_UID, 0):
            permissions.check(uid, command, key="ANY", purpose=Purpose.ENVELOPE)


def test_nobody_else_may_do_anything_that_policy_does_not_grant():
    permissions = Permissions(OWN_UID, policy_for(OTHER_UID, "session"))
    assert not permissions.knows(OTHER_UID + 1)
    for command in COMMANDS:
        with pytest.raises(NotPermittedError):
            permissions.check(OTHER_UID + 1, command, key="MONITOR", purpose=Purpose.SESSION)


def test_a_granted_user_may_sign_for_its_purposes_with_that_roles_keys_and_no_more():
    permissions = Permissions(OWN_UID, policy_for(OTHER_UID, "session", "envelope"))
    assert set(COMMANDS) - set(FOR_SIGNERS) == NEVER_FOR_OTHERS
    for command in NEVER_FOR_OTHERS:
        with pytest.raises(NotPermittedError):
            permissions.check(OTHER_UID, command, key="MONITOR", purpose=Purpose.SESSION)
    for command in FOR_SIGNERS - {"signMany"}:
        permissions.check(OTHER_UID, command)
    for key in ("MONITOR", "MONITOR.1", "MONITOR.17"):
        for purpose in Purpose:
            if purpose in (Purpose.SESSION, Purpose.ENVELOPE):
                permissions.check(OTHER_UID, "signMany", key=key, purpose=purpose)
            else:
                with pytest.raises(NotPermittedError):
                    permissions.check(OTHER_UID, "signMany", key=key, purpose=purpose)
    for key in ("DIRECTOR", "NOBODY", "attestation", "attestation.1", "", ".", "MONITOR2", "monitor", "DIRECTOR.MONITOR", None):
        with pytest.raises(NotPermittedError):
            permissions.check(OTHER_UID, "signMany", key=key, purpose=Purpose.SESSION)
    assert permissions.may_see(OTHER_UID, "MONITOR")
    assert not permissions.may_see(OTHER_UID, "DIRECTOR")
    assert not permissions.may_see(OTHER_UID, "attestation")


def test_a_grant_is_for_listed_agents_so_that_nobody_inherits_the_key_of_one_that_was_removed():
    policy = load({"p.yaml": "version: 1\nagents: {GUEST: guest}\nroles: {guest: {key: ecc256/sha256, uids: [1001]}}\n"})
    permissions = Permissions(OWN_UID, replace(policy, others="guest"))
    permissions.check(OTHER_UID, "signMany", key="GUEST", purpose=Purpose.SESSION)
    with pytest.raises(NotPermittedError):
        permissions.check(OTHER_UID, "signMany", key="DIRECTOR", purpose=Purpose.SESSION)
    assert not permissions.may_see(OTHER_UID, "DIRECTOR")


def test_strangers_are_those_whom_policy_lets_in():
    assert Permissions(OWN_UID, policy_for(OTHER_UID, "session")).strangers == {OTHER_UID}
    assert Permissions(OTHER_UID, policy_for(OTHER_UID, "session")).strangers == frozenset()
    assert Permissions(OWN_UID, Policy()).strangers == frozenset()


# ---- with another user's process -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_another_users_process_signs_what_is_granted_and_nothing_else(runtime):
    sign = {"command": "signMany", "key": "MONITOR", "purpose": "session", "contents": [b64(CONTENT[0])]}
    group = let_strangers_reach(runtime)
    async with serving(runtime, policy=policy_for(STRANGER, "session"), owner=OWNER, group=group) as served:
        await served.engine.create("DIRECTOR", SUITE)
        answers = await ask_as_stranger(
            served.path,
            {"command": "ping"},
            sign,
            sign | {"key": "MONITOR.1"},
            sign | {"purpose": "envelope"},
            sign | {"key": "DIRECTOR"},
            sign | {"key": "NOBODY"},
            {"command": "keys"},
            {"command": "create", "name": "MONITOR", "suite": "ecc256/sha256"},
            {"command": "seal", "secret": b64(b"s")},
            {"command": "unseal", "blob": b64(b"s")},
            {"command": "certify", "key": "MONITOR", "qualifying": ""},
            {"command": "statistics"},
        )
        assert [answer.get("error", {}).get("code") for answer in answers] == [
            *[None] * 3,
            *["not_permitted"] * 3,
            None,
            *["not_permitted"] * 5,
        ]
        assert len(answers[1]["batches"][0]["proofs"]) == 1
        assert [key["name"] for key in answers[6]["keys"]] == ["MONITOR"]
        if IS_ROOT:
            await others_are_served(served)


@pytest.mark.anyio
async def test_another_user_hears_codes_and_not_what_is_on_this_machine(runtime):
    def leak() -> None:
        from bus.errors import VaultError

        raise VaultError("damaged", "/home/somebody/state/vault/MONITOR.1.pem is cut short", path="/home/somebody")

    sign = {"command": "signMany", "key": "MONITOR", "purpose": "session", "contents": [b64(CONTENT[0])]}
    group = let_strangers_reach(runtime)
    async with serving(runtime, policy=policy_for(STRANGER, "session"), owner=OWNER, group=group) as served:
        served.tpm.faults.append(leak)
        answers = await ask_as_stranger(served.path, sign, sign | {"key": "MONITOR.7"}, {"command": "getEK"})
    assert answers[0] == {"error": {"code": "damaged", "kind": "vault", "message": "damaged"}}
    assert answers[1] == {"error": {"code": "unknown_key", "kind": "refused", "message": "unknown key"}}
    assert answers[2]["error"]["code"] == "not_a_tpm"


@pytest.mark.anyio
async def test_a_user_whom_policy_does_not_know_is_told_so_and_cut(runtime):
    group = let_strangers_reach(runtime)
    async with serving(runtime, policy=policy_for(STRANGER + 1, "session"), owner=OWNER, group=group) as served:
        answers = await ask_as_stranger(served.path, {"command": "ping"}, {"command": "ping"})
        assert answers[0]["error"]["code"] == "not_permitted"
        assert answers[1] is None
        assert served.service.refused["not_permitted"] == 1


@pytest.mark.anyio
async def test_one_user_cannot_take_all_connections(runtime):
    group = let_strangers_reach(runtime)
    limits = {"policy": policy_for(STRANGER, "session"), "owner": OWNER, "group": group, "callers_of_a_stranger": 2}
    async with serving(runtime, **limits) as served:
        assert "version" in (await ask_as_stranger(served.path, {"command": "ping"}, connections=2))[0]
        assert (await ask_as_stranger(served.path, {"command": "ping"}, connections=3))[0]["error"]["code"] == "busy"
        assert "version" in (await ask_as_stranger(served.path, {"command": "ping"}, connections=2))[0]
        if IS_ROOT:
            await others_are_served(served)


@pytest.mark.anyio
async def test_new_permissions_hold_from_the_next_request_on(runtime):
    group = let_strangers_reach(runtime)
    sign = {"command": "signMany", "key": "MONITOR", "purpose": "session", "contents": [b64(CONTENT[0])]}
    async with serving(runtime, policy=policy_for(STRANGER, "session"), owner=OWNER, group=group) as served:
        assert "batches" in (await ask_as_stranger(served.path, sign))[0]
        served.service.permissions = Permissions(OWNER, policy_for(STRANGER, "envelope"))
        assert (await ask_as_stranger(served.path, sign))[0]["error"]["code"] == "not_permitted"


@pytest.mark.anyio
@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
async def test_without_a_group_another_user_does_not_even_reach_the_socket(runtime):
    runtime.chmod(0o711)
    async with serving(runtime, policy=policy_for(STRANGER, "session")) as served:
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700
        with pytest.raises(Exception, match="returned non-zero exit status") as caught:
            await ask_as_stranger(served.path, {"command": "ping"})
        assert b"PermissionError" in caught.value.stderr
        # A socket that another user may write to, in a folder that they may not enter, is still closed to them.
        served.path.chmod(0o666)
        with pytest.raises(Exception, match="returned non-zero exit status"):
            await ask_as_stranger(served.path, {"command": "ping"})


@pytest.mark.anyio
async def test_what_a_request_says_about_who_asks_is_an_unknown_field(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        for name in ("uid", "user", "peer", "credentials"):
            assert (await caller.ask(command="ping", **{name: 0}))["error"]["code"] == "unknown_field"

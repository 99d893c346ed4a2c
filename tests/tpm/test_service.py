"""The TPM service from outside: its protocol, its verbs, and what it will not sign whatever it is told."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import anyio
import pytest

from bus.errors import VerificationError
from bus.protocol import merkle, proof
from bus.protocol.contexts import Purpose
from bus.protocol.proof import BatchProof
from bus.testing.tpm_check import check_proof, contents_for
from bus.tpm.wire import COMMANDS

sys.path.insert(0, str(Path(__file__).parent))

from served import CONTENT, SUITE, raw, serving, the_key, until

pytestmark = pytest.mark.anyio


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sign_request(**changes):
    request = {"command": "signMany", "key": "MONITOR", "purpose": "session", "contents": [b64(CONTENT[0])]}
    return {name: value for name, value in (request | changes).items() if value is not None}


def proofs_of(answer) -> list[BatchProof]:
    return [
        BatchProof(
            SUITE.number,
            base64.b64decode(batch["signer"]),
            batch["count"],
            index,
            base64.b64decode(path),
            base64.b64decode(batch["signature"]),
        )
        for batch in answer["batches"]
        for index, path in batch["proofs"]
    ]


# ---- one line, one object --------------------------------------------------------------------------------------------------------


async def test_an_id_comes_back_with_the_answer_and_with_the_error(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        assert await caller.ask(command="ping", id=7) == {"id": 7, "version": 1}
        assert await caller.ask(command="ping", id="seven") == {"id": "seven", "version": 1}
        assert await caller.ask(command="ping") == {"version": 1}
        assert (await caller.ask(command="nothing", id=8))["id"] == 8
        assert (await caller.ask(id=9))["error"]["code"] == "missing_field"


async def test_requests_in_one_write_and_byte_by_byte_are_the_same(runtime):
    lines = b'{"command":"ping","id":1}\n{"command":"ping","id":2}\n{"command":"ping","id":3}\n'
    async with serving(runtime) as served:
        async with raw(served.path) as caller:
            await caller.send(lines)
            assert {(await caller.answer())["id"] for _ in range(3)} == {1, 2, 3}
        async with raw(served.path) as caller:
            for place in range(len(lines)):
                await caller.send(lines[place : place + 1])
            assert {(await caller.answer())["id"] for _ in range(3)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b'{"command":"sign","id":1}\n', "unknown_command"),
        (b'{"command":["ping"]}\n', "unknown_command"),
        (b'{"command":null}\n', "unknown_command"),
        (b"{}\n", "missing_field"),
        (b'{"command":"ping","extra":1}\n', "unknown_field"),
        (b'{"command":"ping","id":1.5}\n', "invalid_field"),
        (b'{"command":"ping","id":-1}\n', "invalid_field"),
        (b'{"command":"ping","id":true}\n', "invalid_field"),
        (b'{"command":"ping","id":"' + b"x" * 65 + b'"}\n', "invalid_field"),
        (b'{"command":"quote","pcrs":[24],"qualifying":""}\n', "invalid_field"),
        (b'{"command":"quote","pcrs":[true],"qualifying":""}\n', "invalid_field"),
        (b'{"command":"quote","qualifying":""}\n', "missing_field"),
        (b'{"command":"unseal","blob":"A"}\n', "invalid_field"),
        (b'{"command":"unseal","blob":"AB=="}\n', "invalid_field"),
        (b'{"command":"unseal","blob":"AAAA\\nAAAA"}\n', "invalid_field"),
        (b'{"command":"unseal","blob":"AA-_"}\n', "invalid_field"),
        (b'{"command":"unseal","blob":7}\n', "invalid_field"),
        (b'{"command":"seal","secret":""}\n', "invalid_value"),
        (b'{"command":"create","name":"monitor","suite":"ecc256/sha256"}\n', "invalid_field"),
        (b'{"command":"create","name":"A","suite":"ecc256/md5"}\n', "invalid_field"),
        (b'{"command":"rotate","name":"A","keep_until_ms":9007199254740993}\n', "invalid_field"),
        (b'{"command":"keys","after":7}\n', "invalid_field"),
        (b'{"command":"certify","key":"attestation","qualifying":""}\n', "unknown_key"),
    ],
)
async def test_a_wrong_request_gets_its_code_and_the_connection_goes_on(runtime, request_line, code):
    async with serving(runtime) as served, raw(served.path) as caller:
        assert await caller.code(request_line) == code
        assert await caller.ask(command="ping", id=1) == {"id": 1, "version": 1}


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b'"ping"\n',
        b"null\n",
        b'{"command":"ping"\n',
        b'{"command":"ping"} {}\n',
        b'{"command":"ping","command":"ping"}\n',
        b'{"command":"ping","id":{"a":1,"a":2}}\n',
        b'{"command":"ping","id":NaN}\n',
        b'{"command":"ping","id":-Infinity}\n',
        b'{"command":"ping","id":' + b"9" * 5_000 + b"}\n",
        b'\xef\xbb\xbf{"command":"ping"}\n',
        b'{"command":"\xff"}\n',
        '{"command":"ping"}'.encode("utf-16") + b"\n",
        b"\x00\x01\x02\xfe\xff\n",
        b"[" * 200_000 + b"\n",
        b'{"a":' * 100_000 + b"\n",
    ],
    ids=lambda line: repr(line[:24]),
)
async def test_what_is_no_json_object_ends_the_connection(runtime, line):
    async with serving(runtime) as served, raw(served.path) as caller:
        assert await caller.code(line) == "malformed"
        assert await caller.is_closed()


async def test_answers_come_when_they_are_ready_not_in_order(runtime, gate):
    async with serving(runtime) as served, raw(served.path) as caller:
        served.tpm.faults.append(gate)
        await caller.send(json.dumps(sign_request(id="slow")).encode() + b"\n" + b'{"command":"ping","id":"quick"}\n')
        assert (await caller.answer())["id"] == "quick"
        gate.open()
        assert (await caller.answer())["id"] == "slow"


async def test_who_has_said_all_still_hears_all(runtime):
    async with serving(runtime) as served:
        async with await anyio.connect_unix(served.path) as stream:
            await stream.send(json.dumps(sign_request()).encode() + b"\n")
            await stream.send_eof()
            assert b"batches" in await stream.receive()
        await until(lambda: not served.service.connected)


async def test_keys_come_in_pages(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        names = [f"K{number}" for number in range(230)]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(served.engine.create, name, SUITE)
        found: list[str] = []
        while True:
            page = await caller.ask(command="keys", **({"after": found[-1]} if found else {}))
            assert len(page["keys"]) <= 100
            found += [f"{key['name']}.{key['generation']}" for key in page["keys"]]
            if not page["more"]:
                break
        assert sorted(found) == sorted(["MONITOR.1", *(f"{name}.1" for name in names)])


# ---- no oracle -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["digest", "leaf", "leaves", "root", "tbs", "block", "data", "message", "hash", "scheme", "padding"]
)
async def test_no_field_carries_something_to_sign_as_it_is(runtime, name):
    async with serving(runtime) as served, raw(served.path) as caller:
        before = served.tpm.operations
        assert (await caller.ask(**sign_request(**{name: b64(bytes(32))})))["error"]["code"] == "unknown_field"
        assert (await caller.ask(**sign_request(contents=None, **{name: b64(bytes(32))})))["error"]["code"] == "unknown_field"
        assert served.tpm.operations == before


@pytest.mark.parametrize(
    "command", ["sign", "signDigest", "rsaDecrypt", "decrypt", "sign_many", "SIGNMANY", "raw", "hmac", "execute"]
)
async def test_no_command_signs_or_decrypts_as_it_is_told(runtime, command):
    async with serving(runtime) as served, raw(served.path) as caller:
        assert (await caller.ask(**sign_request(command=command)))["error"]["code"] == "unknown_command"


def test_the_commands_are_these_and_no_others():
    assert set(COMMANDS) == {
        *("ping", "getEK", "getAttestationData", "activateCredential", "endorsement", "attestationKey", "signMany", "create"),
        *("rotate", "keys", "seal", "unseal", "certify", "quote", "measure", "facts", "statistics"),
    }
    assert set(COMMANDS["signMany"].request) == {"key", "purpose", "contents", "signer", "priority"}


@pytest.mark.parametrize(
    "purpose", ["root", "ca", "git", "", "Session", "SESSION", 2, None, ["session"], "session\n", "envelope,session"]
)
async def test_a_purpose_outside_the_list_signs_nothing(runtime, purpose):
    async with serving(runtime) as served, raw(served.path) as caller:
        before = served.tpm.operations
        answer = await caller.ask(**(sign_request() | {"purpose": purpose}))
        assert answer["error"]["code"] == "invalid_field"
        assert served.tpm.operations == before


@pytest.mark.parametrize("size", [0, 1, 20, 31, 33, 48, 64, 384])
async def test_a_content_of_another_length_than_the_digest_is_refused(runtime, size):
    """A finished block or a message in place of the digest, or a digest of another suite's hash."""
    async with serving(runtime) as served, raw(served.path) as caller:
        answer = await caller.ask(**sign_request(contents=[b64(bytes(size))]))
        assert answer["error"]["code"] in {"invalid_field", "invalid_value"}
        assert answer["error"]["kind"] == "value"


async def test_a_content_that_is_a_leaf_is_hashed_into_a_leaf_again(runtime):
    """Whoever submits a leaf of purpose `envelope` as a content for `session` gets nothing that proves the envelope."""
    async with serving(runtime) as served, raw(served.path) as caller:
        key, wanted = await the_key(served.engine), CONTENT[0]
        leaf = proof.leaf(Purpose.ENVELOPE, wanted, hash_name=SUITE.hash)
        found = proofs_of(await caller.ask(**sign_request(contents=[b64(leaf)])))[0]
        check_proof(found, key, Purpose.SESSION, leaf)
        for purpose in Purpose:
            with pytest.raises(VerificationError):
                check_proof(found, key, purpose, wanted)


async def test_a_content_that_is_a_root_does_not_become_the_root(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        key = await the_key(served.engine)
        wanted = contents_for(SUITE, 4, seed="forged")
        leaves = [proof.leaf(Purpose.ENVELOPE, content, hash_name=SUITE.hash) for content in wanted]
        levels = merkle.grow(leaves, hash_name=SUITE.hash)
        found = proofs_of(await caller.ask(**sign_request(purpose="envelope", contents=[b64(levels[-1][0])])))[0]
        for index, content in enumerate(wanted):
            forged = BatchProof(found.suite, found.signer, 4, index, merkle.paths(levels)[index], found.signature)
            with pytest.raises(VerificationError):
                check_proof(forged, key, Purpose.ENVELOPE, content)


async def test_two_contents_that_are_nodes_do_not_become_a_tree_of_more(runtime):
    """The batch of two over nodes (left, right) must not verify as a batch of four over what lies below them."""
    async with serving(runtime) as served, raw(served.path) as caller:
        key = await the_key(served.engine)
        wanted = contents_for(SUITE, 4, seed="forged")
        leaves = [proof.leaf(Purpose.SESSION, content, hash_name=SUITE.hash) for content in wanted]
        levels = merkle.grow(leaves, hash_name=SUITE.hash)
        answer = await caller.ask(**sign_request(contents=[b64(node) for node in levels[1]]))
        for found in proofs_of(answer):
            for count in (2, 4):
                for index, content in enumerate(wanted):
                    forged = BatchProof(found.suite, found.signer, count, index, merkle.paths(levels)[index], found.signature)
                    with pytest.raises(VerificationError):
                        check_proof(forged, key, Purpose.SESSION, content)


async def test_a_signature_is_for_its_purpose_alone(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        key = await the_key(served.engine)
        for purpose in Purpose:
            found = proofs_of(await caller.ask(**sign_request(purpose=purpose.name.lower())))[0]
            check_proof(found, key, purpose, CONTENT[0])
            for other in set(Purpose) - {purpose}:
                with pytest.raises(VerificationError):
                    check_proof(found, key, other, CONTENT[0])


async def test_a_faulty_signature_never_leaves(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        served.tpm.corrupt_signatures = 1
        assert (await caller.ask(**sign_request()))["error"]["code"] == "bad_signature"
        assert "batches" in await caller.ask(**sign_request())


async def test_a_bad_content_of_one_caller_does_not_fail_the_batch_of_another(runtime):
    """SHA-384's length fits the protocol, but not this key: alone it is refused, and it must not be gathered with others'."""
    async with serving(runtime) as served, raw(served.path) as bad, raw(served.path) as good:
        line = json.dumps(sign_request(contents=[b64(bytes(48))])).encode() + b"\n"
        await bad.send(line * 5)
        for _ in range(5):
            assert "batches" in await good.ask(**sign_request())
        for _ in range(5):
            assert (await bad.answer())["error"]["code"] == "invalid_value"


async def test_what_went_wrong_inside_is_not_told(runtime, caplog):
    """A bug of ours is logged here, and the caller hears that there was one."""

    def bug() -> None:
        raise KeyError("the secret name of something")

    async with serving(runtime) as served, raw(served.path) as caller:
        served.tpm.faults.append(bug)
        answer = await caller.ask(command="seal", secret=b64(b"s"))
        assert answer["error"]["code"] == "internal"
        assert "secret name" not in json.dumps(answer)
        assert "secret name" in caplog.text

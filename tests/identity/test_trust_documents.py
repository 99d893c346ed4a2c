"""Revocation list, bundle and statement: what they say together, what does not belong together, and that nobody is led back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from small_authority import NOW, POLICY_DIGEST, SmallAuthority

from bus.errors import BusError, VaultError
from bus.identity import trust_documents
from bus.identity.anchor import Anchor, encode_brokers, read_anchor
from bus.identity.envelopes.verifier import Verifier
from bus.identity.public_trust import pem
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.frames import BUNDLE, CRL, STATEMENT

POLICY = "version: 1\ndomain: tpmbus.test\nroles: {one: {key: ecc256/sha256}}\nagents: {DIRECTOR: one}\n"


def documents(authority: SmallAuthority, *, version: int = 2, text: str = POLICY, **changes: Any) -> TrustDocuments:
    """`changes` are of the statement."""
    bundle = authority.bundle(version=version, files={"p.yaml": text.encode()})
    facts = {"policy": (bundle.version, bundle.digest)} | changes
    return TrustDocuments(authority.crl.der, bundle.raw, authority.statement_bytes(**facts))


def read(authority: SmallAuthority, found: TrustDocuments) -> Any:
    return trust_documents.read(found, root=authority.root, domain=authority.domain, ml_dsa_root=authority.ml_dsa.public)


def refused(authority: SmallAuthority, found: TrustDocuments) -> str:
    with pytest.raises(BusError) as caught:
        read(authority, found)
    reason: str = caught.value.reason
    return reason


def verifier(authority: SmallAuthority) -> Verifier:
    return Verifier(authority.root, authority.domain, ml_dsa_root=authority.ml_dsa.public)


# ---- what they say -------------------------------------------------------------------------------------------------------------


def test_they_make_a_snapshot_with_who_joined_besides_the_files(small_authority):
    joined = {"p.yaml": POLICY.encode(), "agents=": b"version: 1\nagents:\n  BILLING: one\n"}
    bundle = small_authority.bundle(files=joined)
    found = TrustDocuments(
        small_authority.crl.der, bundle.raw, small_authority.statement_bytes(policy=(bundle.version, bundle.digest))
    )
    snapshot = read(small_authority, found)
    assert dict(snapshot.policy.agents) == {"DIRECTOR": "one", "BILLING": "one"}
    assert snapshot.trust.generation("DIRECTOR") == 1


def test_a_policy_is_compiled_once_for_every_statement_that_names_it(small_authority):
    found = documents(small_authority)
    next_one = found.replaced(STATEMENT, documents(small_authority, number=6).statement)
    first, second = read(small_authority, found), read(small_authority, next_one)
    assert first.policy is second.policy
    assert first.trust is not second.trust
    other = read(small_authority, documents(small_authority, version=3, text=POLICY + "audit_readers: [one]\n"))
    assert other.policy.audit_readers == ("one",)


def test_the_statement_comes_last_because_it_names_the_others():
    found = TrustDocuments(b"crl", b"bundle", b"statement")
    assert list(found.in_order()) == [(CRL, b"crl"), (BUNDLE, b"bundle"), (STATEMENT, b"statement")]
    for what, _ in found.in_order():
        changed = dict(found.replaced(what, b"other").in_order())
        assert changed == {**dict(found.in_order()), what: b"other"}


def test_they_show_nothing_of_themselves():
    assert "secret" not in repr(TrustDocuments(b"secret", b"secret", b"secret"))


# ---- what does not belong together ---------------------------------------------------------------------------------------------


def test_another_revocation_list_than_the_statement_names_is_refused(small_authority):
    found = documents(small_authority)
    for crl in (small_authority.revocations(number=4), small_authority.revocations(number=2)):
        assert refused(small_authority, found.replaced(CRL, crl.der)) == "untrusted"


def test_a_policy_may_be_newer_than_the_statement_says_but_neither_older_nor_another(small_authority):
    found = documents(small_authority)
    newer = documents(small_authority, version=3).bundle
    assert read(small_authority, found.replaced(BUNDLE, newer)).policy.agents
    assert refused(small_authority, found.replaced(BUNDLE, documents(small_authority, version=1).bundle)) == "policy_rollback"
    assert refused(small_authority, documents(small_authority, policy=(2, POLICY_DIGEST))) == "policy_fork"


@pytest.mark.parametrize("what", [CRL, BUNDLE, STATEMENT])
def test_what_was_not_signed_for_this_domain_or_is_cut_off_is_refused(small_authority, other_authority, what):
    found = documents(small_authority)
    others = dict(documents(other_authority).in_order())
    assert refused(small_authority, found.replaced(what, others[what])) == "untrusted"
    for data in (b"", b"\x93", dict(found.in_order())[what][:-1]):
        assert refused(small_authority, found.replaced(what, data)) in ("malformed", "untrusted")


@pytest.fixture(scope="session")
def other_authority() -> SmallAuthority:
    return SmallAuthority()


# ---- accepting -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path) -> TrustMemory:
    return TrustMemory(tmp_path)


@pytest.mark.anyio
async def test_what_is_accepted_is_remembered_on_disk_first(small_authority, memory, tmp_path):
    snapshot = await trust_documents.accept(documents(small_authority), memory, verifier(small_authority))
    assert dict(snapshot.policy.agents) == {"DIRECTOR": "one"}
    highest = (await to_thread.run_sync(TrustMemory, tmp_path)).highest
    assert (highest.number, highest.policy_version) == (5, 2)


@pytest.mark.anyio
async def test_older_ones_are_refused_and_what_was_remembered_stays(small_authority, memory):
    await trust_documents.accept(documents(small_authority, version=3, number=6), memory, verifier(small_authority))
    for older, reason in (
        (documents(small_authority, version=3, number=5), "trust_rollback"),
        (documents(small_authority, version=2, number=7), "policy_rollback"),
        (documents(small_authority, version=3, number=6, issued_ms=NOW + 1), "trust_fork"),
    ):
        with pytest.raises(BusError) as caught:
            await trust_documents.accept(older, memory, verifier(small_authority))
        assert caught.value.reason == reason
    assert (memory.highest.number, memory.highest.policy_version) == (6, 3)


@pytest.mark.anyio
async def test_with_a_memory_that_is_not_on_disk_no_thread_is_needed(small_authority, monkeypatch):
    async def no_thread(*_: Any) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", no_thread)
    assert await trust_documents.accept(documents(small_authority), TrustMemory(None), verifier(small_authority))


# ---- from the folder -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(small_authority, tmp_path) -> Path:
    (tmp_path / "root.pem").write_text(pem("CERTIFICATE", small_authority.root.der))
    (tmp_path / "ml-dsa-root.bin").write_bytes(small_authority.ml_dsa.public)
    return tmp_path


def test_what_lies_in_the_folder_is_loaded_as_it_is(small_authority, folder):
    found = documents(small_authority)
    (folder / "crl.pem").write_text(pem("X509 CRL", found.crl))
    for name, data in (("bundle.bin", found.bundle), ("statement.bin", found.statement)):
        with pytest.raises(VaultError) as caught:
            trust_documents.load(folder)
        assert caught.value.code == "missing"
        (folder / name).write_bytes(data)
    assert trust_documents.load(folder) == found


def write(folder: Path, found: TrustDocuments) -> None:
    (folder / "crl.pem").write_text(pem("X509 CRL", found.crl))
    (folder / "bundle.bin").write_bytes(found.bundle)
    (folder / "statement.bin").write_bytes(found.statement)


@pytest.mark.anyio
async def test_what_another_process_accepted_meanwhile_is_read_again_and_what_was_put_back_is_refused(
    small_authority, folder, memory, monkeypatch
):
    old, new = documents(small_authority, number=5), documents(small_authority, number=6)
    write(folder, old)
    load = trust_documents.load

    def load_and_be_overtaken(place: Path) -> TrustDocuments:
        found = load(place)
        if found == old:
            write(folder, new)
            memory.accept(read(small_authority, new).trust.statement)
        return found

    monkeypatch.setattr(trust_documents, "load", load_and_be_overtaken)
    found, snapshot = await trust_documents.accept_from(folder, memory, verifier(small_authority))
    assert (found, snapshot.trust.statement.number) == (new, 6)
    monkeypatch.undo()
    write(folder, old)
    with pytest.raises(BusError) as caught:
        await trust_documents.accept_from(folder, memory, verifier(small_authority))
    assert caught.value.reason == "trust_rollback"


def test_what_is_pinned_is_read_from_the_folder(small_authority, folder):
    pinned = Anchor(small_authority.root, "tpmbus.test", small_authority.ml_dsa.public, frozenset({"BROKER"}))
    assert read_anchor(folder) == pinned
    (folder / "brokers.json").write_bytes(encode_brokers({"SOUTH", "NORTH"}))
    assert read_anchor(folder).brokers == {"SOUTH", "NORTH"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '["broker"]', "[1]", '["A", null]', "[" * 100_000, "\xff"])
def test_a_list_of_brokers_that_is_none_is_damage(folder, text):
    (folder / "brokers.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(VaultError) as caught:
        read_anchor(folder)
    assert caught.value.code == "damaged"

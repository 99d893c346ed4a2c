"""The second reader against the vectors: each positive case has the same result, each negative one exactly its code."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hpke
from nacl.bindings import crypto_scalarmult_base
from reader import aead, digests, ed25519, judge, pack, suites
from reader.refusal import Refused
from reader.replay import Ledger, Window
from reader.vectors import Vectors

HERE = Path(__file__).parent
VECTORS = Vectors.read(HERE.parent / "vectors")
LEAST = {
    "encoding": 2_076,
    "derivation": 193,
    "signature": 101,
    "tree": 19,
    "path": 212,
    "hpke": 22,
    "root": 33,
    "certificate": 212,
    "crl": 38,
    "statement": 91,
    "bundle": 71,
    "papers": 135,
    "inbox": 78,
    "grant": 286,
    "envelope": 500,
    "sealing": 26,
    "flips": 12,
    "world": 52,
}
"""So that an empty folder, or a kind that is gone, is a failure."""
HELPERS_WITH_BUS = {"test_hpke.py"}
"""The one test that compares a helper with the product; the reader itself is never among them."""


def answer(kind: str, case: dict[str, Any]) -> Any:
    """("result", ..) or ("code", ..)."""
    try:
        return "result", judge.JUDGE[kind](VECTORS, case)
    except Refused as refused:
        return "code", refused.code


def expected(case: dict[str, Any]) -> Any:
    return ("result", VECTORS.plain(case["result"])) if "result" in case else ("code", case["code"])


def cases(*kinds: str) -> list[Any]:
    wanted = kinds or tuple(kind for kind in VECTORS.cases if kind in judge.JUDGE)
    return [pytest.param(kind, case, id=f"{kind}: {case['name']}") for kind in wanted for case in VECTORS.cases.get(kind, [])]


def positive(*kinds: str) -> list[Any]:
    return [param for param in cases(*kinds) if "result" in param.values[1]]


def test_there_are_vectors_of_every_kind():
    counts = {kind: len(listed) for kind, listed in VECTORS.cases.items()}
    assert {kind: counts.get(kind, 0) for kind, least in LEAST.items() if counts.get(kind, 0) < least} == {}
    assert set(counts) <= {*judge.JUDGE, "world", "flips"}


@pytest.mark.parametrize("kind", [kind for kind in VECTORS.cases if kind in judge.JUDGE])
def test_the_second_reader_says_what_the_vectors_say(kind):
    """One test a kind, since there are thousands of cases; what differs is shown by name."""
    found = {case["name"]: (answer(kind, case), expected(case)) for case in VECTORS.cases[kind]}
    assert len(found) == len(VECTORS.cases[kind]), "a name stands twice"
    assert {name: pair for name, pair in found.items() if pair[0] != pair[1]} == {}


# ---- what a positive envelope or grant was made with


def seed_of(case: dict[str, Any]) -> bytes:
    return VECTORS.bytes(case["made_with"]["signing_key"])


@pytest.mark.parametrize("kind", ["envelope", "grant"])
def test_the_values_on_the_way_are_the_same(kind):
    made_with = [case for case in VECTORS.cases[kind] if "made_with" in case]
    assert len(made_with) >= 10
    for case in made_with:
        check_values(kind, case)


def check_values(kind, case):
    made = VECTORS.plain(case["made_with"])
    read: Any = (judge.opened if kind == "envelope" else judge.granted)(VECTORS, case)
    if kind == "envelope" and read.all_finished:
        return
    found = {
        "header": read.header_bytes,
        "body": read.body if kind == "envelope" else read.body_bytes,
        "blind": read.proof.blind,
        "content": read.signed.content,
        "leaf": read.signed.leaf,
        "root": read.signed.root,
        "tbs": read.signed.tbs,
        "plaintext": read.plaintext,
        "secret": read.epoch.secret if kind == "envelope" else read.body.secret,
        "params": read.epoch.params_bytes if kind == "envelope" else read.body.params,
    }
    if kind == "envelope":
        found["guard"] = read.sealed[: aead.GUARD_BYTES[read.epoch.params.aead]]
    for name, value in found.items():
        assert made[name] == value.hex(), name


def test_the_second_reader_seals_the_same_bytes():
    made_with = [case for case in VECTORS.cases["envelope"] if "made_with" in case]
    assert len(made_with) >= 60
    for case in made_with:
        check_sealing(case)


def check_sealing(case):
    """From the values alone: pack, sign where that is not random, seal."""
    made = {name: VECTORS.bytes(text) for name, text in case["made_with"].items()}
    params = pack.parse(made["params"], 1_024)
    head = pack.parse(made["header"], 1_024)
    assert pack.pack(head) == made["header"]
    proof, inner = pack.parse(made["plaintext"], 1_048_576)
    assert pack.pack([proof, inner]) == made["plaintext"]
    assert digests.epoch_id(made["secret"], made["params"]) == head[6]
    if proof[0] == 1:
        assert proof[5] == ed25519.sign(made["signing_key"], made["tbs"])
        assert proof[1] == digests.host_signer(ed25519.public_of(made["signing_key"]))
    key = digests.content_key(made["secret"], made["params"])
    sealed = aead.sealed(params[6], key, head[7], made["header"], guard=made["guard"], plaintext=made["plaintext"])
    assert pack.pack([made["header"], sealed]) == VECTORS.bytes(case["bytes"])


# ---- derived by rule: every shorter beginning, and a byte behind


BY_RULE = positive("envelope", "grant", "papers", "statement", "bundle")


@pytest.mark.parametrize(("kind", "case"), BY_RULE)
def test_every_beginning_is_malformed_and_so_is_a_byte_behind(kind, case):
    data = VECTORS.bytes(case["bytes"])
    step = max(1, len(data) // 3_000)
    lengths = {*range(0, len(data), step), *range(min(64, len(data))), *range(max(0, len(data) - 64), len(data))}
    others = [data[:length] for length in sorted(lengths)] + [data + b"\x00", data + data[:1]]
    found = Counter(answer(kind, case | {"bytes": other.hex()}) for other in others)
    assert found == {("code", "malformed"): len(others)}


# ---- flips


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS.cases.get("flips", [])])
def test_each_byte_that_is_changed_gives_its_code(case):
    data = VECTORS.bytes(case["bytes"])
    wanted = [code for code, count in case["codes"] for _ in range(count)]
    assert len(wanted) == len(data)
    wrong = []
    for place, code in enumerate(wanted):
        changed = data[:place] + bytes([data[place] ^ case["xor"]]) + data[place + 1 :]
        got = answer(case["of"], case | {"bytes": changed.hex()})
        if got != ("code", code):
            wrong.append((place, code, got))
    assert wrong == []


# ---- what vectors do not ask


def test_the_window_moves_and_forgets_nothing_within_it():
    window = Window.of([5, 70_000])
    for seq, code in [(5, "too_old"), (4_464, "too_old"), (70_000, "replayed")]:
        with pytest.raises(Refused) as caught:
            window.check(seq)
        assert caught.value.code == code
    for seq in (4_465, 69_999, 70_001, 2**32 - 1):
        window.check(seq)


def test_the_ledger_knows_records_of_envelopes():
    ledger = Ledger()
    ledger.finish(b"e", 3, [1], 3)
    assert ledger.unfinished(b"e", 3, 3) == [0, 2]
    ledger.finish(b"e", 3, [0, 2], 3)
    assert ledger.unfinished(b"e", 3, 1_024) == []
    assert ledger.unfinished(b"e", 4, 1) == [0]


def test_what_hpke_seals_for_itself_it_opens():
    private = bytes(range(32))
    sealed = hpke.seal(hpke.X25519, crypto_scalarmult_base(private), b"a grant", b"info", bytes([7]) * 32)
    assert hpke.open_sealed(hpke.X25519, private, sealed, b"info") == b"a grant"


@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_a_key_of_small_order_is_none(order):
    small = {
        1: b"\x01" + bytes(31),
        2: b"\xec" + b"\xff" * 30 + b"\x7f",
        4: bytes(32),
        8: bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    }[order]
    assert ed25519.public_point(small) is None
    with pytest.raises(Refused) as caught:
        suites.verify(1, small, b"", bytes(64))
    assert caught.value.code == "malformed"


# ---- independence


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call):
            found |= {
                str(a.value).split(".")[0] for a in node.args if isinstance(a, ast.Constant) and "import" in ast.dump(node.func)
            }
    return found


FILES = sorted(HERE.rglob("*.py"))


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in HELPERS_WITH_BUS], ids=lambda p: str(p.relative_to(HERE)))
def test_no_file_of_the_second_reader_imports_the_product(path):
    assert not imported(path) & {"bus", "tests", "tpmbus", "conftest"}


def test_there_is_a_reader_whose_files_were_looked_at():
    assert len([path for path in FILES if path.parent.name == "reader"]) >= 25


def test_a_process_that_judges_everything_never_loads_the_product():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from reader import judge; "
        "from reader.vectors import Vectors; v = Vectors.read(Path(sys.argv[2])); "
        "[judge.JUDGE['envelope'](v, case) for case in v.cases['envelope'] if 'result' in case]; "
        "sys.exit(any(name.split('.')[0] == 'bus' for name in sys.modules))"
    )
    command = [sys.executable, "-c", script, str(HERE), str(HERE.parent / "vectors")]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


# ---- whatever comes, the answer is a result or a code


@pytest.mark.parametrize("kind", [kind for kind in judge.JUDGE if any("bytes" in c for c in VECTORS.cases.get(kind, []))])
def test_damaged_bytes_never_bring_it_down(kind):
    chance = random.Random(kind)
    for case in chance.choices([param.values[1] for param in positive(kind)], k=60):
        data = bytearray(VECTORS.bytes(case["bytes"]))
        if len(data) > 100_000:
            continue
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        word, _ = answer(kind, case | {"bytes": bytes(data).hex()})
        assert word in {"result", "code"}

"""The fast tree beside the definition: RFC 9162 section 2.1, written down as it is printed there, without a thought for speed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import VerificationError
from bus.protocol import merkle
from bus.protocol.suites import HASHES

hash_names = st.sampled_from(sorted(HASHES))
counts = st.one_of(st.integers(1, 20), st.integers(1, 300), st.sampled_from([1, 2, 3, 4, 7, 8, 9, 255, 256, 257]))

# ---- the definition ------------------------------------------------------------------------------------------------------------


def split(count: int) -> int:
    """The largest power of two smaller than count."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def naive_root(leaves: list[bytes], hash_name: str) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return HASHES[hash_name](b"\x01" + naive_root(leaves[:k], hash_name) + naive_root(leaves[k:], hash_name)).digest()


def naive_path(leaves: list[bytes], index: int, hash_name: str) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*naive_path(leaves[:k], index, hash_name), naive_root(leaves[k:], hash_name)]
    return [*naive_path(leaves[k:], index - k, hash_name), naive_root(leaves[:k], hash_name)]


def make_leaves(count: int, hash_name: str) -> list[bytes]:
    return [HASHES[hash_name](b"\x00" + index.to_bytes(4, "big")).digest() for index in range(count)]


def verify(leaf: bytes, index: int, count: int, path: bytes, hash_name: str = "sha256") -> bytes:
    return merkle.root_from_path(leaf, index=index, count=count, path=path, hash_name=hash_name)


# ---- the same, whatever the size -----------------------------------------------------------------------------------------------


@given(counts, hash_names)
def test_root_and_paths_are_those_of_the_definition(count, hash_name):
    leaves = make_leaves(count, hash_name)
    levels = merkle.grow(leaves, hash_name=hash_name)
    assert list(levels[-1]) == [naive_root(leaves, hash_name)]
    for index in {0, count // 3, count // 2, count - 1}:
        assert merkle.paths(levels)[index] == b"".join(naive_path(leaves, index, hash_name))


@given(counts, hash_names)
def test_every_leaf_leads_to_the_root(count, hash_name):
    leaves = make_leaves(count, hash_name)
    levels = merkle.grow(leaves, hash_name=hash_name)
    for index, leaf in enumerate(leaves):
        assert verify(leaf, index, count, merkle.paths(levels)[index], hash_name) == levels[-1][0]


def leads_elsewhere(leaf: bytes, index: int, count: int, path: bytes, root: bytes) -> bool:
    """Refused as a proof, or at least no proof of this root. What the path's shape can tell must be refused outright."""
    try:
        return verify(leaf, index, count, path) != root
    except VerificationError as error:
        return error.reason == "bad_proof"


@given(st.integers(1, 70), st.data())
def test_a_path_proves_one_leaf_at_one_place(count, data):
    leaves = make_leaves(count, "sha256")
    levels = merkle.grow(leaves, hash_name="sha256")
    root = levels[-1][0]
    index = data.draw(st.integers(0, count - 1))
    path = merkle.paths(levels)[index]
    for other in range(count + 2):
        if other != index:
            assert leads_elsewhere(leaves[index], other, count, path, root), f"index {other} of {count} passes for {index}"
    for place in range(count):
        if place != index:
            assert leads_elsewhere(leaves[place], index, count, path, root)


def same_shape(index: int, count: int, other_count: int) -> bool:
    """Whether a leaf has the very same path in trees of both sizes. There only the signed size tells them apart."""

    def sides(size: int) -> list[bool]:
        found, low, high = [], 0, size
        while high - low > 1:
            middle = low + split(high - low)
            found.append(index < middle)
            low, high = (low, middle) if index < middle else (middle, high)
        return found[::-1]

    return index < other_count and sides(count) == sides(other_count)


@given(st.integers(1, 70), st.integers(1, 140), st.data())
def test_another_count_is_refused_unless_the_path_has_its_shape(count, other_count, data):
    leaves = make_leaves(count, "sha256")
    levels = merkle.grow(leaves, hash_name="sha256")
    index = data.draw(st.integers(0, count - 1))
    if same_shape(index, count, other_count):
        assert verify(leaves[index], index, other_count, merkle.paths(levels)[index]) == levels[-1][0]
    else:
        assert leads_elsewhere(leaves[index], index, other_count, merkle.paths(levels)[index], levels[-1][0])


@given(st.integers(1, 70), st.data())
def test_a_path_of_another_length_is_a_bad_proof(count, data):
    leaves = make_leaves(count, "sha256")
    levels = merkle.grow(leaves, hash_name="sha256")
    index = data.draw(st.integers(0, count - 1))
    path = merkle.paths(levels)[index]
    shorter = [path[:-length] for length in range(1, len(path) + 1)]
    longer = [path + extra for extra in (b"\x00", bytes(31), bytes(32), bytes(64), levels[-1][0], path[:32] or bytes(32))]
    for wrong in [*shorter, *longer]:
        with pytest.raises(VerificationError) as caught:
            verify(leaves[index], index, count, wrong)
        assert caught.value.reason == "bad_proof"


@given(st.integers(2, 40), st.data())
def test_no_bit_of_leaf_or_path_may_change(count, data):
    leaves = make_leaves(count, "sha256")
    levels = merkle.grow(leaves, hash_name="sha256")
    index = data.draw(st.integers(0, count - 1))
    path = merkle.paths(levels)[index]
    both = leaves[index] + path
    bit = data.draw(st.integers(0, len(both) * 8 - 1))
    flipped = bytearray(both)
    flipped[bit // 8] ^= 1 << bit % 8
    assert verify(bytes(flipped[:32]), index, count, bytes(flipped[32:])) != levels[-1][0]


@pytest.mark.parametrize(("index", "count"), [(-1, 1), (0, 0), (1, 1), (0, -1), (5, 5), (2**32, 2**32), (-1, -1)])
def test_a_place_outside_of_the_tree_is_a_bad_proof(index, count):
    with pytest.raises(VerificationError) as caught:
        verify(bytes(32), index, count, b"")
    assert caught.value.reason == "bad_proof"


@given(st.binary(max_size=200), st.integers(0, 2**40), st.integers(0, 2**40))
def test_any_path_gives_a_root_or_is_a_bad_proof(path, index, count):
    try:
        outcome = verify(bytes(32), index, count, path)
    except VerificationError as error:
        outcome = error.reason
    assert outcome == "bad_proof" or len(outcome) == 32


def test_a_tree_without_leaves_is_misuse():
    with pytest.raises(ValueError, match="at least one leaf"):
        merkle.grow([], hash_name="sha256")


def test_a_batch_of_one_is_its_leaf_and_an_empty_path():
    levels = merkle.grow([b"L" * 32], hash_name="sha256")
    assert levels == [[b"L" * 32]]
    assert merkle.paths(levels)[0] == b""
    assert verify(b"L" * 32, 0, 1, b"") == b"L" * 32


# ---- known answers -------------------------------------------------------------------------------------------------------------

# The eight inputs that every implementation of Certificate Transparency tests itself with, and the roots over the first 1 to 8.
CT_INPUTS = [
    bytes.fromhex(text)
    for text in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_PATHS = [  # index, count, path
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def ct_leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + data).digest() for data in CT_INPUTS[:count]]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_roots_of_certificate_transparency(count):
    assert merkle.grow(ct_leaves(count), hash_name="sha256")[-1][0].hex() == CT_ROOTS[count - 1]


@pytest.mark.parametrize(("index", "count", "path"), CT_PATHS)
def test_the_paths_of_certificate_transparency(index, count, path):
    leaves, joined = ct_leaves(count), bytes.fromhex("".join(path))
    assert merkle.paths(merkle.grow(leaves, hash_name="sha256"))[index] == joined
    assert verify(leaves[index], index, count, joined).hex() == CT_ROOTS[count - 1]


def test_every_leaf_of_every_small_tree_has_one_path_and_no_other():
    """All counts up to 70, all leaves: the right path leads to the root; one that is a sibling shorter or longer to nothing."""
    for count in range(1, 71):
        leaves = make_leaves(count, "sha256")
        levels = merkle.grow(leaves, hash_name="sha256")
        for index, path in enumerate(merkle.paths(levels)):
            assert verify(leaves[index], index, count, path) == levels[-1][0]
            for other in (path + bytes(32), path[:-32], path[:-1], path + b"\x00"):
                if other != path:
                    with pytest.raises(VerificationError):
                        verify(leaves[index], index, count, other)


# ---- leaf after leaf -----------------------------------------------------------------------------------------------------------


def answer(ask, leaf: bytes, index: int, count: int, path: bytes) -> bytes | str:
    try:
        return ask(leaf, index=index, count=count, path=path, hash_name="sha256")
    except VerificationError as error:
        return error.reason


@st.composite
def askings(draw: st.DrawFn) -> list[tuple[bytes, int, int, bytes]]:
    """Of a few trees, in any order and again; some with another leaf, place, count or path than they should have."""
    trees = []
    for size in draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)):
        leaves = make_leaves(size, "sha256")
        trees.append((leaves, merkle.paths(merkle.grow(leaves, hash_name="sha256"))))
    found = []
    for tree, start, step in draw(st.lists(st.tuples(st.sampled_from(trees), st.integers(0, 39), st.integers(0, 3)), max_size=30)):
        leaves, paths = tree
        count = len(leaves)
        index = (start + step) % count
        leaf, path = leaves[index], paths[index]
        match draw(st.integers(0, 9)):
            case 0:
                leaf = draw(st.sampled_from([*leaves, bytes(32)]))
            case 1 if path:
                place = draw(st.integers(0, len(path) - 1))
                path = path[:place] + bytes([path[place] ^ draw(st.integers(1, 255))]) + path[place + 1 :]
            case 2:
                index = draw(st.integers(-1, count))
            case 3:
                path = draw(st.sampled_from([path[:-1], path[:-32], path + b"\0", path + bytes(32), draw(st.sampled_from(paths))]))
            case 4:
                count = draw(st.integers(0, 41))
            case _:
                pass
        found.append((leaf, index, count, path))
    return found


@given(askings())
def test_leaf_after_leaf_every_answer_is_that_of_the_whole_way(asked):
    climb = merkle.Climb()
    for one in asked:
        assert answer(climb.root_from_path, *one) == answer(merkle.root_from_path, *one)


@pytest.mark.parametrize("count", [2, 3, 64, 100, 128])
def test_no_leaf_path_or_place_of_another_passes_after_the_right_one(count):
    leaves = make_leaves(count, "sha256")
    levels = merkle.grow(leaves, hash_name="sha256")
    paths, climb = merkle.paths(levels), merkle.Climb()
    for index in range(count):
        for other in {0, index - 1, index ^ 1, index + 1} & {*range(count)}:
            if other != index:
                for wrong in ((leaves[other], index, count, paths[index]), (leaves[index], other, count, paths[index])):
                    assert answer(climb.root_from_path, *wrong) != levels[-1][0]
        assert answer(climb.root_from_path, leaves[index], index, count, paths[index]) == levels[-1][0]


def test_leaves_in_their_order_cost_a_hash_each(monkeypatch):
    hashed = 0

    def counted(data: bytes):
        nonlocal hashed
        hashed += 1
        return hashlib.sha256(data)

    leaves = make_leaves(128, "sha256")
    levels = merkle.grow(leaves, hash_name="sha256")
    paths, climb = merkle.paths(levels), merkle.Climb()
    monkeypatch.setitem(HASHES, "sha256", counted)
    for index, leaf in enumerate(leaves):
        assert climb.root_from_path(leaf, index=index, count=128, path=paths[index], hash_name="sha256") == levels[-1][0]
    assert hashed == 127, "as many as the tree has nodes"

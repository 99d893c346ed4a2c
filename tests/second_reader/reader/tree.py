"""Part 3: the tree of a batch, and the way from a leaf to its root."""

from __future__ import annotations

from .digests import HASHES, Hash
from .refusal import demand


def _node(h: Hash, left: bytes, right: bytes) -> bytes:
    return h(b"\x01" + left + right)


def grow(suite: int, leaves: list[bytes]) -> tuple[bytes, list[bytes]]:
    """(root, the path of each leaf)."""
    h = HASHES[suite]
    level, paths, places = list(leaves), [b""] * len(leaves), list(range(len(leaves)))
    while len(level) > 1:
        for which, place in enumerate(places):
            sibling = place ^ 1
            if sibling < len(level):
                paths[which] += level[sibling]
            places[which] = place // 2
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [_node(h, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0], paths


def climb(suite: int, leaf: bytes, n: int, index: int, path: bytes) -> bytes:
    """The root, or bad_proof."""
    h, size = HASHES[suite], len(HASHES[suite](b""))
    demand(index < n and len(path) % size == 0, "bad_proof", "index or length of path")
    node, last = leaf, n - 1
    while last > 0:
        if index % 2 or index != last:
            sibling, path = path[:size], path[size:]
            demand(sibling, "bad_proof", "the path is too short")
            node = _node(h, sibling, node) if index % 2 else _node(h, node, sibling)
        index, last = index // 2, last // 2
    demand(not path, "bad_proof", "the path is too long")
    return node

"""One signature for many: the tree and the inclusion paths of RFC 9162, over any hash.

    leaf = given        node = H(0x01 | left | right)        an odd node rises unchanged

Leaves carry 0x00 from where they are made (`proof.leaf`), so that no node passes for a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence

from bus.errors import VerificationError
from bus.protocol.suites import HASHES


def grow(leaves: Sequence[bytes], *, hash_name: str) -> list[Sequence[bytes]]:
    """All levels of the tree, leaves first; the last level is the root alone."""
    if not leaves:
        raise ValueError("a tree needs at least one leaf")
    new = HASHES[hash_name]
    levels: list[Sequence[bytes]] = [leaves]
    level = leaves
    while len(level) > 1:
        above = [new(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(above)
        level = above
    return levels


def paths(levels: Sequence[Sequence[bytes]]) -> list[bytes]:
    """For each leaf the siblings up to the root, joined. Made from the root down: what two leaves share is joined once."""
    found = [b""]
    for level in reversed(levels[:-1]):
        size = len(level)
        found = [(level[place ^ 1] if place ^ 1 < size else b"") + found[place >> 1] for place in range(size)]
    return found


def root_from_path(leaf: bytes, *, index: int, count: int, path: bytes, hash_name: str) -> bytes:
    """The root that this path leads to. Raises VerificationError("bad_proof") unless the path has exactly the right length."""
    new, size = HASHES[hash_name], len(leaf)
    if not 0 <= index < count:
        raise VerificationError("bad_proof", detail="an index that the tree does not have")
    node, last, start = leaf, count - 1, 0
    ragged = last >> (index ^ last).bit_length()
    if not ragged & (ragged + 1) and len(path) == size * last.bit_length():
        # A sibling on every level, as in most trees at most leaves: nothing to ask but left or right.
        for start in range(0, len(path), size):
            sibling = path[start : start + size]
            node = new(b"\x01" + sibling + node if index & 1 else b"\x01" + node + sibling).digest()
            index >>= 1
        return node
    while last:
        if index & 1:
            node = new(b"\x01" + path[start : start + size] + node).digest()
            start += size
        elif index != last:
            node = new(b"\x01" + node + path[start : start + size]).digest()
            start += size
        index >>= 1
        last >>= 1
    if start != len(path):  # asked once, at the end: what a missing sibling was hashed with is thrown away
        raise VerificationError("bad_proof", detail="a path of another length than the tree's depth")
    return node

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


class Climb:
    """Roots of leaves that come one after the other out of one tree, each answered as by `root_from_path`.

    What the last leaf hashed above the place where the two paths meet is not hashed again: where a leaf comes to the sibling that
    the last path had there, with that leaf's node as its own sibling, and goes on by the same path, it comes to the same root. So
    leaves in their order cost one hash each, and not one for each level.
    """

    __slots__ = ("_count", "_hash_name", "_index", "_is_full", "_nodes", "_path")

    def __init__(self) -> None:
        self._count = self._index = 0
        self._path = b""
        self._hash_name = ""
        self._is_full = False
        """Whether every leaf of the tree has a sibling on every level."""
        self._nodes: list[bytes] = []
        """From the last leaf to the root."""

    def root_from_path(self, leaf: bytes, *, index: int, count: int, path: bytes, hash_name: str) -> bytes:
        """Raises as the function does."""
        if (
            count == self._count
            and 0 <= index < count
            and index != self._index
            and len(path) == len(self._path)
            and hash_name == self._hash_name
            and (self._is_full or _has_every_sibling(index, count, path, len(leaf)))
        ):
            level = (index ^ self._index).bit_length() - 1  # where a sibling of one path is on the other
            at = level * len(leaf)
            end = at + len(leaf)
            last = self._path
            if path[at:end] == self._nodes[level] and path[end:] == last[end:]:
                nodes = _climbed(leaf, index, path[:at], hash_name) if level else [leaf]
                if nodes[level] == last[at:end]:
                    self._nodes[: level + 1] = nodes
                    self._index, self._path = index, path
                    return self._nodes[-1]
        if not (0 <= index < count and path and _has_every_sibling(index, count, path, len(leaf))):
            return root_from_path(leaf, index=index, count=count, path=path, hash_name=hash_name)
        self._index, self._count, self._path, self._hash_name = index, count, path, hash_name
        self._is_full = not count & (count - 1)
        self._nodes = _climbed(leaf, index, path, hash_name)
        return self._nodes[-1]


def _climbed(leaf: bytes, index: int, path: bytes, hash_name: str) -> list[bytes]:
    """The nodes from this leaf upwards, itself included, with a sibling on every level."""
    new, size, node = HASHES[hash_name], len(leaf), leaf
    nodes = [leaf]
    for start in range(0, len(path), size):
        sibling = path[start : start + size]
        node = new(b"\x01" + sibling + node if index & 1 else b"\x01" + node + sibling).digest()
        nodes.append(node)
        index >>= 1
    return nodes


def _has_every_sibling(index: int, count: int, path: bytes, size: int) -> bool:
    """Whether this leaf has a sibling on each level, as in most trees most leaves have, and its path has just these."""
    last = count - 1
    ragged = last >> (index ^ last).bit_length()
    return not ragged & (ragged + 1) and len(path) == size * last.bit_length()


def root_from_path(leaf: bytes, *, index: int, count: int, path: bytes, hash_name: str) -> bytes:
    """The root that this path leads to. Raises VerificationError("bad_proof") unless the path has exactly the right length."""
    new, size = HASHES[hash_name], len(leaf)
    if not 0 <= index < count:
        raise VerificationError("bad_proof", detail="an index that the tree does not have")
    node, last, start = leaf, count - 1, 0
    if _has_every_sibling(index, count, path, size):  # nothing to ask but left or right
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

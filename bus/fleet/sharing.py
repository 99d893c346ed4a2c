"""Which agents are in which process.

An envelope is opened once in each process in which somebody hears it, and a signature verified once. So those who hear most share a
process, and what is said only among the others never reaches it; each process gets as much to do as the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from bus.fleet.mix import Mix

SAYING: Final = 10.0
"""What a message costs in its sender's process, in copies of it that somebody hears: measured with the reference mix."""


def share_out(names: Sequence[str], processes: int, mix: Mix | None = None) -> list[list[str]]:
    """The agents of each process. Without a mix nothing is known of them: as many each, and those of one role spread."""
    if mix is None:
        return [list(names[number::processes]) for number in range(processes)]
    heard = _heard(mix)
    said = _said(mix)
    by_hearing = sorted(names, key=lambda name: -heard.get(name, 0.0))
    return _cut(by_hearing, {name: heard.get(name, 0.0) + SAYING * said.get(name, 0.0) for name in names}, processes)


def _cut(names: Sequence[str], work: Mapping[str, float], pieces: int) -> list[list[str]]:
    """In this order, and nobody's piece is empty while another one could spare somebody."""
    whole, done = sum(work.values()), 0.0
    found: list[list[str]] = [[] for _ in range(pieces)]
    piece = 0
    for number, name in enumerate(names):
        is_full = done + work[name] / 2 > whole * (piece + 1) / pieces
        is_needed_later = len(names) - number <= pieces - 1 - piece
        if found[piece] and piece < pieces - 1 and (is_full or is_needed_later):
            piece += 1
        found[piece].append(name)
        done += work[name]
    return found


def _said(mix: Mix) -> Mapping[str, float]:
    """Of a thousand messages, whose they are."""
    found = defaultdict[str, float](float)
    for row in mix.sends:
        for agent in row.agents:
            found[agent] += row.share / len(row.agents)
    return found


def _heard(mix: Mix) -> Mapping[str, float]:
    """Of a thousand messages, how many copies each hears: members of a group share theirs."""
    found = defaultdict[str, float](float)
    for row in mix.sends:
        for topic in row.topics:
            listeners = mix.listeners(topic)
            for one in listeners:
                members = 1 if one.group is None else sum(other.group == one.group for other in listeners)
                found[one.agent] += row.share / len(row.topics) / members
    return found

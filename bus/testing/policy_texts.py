"""The policy of a test: files, a shipped name, or text in the test itself; always of the domain `testing.invalid`.

The domain is written over in the text that says it, and nothing else is changed, so mistakes are shown where their author made
them. A policy that says no domain gets a file that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from anyio import to_thread

from bus.identity.authority import policies
from bus.policy import files, load
from bus.policy.source import Scalar, read
from bus.trust.testing_domain import DOMAIN

PolicyGiven = None | str | Path | Mapping[str, str | bytes]
"""None (the shipped default), the name of a shipped policy, a file or folder, the text itself (a `str` of several lines), or texts
by file name."""
DOMAIN_FILE: Final = "domain="
"""Called as no file is, like the one of agents who joined."""
ONE_FILE: Final = "policy.yaml"

Texts = dict[str, bytes]


async def texts_of(given: PolicyGiven, agents: Mapping[str, str] | None = None) -> Texts:
    """What a bundle is to hold. Files are read in a thread; a shipped policy once in a process. Raises PolicyError."""
    if isinstance(given, Mapping) or (isinstance(given, str) and "\n" in given):
        return texts_given(given, agents)
    name = "default" if given is None else given if isinstance(given, str) and given in files.SHIPPED else None
    texts = _shipped.get(name)
    if texts is None:
        texts = await to_thread.run_sync(_from_disk, given)
        if name is not None:
            _shipped[name] = texts
    return in_domain(with_agents(texts, agents or {}))


def texts_given(given: str | Mapping[str, str | bytes], agents: Mapping[str, str] | None = None) -> Texts:
    """The same for texts that are in the test itself: nothing is read."""
    by_name = {ONE_FILE: given} if isinstance(given, str) else given
    texts = {file: text.encode() if isinstance(text, str) else bytes(text) for file, text in by_name.items()}
    return in_domain(with_agents(texts, agents or {}))


def with_agents(texts: Texts, agents: Mapping[str, str]) -> Texts:
    """With these agents in roles of the policy. Raises PolicyError."""
    if not agents:
        return texts
    listed = load(texts)
    listed.with_agents(agents)
    lines = "".join(f"  {name}: {role}\n" for name, role in sorted(agents.items()) if name not in listed.agents)
    return {**texts, policies.JOINED: f"version: 1\nagents:\n{lines}".encode()} if lines else texts


def in_domain(texts: Texts) -> Texts:
    """The same policy for the domain of tests. What cannot be read is left for `load` to say."""
    for file, text in texts.items():
        root, _, _ = read(text, file=file)
        said = None if root is None else root.entries.get("domain")
        if isinstance(said, Scalar):
            return {**texts, file: _overwritten(text, said)}
    return {**texts, DOMAIN_FILE: f"version: 1\ndomain: {DOMAIN}\n".encode()}


def _overwritten(text: bytes, said: Scalar) -> bytes:
    lines = text.decode().split("\n")
    line, at = lines[said.place.line - 1], said.place.column - 1
    end = at + len(said.text) + (0 if said.plain else len("''"))
    lines[said.place.line - 1] = line[:at] + DOMAIN + line[end:]
    return "\n".join(lines).encode()


_shipped: dict[str | None, Texts] = {}
"""Policies by name: they do not change while a program runs."""


def _from_disk(given: str | Path | None) -> Texts:
    """With paths relative to the folder that holds all of its files, as a bundle has them."""
    return policies.collect(files.read(given), {})

"""Signing policy: the files as their author wrote them, and who joined besides, under the root key.

    texts + agents --collect--> files of a bundle --load--> a policy, or PolicyError --sign--> bundle --publish--> bundle.bin

What does not load is refused before anything is signed, and what is signed already is not signed again: a version is a change.
The paths in a bundle are relative to the folder that holds all of its files, rosters included, so that `agents: ../roster.yaml`
means the same file inside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bus.clock import Clock
from bus.errors import PolicyError, Problem, RemoteProtocolError, VaultError, VerificationError
from bus.identity.authority.issue import Authority
from bus.policy import Policy, load
from bus.trust import bundle as bundles
from bus.trust.bundle import Bundle

FILE: Final = "bundle.bin"
JOINED: Final = "agents="
"""The file of a bundle that lists agents whom no file of the policy lists; called as `bus.open` calls them, and as no file is."""


class Signed(NamedTuple):
    bundle: Bundle
    before: Bundle | None
    """The one that was in force; the same one if nothing was to be signed."""

    @property
    def changed(self) -> bool:
        return self.bundle is not self.before


def sign(authority: Authority, texts: Mapping[str, bytes], *, agents: Mapping[str, str] | None = None, clock: Clock) -> Signed:
    """Make these texts (as `bus.policy.files.read` gives them) and agents the policy in force. Blocks: disk, RSA.

    Without `agents`, who joined before stays. Afterwards issue a trust statement, which names the bundle. Raises PolicyError, and
    what the authority raises.
    """
    listed, before = load(texts), in_force(authority)
    agents = agents if agents is not None else joined(before)
    _check_domain(listed.with_agents(agents), authority, place=min(texts))
    files = collect(texts, {name: role for name, role in agents.items() if name not in listed.agents})
    if before is not None and before.files == files:
        return Signed(before, before)
    load(files)  # that it says the same inside: a roster at an absolute path does not
    bundle = _signed(authority, files, before, now_ms=clock.now_ms())
    authority.publish(FILE, bundle.raw)
    return Signed(bundle, before)


def joined(bundle: Bundle | None) -> Mapping[str, str]:
    """Who is in this policy although no file of its author lists them."""
    if bundle is None or JOINED not in bundle.files:
        return {}
    listed = load({path: text for path, text in bundle.files.items() if path != JOINED}).agents
    return {name: role for name, role in bundle.policy().agents.items() if name not in listed}


def in_force(authority: Authority) -> Bundle | None:
    """The bundle that was signed last; None if none was. Raises VaultError("damaged") for one that this authority did not sign."""
    data = authority.published(FILE)
    try:
        return None if data is None else _read(authority, data)
    except (RemoteProtocolError, VerificationError) as error:
        path = str(authority.public / FILE)
        text = f"{path} is not what was signed ({error}): restore it from a backup, or remove it and sign the policy again"
        raise VaultError("damaged", text, path=path) from error


def collect(texts: Mapping[str, bytes], agents: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a bundle. Raises PolicyError for a file whose path no bundle can have."""
    places = {file: os.path.abspath(file) for file in texts}  # noqa: PTH100  `..` is resolved as the loader does it: in the text
    top = Path(os.path.commonpath([Path(place).parent for place in places.values()]))
    files = {Path(places[file]).relative_to(top).as_posix(): text for file, text in texts.items()}
    faults = [Problem(path, 1, 1, f"its path {fault}") for path in sorted(files) if (fault := bundles.path_fault(path))]
    if faults:
        raise PolicyError(faults)
    if agents:
        lines = "".join(f"  {name}: {role}\n" for name, role in sorted(agents.items()))
        files[JOINED] = f"version: 1\nagents:\n{lines}".encode()
    return files


def _check_domain(policy: Policy, authority: Authority, *, place: str) -> None:
    if policy.domain != authority.domain:
        message = (
            f"this policy is for the domain {policy.domain!r}, and the authority of this state folder for {authority.domain!r}"
        )
        raise PolicyError([Problem(place, 1, 1, f"{message}: use another --state, or correct `domain:`")])


def _signed(authority: Authority, files: Mapping[str, bytes], before: Bundle | None, *, now_ms: int) -> Bundle:
    """Read again before anybody sees it, as its readers will. Two of one version would be a fork to them."""
    version = authority.next_policy_version(after=before.version if before else 0)
    made_ms = max(now_ms, before.made_ms if before else 0)
    try:
        body = bundles.body_bytes(domain=authority.domain, version=version, made_ms=made_ms, files=files)
    except ValueError as error:
        raise PolicyError([Problem(min(files), 1, 1, str(error))]) from error
    by = authority.sign_policy(body)
    return _read(authority, bundles.encode(body, signature=by.signature, cosignature=by.cosignature))


def _read(authority: Authority, data: bytes) -> Bundle:
    return bundles.read(data, root=authority.root, domain=authority.domain, ml_dsa_root=authority.ml_dsa_root)

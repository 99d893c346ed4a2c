"""`tpmbus policy sign`: raw files -> a signed bundle -> a trust statement that names it.

Where a hub runs it has the authority open, and nobody else can: it signs its policy's files as they are, as `policy reload` has it.
Files that are not what it goes by are refused, and nothing is left half signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bus.cli.authority import counted, issue_what_was_left_unsaid, run_with_authority
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.identity.authority import Authority
    from bus.identity.authority.policies import Signed
    from bus.policy.diff import PolicyDiff


def sign(path: str | None, *, passphrase_file: Path | None, clock_is_right: bool, state: Path | None, output: Output) -> None:
    from bus.cli.desk import runs
    from bus.policy import files, load

    is_at_hub = runs(state)
    texts = None if path is None and is_at_hub else files.read(path)
    if texts is not None:
        load(texts)  # what is wrong is said before a TPM is started, or an authority made
    if is_at_hub:
        signed, number = _at_hub(texts, state)
    else:
        signed, number = run_with_authority(
            lambda authority: _here(texts or {}, authority),
            state=state, policy=path, passphrase_file=passphrase_file, clock_is_right=clock_is_right,
        )  # fmt: skip
    _say(signed, number, output)


def _here(texts: Mapping[str, bytes], authority: Authority) -> tuple[Signed, int]:
    from bus.clock import SystemClock
    from bus.identity.authority import policies, statements

    signed = policies.sign(authority, texts, clock=SystemClock())
    issue_what_was_left_unsaid(authority)
    statement = statements.in_force(authority)
    return signed, statement.number if statement is not None else 0


def _at_hub(texts: Mapping[str, bytes] | None, state: Path | None) -> tuple[Signed, int]:
    """Without texts: whatever that hub goes by."""
    from bus.cli.desk import ask
    from bus.errors import NotPermittedError
    from bus.hub.state import open_state
    from bus.identity.authority.policies import Signed, collect, joined
    from bus.identity.public_trust import read_bundle
    from bus.policy import load

    public = open_state(state).trust / "public"
    before = read_bundle(public)
    ask(state, "reload")
    bundle, status = read_bundle(public), ask(state, "status")
    if texts is not None and bundle is not None:
        listed = load(texts).agents
        besides = {name: role for name, role in joined(bundle).items() if name not in listed}
        if bundle.files != collect(texts, besides):
            rule = f"the hub that runs here goes by that of {status['policy']}: change that one, or end the hub first"
            raise NotPermittedError("operator", "sign another policy", rule)
    if bundle is None:
        raise NotPermittedError(
            "operator", "sign a policy here", "the hub that runs here has none of its own: ask where its authority is"
        )
    return Signed(bundle, bundle if bundle == before else before), status["trust_statement"]


def _say(signed: Signed, number: int, output: Output) -> None:
    from bus.cli.policy_diff import document, lines

    bundle, changes = signed.bundle, _changes(signed)
    agents = len(bundle.policy().agents)
    if signed.changed:
        held = f"{counted(len(bundle.files), 'file')}, {counted(agents, 'agent')}"
        output.line(f"Signed version {bundle.version} of the policy of {bundle.domain}: {held}")
    else:
        output.line(f"Nothing to sign: these files are version {bundle.version} of the policy of {bundle.domain}")
    output.line(f"digest {bundle.digest.hex()}, named by trust statement {number}")
    for line in lines(changes) if changes is not None else ():
        output.line(line)
    output.document(
        {
            "domain": bundle.domain,
            "version": bundle.version,
            "digest": bundle.digest.hex(),
            "made_ms": bundle.made_ms,
            "changed": signed.changed,
            "files": list(bundle.files),
            "agents": agents,
            "statement": number,
            "changes": document(changes) if changes is not None else None,
        }
    )


def _changes(signed: Signed) -> PolicyDiff | None:
    """What a newer version changes; None for the first, for the same, and after one that this library does not load."""
    from bus.errors import PolicyError
    from bus.policy.diff import diff

    if signed.before is None or not signed.changed:
        return None
    try:
        return diff(signed.before.policy(), signed.bundle.policy())
    except PolicyError:
        return None

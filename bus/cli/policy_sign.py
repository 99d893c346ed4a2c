"""`tpmbus policy sign`: raw files -> a signed bundle -> a trust statement that names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bus.cli.authority import counted, issue_what_was_left_unsaid, run_with_authority
from bus.cli.output import Output

if TYPE_CHECKING:
    from bus.identity.authority import Authority
    from bus.identity.authority.policies import Signed
    from bus.policy.diff import PolicyDiff


def sign(path: str | None, *, passphrase_file: Path | None, clock_is_right: bool, state: Path | None, output: Output) -> None:
    from bus.cli.policy_diff import document, lines
    from bus.clock import SystemClock
    from bus.identity.authority import policies, statements
    from bus.policy import files, load

    texts = files.read(path)
    load(texts)  # what is wrong is said before a TPM is started, or an authority made

    def work(authority: Authority) -> tuple[Signed, int]:
        signed = policies.sign(authority, texts, clock=SystemClock())
        issue_what_was_left_unsaid(authority)
        statement = statements.in_force(authority)
        return signed, statement.number if statement is not None else 0

    signed, number = run_with_authority(
        work, state=state, policy=path, passphrase_file=passphrase_file, clock_is_right=clock_is_right
    )
    bundle, changes = signed.bundle, _changes(signed)
    agents = len(bundle.policy().agents)
    if signed.changed:
        held = f"{counted(len(bundle.files), 'file')}, {counted(agents, 'agent')}"
        output.line(f"Signed version {bundle.version} of the policy of {bundle.domain}: {held}")
    else:
        output.line(f"Nothing changed: version {bundle.version} of the policy of {bundle.domain} stays in force")
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

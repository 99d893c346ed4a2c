"""`tpmbus tpm`: the service that lets all processes of a state folder share its TPM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus.cli.options import command
from bus.cli.output import Output

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from bus.tpm.interface import EngineStatistics, Facts, TpmEngine


@click.group()
def tpm() -> None:
    """The TPM service that processes share."""


@tpm.command()
@click.option(
    "--socket", "socket_path", type=click.Path(path_type=Path, dir_okay=False), help="Where to listen.  [default: the state's]"
)
@click.option("--group", help="Also let this Unix group in, for what policy grants its members (socket 0660, folder 0710).")
@click.option(
    "--tpm",
    "which",
    envvar="TPMBUS_TPM",
    help="`swtpm`, `software`, a TCTI string, or several: `swtpm*3`, `A;B`.  [default: the state's own swtpm]",
)
@click.option("--idle-exit", type=click.FloatRange(min=0), metavar="SECONDS", help="End when nobody was connected for so long.")
@click.option("--ready-fd", type=click.IntRange(min=0), metavar="FD", help="Write a line to this descriptor when ready.")
@command(state=True, policy=True)
def serve(
    *,
    output: Output,
    state: Path | None,
    policy: str | None,
    socket_path: Path | None,
    group: str | None,
    which: str | None,
    idle_exit: float | None,
    ready_fd: int | None,
) -> None:
    """Run the TPM service until SIGTERM. The library starts it by itself where it needs it."""
    from bus.hub.core_dumps import forbid_core_dumps
    from bus.hub.state import open_state
    from bus.hub.tpm_process import ON_DEMAND, POLICY_DIGEST, policy_digest
    from bus.hub.which_tpm import open_engine_here
    from bus.policy import open_policy
    from bus.tpm.permissions import Permissions
    from bus.tpm.serving import Serving, serve

    forbid_core_dumps()
    opened, rules = open_state(state), open_policy(policy)
    place = socket_path.absolute() if socket_path is not None else opened.tpm_socket

    facts = {POLICY_DIGEST: policy_digest(policy), **({ON_DEMAND: "yes"} if idle_exit is not None else {})}

    def open_engine() -> AbstractAsyncContextManager[TpmEngine]:
        return open_engine_here(opened, rules, tpm=which, facts={"url": f"unix://{place}", **facts})

    strangers = Permissions(opened.folder.stat().st_uid, rules).strangers
    if strangers and group is None:
        uids = ", ".join(map(str, sorted(strangers)))
        output.note(f"tpmbus: policy lets uid {uids} sign, but only this user can reach {place}: give --group and --socket")
    _run(serve, Serving(place, rules, group=group, idle_seconds=idle_exit, ready_fd=ready_fd), open_engine)


@tpm.command()
@click.option(
    "--socket", "socket_path", type=click.Path(path_type=Path, dir_okay=False), help="Where it listens.  [default: the state's]"
)
@command(state=True)
def status(*, output: Output, state: Path | None, socket_path: Path | None) -> None:
    """What the running service's TPM is, and what it has done."""
    from bus.hub.state import open_state
    from bus.hub.tpm_process import service_socket
    from bus.tpm.remote import RemoteEngine

    place = socket_path or service_socket(open_state(state))

    async def ask() -> tuple[Facts, EngineStatistics, int]:
        async with await RemoteEngine.connect(place) as engine:
            return await engine.facts(), await engine.statistics(), len(await engine.keys())

    facts, statistics, keys = _run(ask)
    from bus.tpm.values import FACTS, STATISTICS

    output.document({"socket": str(place), "keys": keys, "facts": FACTS.encode(facts), "statistics": STATISTICS.encode(statistics)})
    output.table(("what", "value"), _rows(place, facts, statistics, keys), title="TPM service")
    if len(statistics.tpms) > 1:
        output.table(
            ("TPM", "there", "origin", "primary key", "contents", "signatures", "waiting", "longest wait", "busy", "failures"),
            _rows_of_each(statistics),
            title="Each TPM",
        )


@tpm.command()
@command(state=True)
def stop(*, output: Output, state: Path | None) -> None:
    """End the service of this state folder, after it has answered what was asked. It starts again when it is needed."""
    from bus.hub.state import open_state
    from bus.hub.tpm_process import stop_service

    ended = _run(stop_service, open_state(state))
    output.line("The TPM service has ended." if ended else "No TPM service was running.")
    output.document({"ended": ended})


def _rows(place: Path, facts: Facts, statistics: EngineStatistics, keys: int) -> list[tuple[str, object]]:
    per_signature = statistics.signed_contents / statistics.signatures if statistics.signatures else 0.0
    return [
        ("socket", place),
        ("TPM", f"{facts.description} {facts.firmware}".strip()),
        ("origin of its keys", facts.origin),
        ("keys in the vault", keys),
        ("signed contents", statistics.signed_contents),
        ("signatures", statistics.signatures),
        ("contents a signature", f"{per_signature:.1f} (largest batch {statistics.largest_batch})"),
        ("waiting", statistics.waiting),
        ("longest wait", f"{statistics.longest_wait * 1000:.1f} ms"),
        ("busy", f"{statistics.busy:.1f} s"),
        ("failures", ", ".join(f"{code} {count}" for code, count in statistics.failures.items()) or "none"),
    ]


def _rows_of_each(statistics: EngineStatistics) -> list[tuple[object, ...]]:
    return [
        (
            name,
            "yes" if one.is_there else "AWAY",
            one.origin or "-",
            f"{one.primary_name.hex()[:16]}.." if one.primary_name else "-",
            one.signed_contents,
            one.signatures,
            one.waiting,
            f"{one.longest_wait * 1000:.1f} ms",
            f"{one.busy:.1f} s",
            one.failures,
        )
        for name, one in statistics.tpms.items()
    ]


def _run(function: Any, *arguments: Any) -> Any:
    """On asyncio, with uvloop where it is installed."""
    from importlib.util import find_spec

    import anyio

    return anyio.run(function, *arguments, backend_options={"use_uvloop": find_spec("uvloop") is not None})

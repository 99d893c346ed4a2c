"""One of the processes of `tpmbus run --processes N`: started by the first, with some of the agents."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bus.cli.run_plan import Wanted, crew_of, planned

if TYPE_CHECKING:
    from bus.cli.output import Output


def command_of(wanted: Wanted, part: int) -> list[str]:
    words = [sys.executable, "-P", "-m", "bus.cli.main", "run", "--json", "--part", str(part), "--processes", str(wanted.processes)]
    words += ["--rate", str(wanted.rate)]
    options = {
        "--fleet": wanted.roster,
        "--mix": wanted.mix,
        "--tpm": wanted.tpm,
        "--state": wanted.state,
        "--policy": wanted.policy,
    }
    for name, value in options.items():
        words += [name, str(value)] if value is not None else []
    return words


async def be_a_part(wanted: Wanted, _: Output) -> int:
    from anyio import to_thread

    import bus
    from bus.fleet.children import be_a_child
    from bus.fleet.sharing import share_out

    plan = await to_thread.run_sync(planned, wanted)
    names = share_out(list(plan.roles), wanted.processes, plan.mix)[wanted.part or 0]
    async with bus.open(state=wanted.state, join=True) as hub:
        crew = await to_thread.run_sync(crew_of, hub, plan, names)

        async def host() -> Mapping[str, Any]:
            return dict((await hub.statistics())["host"])

        await be_a_child(crew, host, stdin_stream())
    return 0


def stdin_stream() -> Any:
    """Standard input as a stream of bytes."""
    import anyio.streams.file

    return anyio.streams.file.FileReadStream(os.fdopen(os.dup(0), "rb", buffering=0))

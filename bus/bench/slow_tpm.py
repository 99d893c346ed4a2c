"""A TPM service as slow as a real chip: `python -m bus.bench.slow_tpm STATE POLICY ECC_SECONDS RSA_SECONDS [TPM]`.

It is the service that the library starts by itself (`hub/tpm_process`), started before it: hub and agents find it and know no
difference, but for the pause before each operation of a key, in the engine's thread, where a chip makes it wait.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path

import anyio

from bus.hub.core_dumps import forbid_core_dumps
from bus.hub.state import open_state
from bus.hub.tpm_process import POLICY_DIGEST, policy_digest
from bus.hub.which_tpm import open_engine_here
from bus.policy import open_policy
from bus.tpm.interface import TpmEngine
from bus.tpm.serving import Serving, serve
from bus.tpm.slow import SlowTpm


def main(folder: str, policy: str, ecc: str, rsa: str, tpm: str | None = None) -> None:
    forbid_core_dumps()
    state, rules = open_state(Path(folder)), open_policy(policy)

    def open_engine() -> AbstractAsyncContextManager[TpmEngine]:
        slow = lambda inner: SlowTpm(inner, ecc_seconds=float(ecc), rsa_seconds=float(rsa))  # noqa: E731  two words more than its use
        return open_engine_here(state, rules, tpm=tpm, around=slow, facts={POLICY_DIGEST: policy_digest(policy)})

    serving = Serving(state.tpm_socket, rules, ready_fd=1)
    anyio.run(serve, serving, open_engine, backend_options={"use_uvloop": find_spec("uvloop") is not None})


if __name__ == "__main__":
    main(*sys.argv[1:])

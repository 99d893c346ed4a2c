"""What to do where a hub refuses agents of this machine. Its refusal is one word (`trust.enrolment.REASONS`), and what helps has
mostly to be done on the hub's machine; so the steps are named here, with what this machine knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bus.errors import AttestationError
from bus.hub.believed_chips import OWN_ISSUER, OWN_ROOT
from bus.hub.state import State


def advised(error: AttestationError, state: State) -> AttestationError:
    """The same refusal, with the next step."""
    step = _STEPS.get(error.reason)
    if step is None:
        return error
    said = str(error).rpartition(f"{error.reason}: ")[2]
    return AttestationError(error.reason, agent=error.agent, detail=f"{said}. {step(error.agent or 'AGENT', state)}")


def chip_ca(state: State) -> tuple[Path, Path]:
    """Of this folder's own software TPM: the root, and what lies between the chip and that."""
    return state.swtpm / "ca" / OWN_ROOT, state.swtpm / "ca" / OWN_ISSUER


def _believe_the_chip(_: str, state: State) -> str:
    root, between = chip_ca(state)
    return (
        "On the hub's machine put the certificate of this chip's maker into STATE/trust/chips/hardware; of this folder's software "
        f"TPM {root} into STATE/trust/chips/software, and {between} into STATE/trust/chips/between (`tpmbus host chip` here names "
        "chip and files). Then try again with the same token, which is not used up"
    )


def _let_it_in(agent: str, _: State) -> str:
    return (
        f"On the hub's machine `tpmbus trust enroll --token {agent}` gives out a token, for --token {agent}=TOKEN here; or `tpmbus "
        f"trust enroll --ek CHIP {agent}` lets this chip have the name for good: `tpmbus host chip` here says what it is called"
    )


def _another_token(agent: str, _: State) -> str:
    return f"On the hub's machine `tpmbus trust enroll --token {agent}` gives out another, for --token {agent}=TOKEN here"


def _free_the_name(agent: str, _: State) -> str:
    return (
        f"To have {agent} on this machine from now on: on the hub's machine `tpmbus trust revoke {agent} --reason retired`, which "
        f"takes it off the bus, then `tpmbus trust enroll --token {agent}`, and join with that token. Else choose another name"
    )


_STEPS: Final[Mapping[str, Callable[[str, State], str]]] = MappingProxyType(
    {
        "ek_untrusted": _believe_the_chip,
        "not_listed": _let_it_in,
        "token_unknown": _another_token,
        "token_used": _another_token,
        "token_expired": _another_token,
        "token_other_name": _another_token,
        "name_taken": _free_the_name,
    }
)

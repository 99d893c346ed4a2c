"""Whose word on a chip is taken in this state folder: the CAs of its own software TPMs, and what the operator put beside.

    swtpm/ca/ swtpm-2/ca/ ..        made with the state's own software TPMs; each signs for no other
    trust/chips/hardware/*.pem      roots of chip makers: keys under them may call themselves hardware
    trust/chips/software/*.pem      CAs of software TPMs that run elsewhere
    trust/chips/between/*.pem       certificates between a chip's and its maker's root, where the chip does not bring them

No maker's root is built in: which makers are believed is a decision, and this folder is where it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bus.errors import VaultError
from bus.hub.state import State
from bus.trust.endorsement import Roots

OWN_ROOT: Final = "swtpm-localca-rootca-cert.pem"
OWN_ISSUER: Final = "issuercert.pem"


def believed_chips(state: State) -> Roots:
    """Blocks. Raises VaultError("damaged") for a file that holds no certificate."""
    own, beside = sorted(state.folder.glob(f"{state.swtpm.name}*/ca")), state.trust / "chips"
    return Roots.of(
        hardware=_in_folder(beside / "hardware"),
        software=[*_of_each(own, OWN_ROOT), *_in_folder(beside / "software")],
        intermediates=[*_of_each(own, OWN_ISSUER), *_in_folder(beside / "between")],
    )


def _of_each(folders: Sequence[Path], name: str) -> Iterator[bytes]:
    for folder in folders:
        yield from _in_file(folder / name)


def _in_folder(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.pem")):
        yield from _in_file(path)


def _in_file(path: Path) -> list[bytes]:
    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        text = f"{path} holds no certificate in PEM that can be read ({error}): take it away, or put the right one there"
        raise VaultError("damaged", text, path=str(path)) from error

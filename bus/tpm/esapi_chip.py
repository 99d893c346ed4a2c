"""An open TPM: its connection, our primary key, the loaded keys, and the sessions that keep secrets off the wire.

One thread. Wrapped blobs are the truth; loaded handles and saved contexts are a cache (`slots`). Two kinds of session, both
salted to our primary: the library's, with its parameters encrypted, for what carries secrets; and one of our own for
signatures, because those are what a TPM does all day (`hmac_session` says why). Both are renewed now and then: a kernel
resource manager loses track of a session that lives through some 65,000 commands.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_PT,
    TPM2_PT_HR,
    TPM2_SE,
    TPM2_SU,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_SESSION,
    TPMS_CONTEXT,
    TPMT_SYM_DEF,
    TSS2_Exception,
)
from tpm2_pytss.tsskey import TSSPrivKey

from bus.errors import TpmRefusedError, TpmUnavailableError, VaultError
from bus.tpm import hmac_session
from bus.tpm.esapi_types import FORGETTING, HASHES, primary_template, translate
from bus.tpm.hmac_session import HmacSession, ResponseError
from bus.tpm.interface import WrappedKey, name_of
from bus.tpm.slots import Moves, Slots

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

SESSION_USES: Final = 5_000
_NOTHING_THERE: Final = 0x18B
_TRY_AGAIN: Final = frozenset({0x908, 0x90A, 0x922})
"""YIELDED, TESTING, RETRY: the same bytes again, as the library does it."""
_TRIES: Final = 5
_KINDS_OF_HANDLES: Final = (0x80000000, 0x02000000, 0x03000000)
"""Where the numbers of transient objects, of loaded and of saved sessions begin."""


class Chip:
    """Commands run inside `run`, which cleans up behind them, recovers once from a full chip, and translates errors."""

    def __init__(self, tcti: str, *, primary_handle: int) -> None:
        """Open the TPM and make sure of our primary key.

        Raises TpmUnavailableError if it does not answer, TpmRefusedError("foreign_primary") if somebody else's key is there.
        """
        self.handle = primary_handle
        self.recoveries = 0
        self._session: ESYS_TR | None = None
        self._session_uses = 0
        self._signing: HmacSession | None = None
        try:
            self.esys = ESAPI(tcti)
        except (TSS2_Exception, RuntimeError) as error:
            raise TpmUnavailableError("no_tpm", f"no TPM answers at {tcti}: {error}") from error
        try:
            with suppress(TSS2_Exception):  # 0x100: it was started already
                self.esys.startup(TPM2_SU.CLEAR)
            self._flush_strangers()
            places = max(self.property(int(TPM2_PT_HR.TRANSIENT_MIN)), self.property(int(TPM2_PT_HR.TRANSIENT_AVAIL)), 3)
            moves = Moves(self.esys.context_save, self.esys.context_load, self.esys.flush_context)
            self.slots: Slots[bytes, ESYS_TR, TPMS_CONTEXT] = Slots(moves, places=places)
            self.hashes = self._read_hashes()
            self.primary = self._open_primary()
        except TSS2_Exception as error:
            self.esys.close()
            raise translate(error) from error
        except BaseException:
            self.esys.close()
            raise

    def run(self, command: Callable[[], Result]) -> Result:
        """Run what talks to the TPM. A full chip is emptied of all that is ours, and asked once more; nothing else is repeated."""
        try:
            return command()
        except TpmRefusedError:
            self._forget_sessions()
            raise
        except (TSS2_Exception, ResponseError) as error:
            self._forget_sessions()
            if error.rc not in FORGETTING:
                raise translate(error) from error
            self.recoveries += 1
            _log.warning("TPM response 0x%x: dropping all loaded keys and sessions, and trying once more", error.rc)
        try:
            self.slots.forget_all()
            self._flush_strangers()
            return command()
        except (TSS2_Exception, ResponseError) as error:
            raise translate(error) from error

    def close(self) -> None:
        with suppress(TSS2_Exception):
            self.slots.flush_all()
            self._forget_sessions()
        self.esys.close()

    # -- keys ------------------------------------------------------------------------------------------------------------------

    def load(self, key: WrappedKey, auth: bytes, *, beside: int = 0) -> ESYS_TR:
        """The key's handle, ready to be used with its auth value, with `beside` places left free."""

        def load() -> ESYS_TR:
            try:
                parsed = TSSPrivKey.from_pem(key.pem)
                private, public = TPM2B_PRIVATE(bytes(parsed.private)), TPM2B_PUBLIC.unmarshal(key.public)[0]
            except (ValueError, TypeError, TSS2_Exception) as error:
                raise VaultError(
                    "damaged", "a key file of the vault is not what was written: restore it from a backup", path=""
                ) from error
            return self.esys.load(self.primary, private, public)

        handle = self.slots.get(key.public, load, beside=beside)
        self.esys.tr_set_auth(handle, auth)
        return handle

    def authorized(self, code: int, key: WrappedKey, parameters: bytes, *, auth: bytes) -> bytes:
        """One command on one key in our own session: proves the auth value without sending it. Gives the answer's parameters."""
        handle = self.load(key, auth)
        session = self._signing_session()
        name = name_of(key.public)  # the library would hash it anew, at half the cost of the signature itself
        number = int(self.esys.tr_get_tpm_handle(handle))
        command, nonce = session.command(code, number, name, parameters, auth=auth)
        return session.parse(code, self._exchange(command), nonce, auth=auth)

    def _exchange(self, command: bytes) -> bytes:
        answer = b""
        for _ in range(_TRIES):
            self.esys.tcti.transmit(command)
            answer = self.esys.tcti.receive()
            if hmac_session.response_code(answer) not in _TRY_AGAIN:
                break
        return answer

    # -- sessions --------------------------------------------------------------------------------------------------------------

    def secret_session(self, attributes: TPMA_SESSION) -> ESYS_TR:
        """The library's salted session, doing for the next command what `attributes` say."""
        if self._session is None or self._session_uses >= SESSION_USES:
            self._end(self._session)
            self._session, self._session_uses = self.start_session(TPM2_SE.HMAC, TPMA_SESSION(0)), 0
        self._session_uses += 1
        self.esys.trsess_set_attributes(self._session, attributes | TPMA_SESSION.CONTINUESESSION)
        return self._session

    def start_session(self, kind: TPM2_SE, attributes: TPMA_SESSION, *, salted: bool = True) -> ESYS_TR:
        if salted:
            self._room_for_primary()
        session = self.esys.start_auth_session(
            tpm_key=self.primary if salted else ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric="aes128cfb" if salted else TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),  # AES-256 is refused by some chips
            auth_hash=TPM2_ALG.SHA256,
        )
        self.esys.trsess_set_attributes(session, attributes | TPMA_SESSION.CONTINUESESSION)
        return session

    def _signing_session(self) -> HmacSession:
        if self._signing is not None and self._signing.uses < SESSION_USES:
            return self._signing
        self._flush_number(self._signing)
        self._room_for_primary()
        ephemeral = ec.generate_private_key(ec.SECP256R1())
        opening = hmac_session.opening(self.handle, self._primary_public(), ephemeral=ephemeral, nonce=os.urandom(32))
        self._signing = opening.finish(self._exchange(opening.command), nonce=os.urandom)
        return self._signing

    def _room_for_primary(self) -> None:
        """The persistent primary takes a place for the length of a command that names it."""
        if len(self.slots.loaded) >= self.slots.places:
            self.slots.make_room(1)

    def _forget_sessions(self) -> None:
        """After an error, whatever it was: what the two ends of a session believe may differ now."""
        self._end(self._session)
        self._flush_number(self._signing)
        self._session = self._signing = None

    def _end(self, session: ESYS_TR | None) -> None:
        if session is not None:
            with suppress(TSS2_Exception):
                self.esys.flush_context(session)

    def _flush_number(self, session: HmacSession | None) -> None:
        if session is not None:
            with suppress(TSS2_Exception, ResponseError, TpmRefusedError):
                self._exchange(struct.pack(">HIII", 0x8001, 14, 0x165, session.handle))

    # -- the primary -----------------------------------------------------------------------------------------------------------

    def _open_primary(self) -> ESYS_TR:
        try:
            present: ESYS_TR | None = self.esys.tr_from_tpmpublic(self.handle)
        except TSS2_Exception as error:
            if error.rc != _NOTHING_THERE:
                raise
            present = None
        wanted, *_ = self.esys.create_primary(TPM2B_SENSITIVE_CREATE(), primary_template())
        try:
            if present is None:
                return self.esys.evict_control(ESYS_TR.OWNER, wanted, self.handle)
            if bytes(self.esys.tr_get_name(present)) == bytes(self.esys.tr_get_name(wanted)):
                return present
            name = bytes(self.esys.tr_get_name(present)).hex()
        finally:
            self.esys.flush_context(wanted)
        raise TpmRefusedError(
            "foreign_primary",
            f"the object at 0x{self.handle:x} is not the standard storage root key (its Name is {name}): "
            "leave it alone, and set `tpm: {handle: 0x81000002}` or another free handle in the policy",
        )

    def _primary_public(self) -> ec.EllipticCurvePublicKey:
        public, *_ = self.esys.read_public(self.primary)
        if name_of(public.marshal()) != bytes(self.esys.tr_get_name(self.primary)):
            raise TpmRefusedError("tampered", "our primary key is not the one that it was a moment ago: something sits in between")
        point = public.publicArea.unique.ecc
        x, y = int.from_bytes(bytes(point.x), "big"), int.from_bytes(bytes(point.y), "big")
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()

    # -- what the chip has -----------------------------------------------------------------------------------------------------

    def property(self, which: int) -> int:
        _, data = self.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, which, 1)
        return next((int(item.value) for item in data.data.tpmProperties if int(item.property) == which), 0)

    def text(self, first: int, count: int = 1) -> str:
        """Properties that are four letters each."""
        raw = b"".join(self.property(first + place).to_bytes(4, "big") for place in range(count))
        return raw.decode("ascii", "replace").replace("\0", "").strip()

    def has_curve(self, curve: int) -> bool:
        _, data = self.esys.get_capability(TPM2_CAP.ECC_CURVES, 0, 64)
        return int(curve) in {int(item) for item in data.data.eccCurves}

    def description(self) -> str:
        return f"{self.text(int(TPM2_PT.MANUFACTURER))} {self.text(int(TPM2_PT.FIXED) + 6, 4)}".strip()

    def _read_hashes(self) -> frozenset[str]:
        _, data = self.esys.get_capability(TPM2_CAP.ALGS, 0, 256)
        present = {int(item.alg) for item in data.data.algorithms}
        return frozenset(name for name, algorithm in HASHES.items() if int(algorithm) in present)

    def _flush_strangers(self) -> None:
        """Flush what a client that died has left behind, for want of a resource manager in front of swtpm."""
        for first in _KINDS_OF_HANDLES:
            _, data = self.esys.get_capability(TPM2_CAP.HANDLES, first, 64)
            for number in [int(handle) for handle in data.data.handles]:
                self._exchange(struct.pack(">HIII", 0x8001, 14, 0x165, number))

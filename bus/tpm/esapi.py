"""A real TPM (a chip, or swtpm), through tpm2-pytss: the only file that knows that library.

One ESYS context, used from one thread. Wrapped blobs are the truth; loaded handles and saved contexts are a cache (`slots`).
What is secret on the way to the chip (auth values, what is sealed, what is unsealed, an activated credential) goes through a
session that is salted to our primary key, with its parameters encrypted. That session is renewed now and then: a kernel
resource manager loses track of one that lives through some 65,000 commands.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from bus.errors import TpmRefusedError, TpmUnavailableError, VaultError
from bus.protocol import pss
from bus.protocol.suites import Suite
from bus.tpm.interface import HARDWARE, MAX_SEAL_BYTES, Attested, Endorsement, Facts, Lockout, WrappedKey
from bus.tpm.slots import Moves, Slots

os.environ.setdefault("TSS2_LOG", "all+none")  # read when the library loads: its own chatter on stderr helps nobody

try:
    from tpm2_pytss import (
        ESAPI,
        ESYS_TR,
        TPM2_ALG,
        TPM2_CAP,
        TPM2_ECC,
        TPM2_PT,
        TPM2_PT_HR,
        TPM2_RH,
        TPM2_SE,
        TPM2_ST,
        TPM2_SU,
        TPM2B_DATA,
        TPM2B_ENCRYPTED_SECRET,
        TPM2B_ID_OBJECT,
        TPM2B_PRIVATE,
        TPM2B_PUBLIC,
        TPM2B_SENSITIVE_CREATE,
        TPM2B_SENSITIVE_DATA,
        TPMA_OBJECT,
        TPMA_SESSION,
        TPMS_CONTEXT,
        TPMS_SENSITIVE_CREATE,
        TPMT_RSA_DECRYPT,
        TPMT_SIG_SCHEME,
        TPMT_SIGNATURE,
        TPMT_SYM_DEF,
        TPMT_TK_HASHCHECK,
        TSS2_Exception,
        utils,
    )
    from tpm2_pytss.tsskey import TSSPrivKey
except (ImportError, OSError) as error:
    raise TpmUnavailableError(
        "no_library",
        f"tpm2-pytss does not load ({error}): install libtss2-dev, pkg-config, gcc and python3-dev, then `pip install tpm2-pytss`",
    ) from error

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_OURS: Final = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA
_SIGNING: Final = _OURS | TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.SENSITIVEDATAORIGIN
_PARENT: Final = _OURS | TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.SENSITIVEDATAORIGIN
_HASHES: Final = {
    "sha256": TPM2_ALG.SHA256,
    "sha384": TPM2_ALG.SHA384,
    "sha3-256": TPM2_ALG.SHA3_256,
    "sha3-384": TPM2_ALG.SHA3_384,
}
_LABELS: Final = {32: TPM2_ALG.SHA256, 48: TPM2_ALG.SHA384}
"""ECDSA does not hash, so a chip without SHA-3 signs such a digest under the label of a hash as long: the label is not signed."""
_CURVES: Final = {"ecc256": TPM2_ECC.NIST_P256, "ecc384": TPM2_ECC.NIST_P384}
_EK_KINDS: Final = ("EK-RSA2048", "EK-ECC256", "EK-HIGH-ECC384", "EK-HIGH-RSA3072")
_PCR_BANK: Final = "sha256"

_MEMORY, _SESSIONS, _GAP, _LOCKOUT, _PCR_CHANGED, _POLICY_FAIL = 0x902, 0x903, 0x901, 0x921, 0x128, 0x99D
_FORGETTING: Final = frozenset({_MEMORY, _SESSIONS, _GAP, 0x910, 0x918})
"""Codes after which dropping all handles and sessions and trying once more helps (with REFERENCE_H0 and _S0: a stale handle)."""
_REASONS: Final = {
    _LOCKOUT: ("lockout", "the TPM is in dictionary-attack lockout: wait, or have its owner run `tpm2_dictionarylockout -c`"),
    _POLICY_FAIL: ("policy_fail", "the platform registers (PCRs) are not what they were when this was sealed"),
}
_SESSION_USES: Final = 5_000
_TRANSIENT_FIRST: Final = 0x80000000


class EsapiTpm:
    """A TPM behind a TCTI string such as `device:/dev/tpmrm0` or `swtpm:path=/run/x.sock`."""

    def __init__(self, tcti: str, *, origin: str = HARDWARE, primary_handle: int = 0x81000001) -> None:
        """Open the TPM and make sure of our primary key.

        Raises TpmUnavailableError if it does not answer, TpmRefusedError("foreign_primary") if somebody else's key is there.
        """
        self._tcti, self._origin, self._handle = tcti, origin, primary_handle
        self._session: ESYS_TR | None = None
        self._session_uses = 0
        self._commands = self._recoveries = 0
        try:
            self._esys = ESAPI(tcti)
        except (TSS2_Exception, RuntimeError) as error:
            raise TpmUnavailableError("no_tpm", f"no TPM answers at {tcti}: {error}") from error
        try:
            with suppress(TSS2_Exception):  # 0x100: it was started already
                self._esys.startup(TPM2_SU.CLEAR)
            self._flush_strangers()
            self._slots: Slots[bytes, ESYS_TR, TPMS_CONTEXT] = Slots(
                Moves(self._esys.context_save, self._esys.context_load, self._esys.flush_context), places=self._count_places()
            )
            self._hashes = self._read_hashes()
            self._primary = self._open_primary()
        except TSS2_Exception as error:
            self._esys.close()
            raise _translate(error) from error
        except BaseException:
            self._esys.close()
            raise

    # -- what it is ------------------------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        def read() -> Facts:
            vendor = b"".join(self._property(TPM2_PT.FIXED + 6 + place).to_bytes(4, "big") for place in range(4))
            maker = self._property(TPM2_PT.MANUFACTURER).to_bytes(4, "big")
            firmware = self._property(TPM2_PT.FIXED + 11)
            return Facts(
                description=" ".join(part.rstrip(b"\0 ").decode("ascii", "replace") for part in (maker, vendor)),
                origin=self._origin,
                firmware=f"{firmware >> 16:x}.{firmware & 0xFFFF:x}",
                kinds=frozenset({*(kind for kind, curve in _CURVES.items() if self._has_curve(curve)), "rsa3072"}),
                hashes=self._hashes,
                transient_slots=self._slots.places,
                primary_handle=self._handle,
                primary_name=bytes(self._esys.tr_get_name(self._primary)),
                lockout=Lockout(
                    failed_tries=self._property(TPM2_PT.LOCKOUT_COUNTER),
                    max_tries=self._property(TPM2_PT.MAX_AUTH_FAIL),
                    locked=bool(self._property(TPM2_PT.PERMANENT) & 0x200),
                ),
            )

        return self._run(read)

    def statistics(self) -> Mapping[str, int]:
        slots = self._slots
        return {
            "places": slots.places,
            "loaded": len(slots.loaded),
            "hits": slots.hits,
            "restores": slots.restores,
            "loads": slots.loads,
            "evictions": slots.evictions,
            "recoveries": self._recoveries,
        }

    # -- keys ------------------------------------------------------------------------------------------------------------------

    def create(self, suite: Suite | None, *, auth: bytes) -> WrappedKey:
        template = self._template(suite)

        def make() -> WrappedKey:
            self._slots.make_room(2)
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth))
            private, public, *_ = self._esys.create(self._primary, sensitive, template, session1=self._secret(TPMA_SESSION.DECRYPT))
            pem = TSSPrivKey(private, public, empty_auth=not auth, parent=self._handle).to_pem()
            return WrappedKey(pem, public.marshal(), public.to_der(), self._origin)

        return self._run(make)

    def sign(self, key: WrappedKey, suite: Suite, digest: bytes, *, auth: bytes) -> bytes:
        def sign() -> bytes:
            handle = self._load(key, auth)
            session = self._secret(TPMA_SESSION(0))
            if suite.kind != "rsa3072":
                scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA)
                scheme.details.any.hashAlg = _HASHES[suite.hash] if suite.hash in self._hashes else _LABELS[len(digest)]
                signed = self._esys.sign(handle, digest, scheme, _no_ticket(), session1=session)
                return _fixed_width(suite, signed)
            if suite.hash in self._hashes:
                scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.RSAPSS)
                scheme.details.any.hashAlg = _HASHES[suite.hash]
                signed = self._esys.sign(handle, digest, scheme, _no_ticket(), session1=session)
                return _fixed_width(suite, signed)
            block = pss.encode(digest, bits=3072, hash_name=suite.hash, salt=os.urandom(len(digest)))
            return bytes(self._esys.rsa_decrypt(handle, block, TPMT_RSA_DECRYPT(scheme=TPM2_ALG.NULL), session1=session)).rjust(
                384, b"\0"
            )

        return self._run(sign)

    # -- secrets ---------------------------------------------------------------------------------------------------------------

    def seal(self, secret: bytes, *, pcrs: Sequence[int]) -> bytes:
        if not 0 < len(secret) <= MAX_SEAL_BYTES:
            raise ValueError(
                f"a TPM seals 1 to {MAX_SEAL_BYTES} bytes, not {len(secret)}: seal a key and encrypt the rest under it"
            )

        def seal() -> bytes:
            self._slots.make_room(2)
            attributes = _OURS if pcrs else _OURS | TPMA_OBJECT.USERWITHAUTH
            template = TPM2B_PUBLIC.parse(
                "keyedhash", objectAttributes=attributes, authPolicy=self._pcr_policy(pcrs) if pcrs else b""
            )
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(secret)))
            private, public, *_ = self._esys.create(self._primary, sensitive, template, session1=self._secret(TPMA_SESSION.DECRYPT))
            return _sealed_blob(pcrs, private, public)

        return self._run(seal)

    def unseal(self, blob: bytes) -> bytes:
        pcrs, private, public = _open_sealed_blob(blob)

        def unseal() -> bytes:
            self._slots.make_room(2)
            handle = self._esys.load(self._primary, private, public)
            try:
                if not pcrs:
                    return bytes(self._esys.unseal(handle, session1=self._secret(TPMA_SESSION.ENCRYPT)))
                return self._unseal_with_policy(handle, pcrs)
            finally:
                self._esys.flush_context(handle)

        return self._run(unseal)

    def _unseal_with_policy(self, handle: ESYS_TR, pcrs: Sequence[int]) -> bytes:
        for _ in range(30):  # any PCR extended between policy and use gives PCR_CHANGED: new session, again
            policy = self._start_session(TPM2_SE.POLICY, TPMA_SESSION.ENCRYPT)
            try:
                self._esys.policy_pcr(policy, b"", _selection(pcrs))
                return bytes(self._esys.unseal(handle, session1=policy))
            except TSS2_Exception as error:
                if error.rc != _PCR_CHANGED:
                    raise
            finally:
                self._esys.flush_context(policy)
        raise TpmUnavailableError("pcr_changed", "the platform registers kept changing while a secret was unsealed")

    def _pcr_policy(self, pcrs: Sequence[int]) -> bytes:
        trial = self._start_session(TPM2_SE.TRIAL, TPMA_SESSION(0))
        try:
            self._esys.policy_pcr(trial, b"", _selection(pcrs))
            return bytes(self._esys.policy_get_digest(trial))
        finally:
            self._esys.flush_context(trial)

    # -- attestation -----------------------------------------------------------------------------------------------------------

    def certify(self, key: WrappedKey, attester: WrappedKey, *, qualifying: bytes, auth: bytes, attester_auth: bytes) -> Attested:
        def certify() -> Attested:
            self._slots.make_room(2)
            session = self._secret(TPMA_SESSION(0))
            with_key, with_attester = self._load(key, auth), self._load(attester, attester_auth)
            second = self._start_session(TPM2_SE.HMAC, TPMA_SESSION(0)) if session is not None else None
            try:
                attest, signature = self._esys.certify(
                    with_key, with_attester, TPM2B_DATA(qualifying), _key_scheme(), session1=session, session2=second
                )
            finally:
                self._esys.flush_context(second)
            return Attested(bytes(attest), signature.marshal())

        return self._run(certify)

    def quote(self, pcrs: Sequence[int], attester: WrappedKey, *, qualifying: bytes, attester_auth: bytes) -> Attested:
        def quote() -> Attested:
            handle = self._load(attester, attester_auth)
            attest, signature = self._esys.quote(
                handle,
                _selection(pcrs),
                qualifying_data=TPM2B_DATA(qualifying),
                in_scheme=_key_scheme(),
                session1=self._secret(TPMA_SESSION(0)),
            )
            return Attested(bytes(attest), signature.marshal())

        return self._run(quote)

    def activate(self, attester: WrappedKey, *, credential: bytes, secret: bytes, attester_auth: bytes) -> bytes:
        id_object, used = TPM2B_ID_OBJECT.unmarshal(credential)
        encrypted, used_secret = TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
        if used != len(credential) or used_secret != len(secret):
            raise TpmRefusedError("malformed_credential", "bytes are left over behind a TPM2B_ID_OBJECT or TPM2B_ENCRYPTED_SECRET")

        def activate() -> bytes:
            _, template = self._read_endorsement()
            self._slots.make_room(3)
            endorsement, *_ = self._esys.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
            policy = None
            try:
                handle = self._load(attester, attester_auth, beside=1)
                session = self._secret(TPMA_SESSION.ENCRYPT)
                policy = self._start_session(TPM2_SE.POLICY, TPMA_SESSION(0), salted=False)
                self._esys.policy_secret(ESYS_TR.ENDORSEMENT, policy, nonce_tpm=b"", cp_hash_a=b"", policy_ref=b"", expiration=0)
                return bytes(
                    self._esys.activate_credential(handle, endorsement, id_object, encrypted, session1=session, session2=policy)
                )
            finally:
                if policy is not None:
                    self._esys.flush_context(policy)
                self._esys.flush_context(endorsement)

        return self._run(activate)

    def endorsement(self) -> Endorsement:
        def read() -> Endorsement:
            certificate, template = self._read_endorsement()
            self._slots.make_room(2)
            handle, public, *_ = self._esys.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
            self._esys.flush_context(handle)
            return Endorsement(public.to_der(), public.marshal(), certificate)

        return self._run(read)

    def _read_endorsement(self) -> tuple[bytes, TPM2B_PUBLIC]:
        for kind in _EK_KINDS:
            with suppress(ValueError, utils.NoSuchIndex):
                certificate, template = utils.create_ek_template(kind, utils.NVReadEK(self._esys))
                if certificate or kind == _EK_KINDS[0]:
                    return bytes(certificate or b""), template
        raise TpmRefusedError("no_endorsement", f"the TPM at {self._tcti} has no endorsement key that we know")

    def close(self) -> None:
        with suppress(TSS2_Exception):
            self._slots.flush_all()
            self._end_session()
        self._esys.close()

    # -- the primary -----------------------------------------------------------------------------------------------------------

    def _open_primary(self) -> ESYS_TR:
        """Ours is the TCG's storage root key of ECC P-256: whoever made it from that template, it is the same key."""
        try:
            present: ESYS_TR | None = self._esys.tr_from_tpmpublic(self._handle)
        except TSS2_Exception as error:
            if error.rc != 0x18B:
                raise
            present = None
        wanted, *_ = self._esys.create_primary(TPM2B_SENSITIVE_CREATE(), _primary_template())
        try:
            if present is None:
                return self._esys.evict_control(ESYS_TR.OWNER, wanted, self._handle)
            if bytes(self._esys.tr_get_name(present)) == bytes(self._esys.tr_get_name(wanted)):
                return present
        finally:
            self._esys.flush_context(wanted)
        raise TpmRefusedError(
            "foreign_primary",
            f"the object at 0x{self._handle:x} is not the standard storage root key (Name {bytes(self._esys.tr_get_name(present)).hex()}): "
            "leave it alone and set `tpm: {handle: 0x81000002}` (or another free handle) in the policy",
        )

    # -- how commands run ------------------------------------------------------------------------------------------------------

    def _run(self, command: Callable[[], _Result]) -> _Result:
        self._commands += 1
        try:
            return command()
        except TSS2_Exception as error:
            self._end_session()
            if error.rc not in _FORGETTING:
                raise _translate(error) from error
            self._recoveries += 1
            _log.warning("TPM response 0x%x: dropping all loaded keys and sessions, and trying once more", error.rc)
        try:
            self._slots.forget_all()
            self._flush_strangers()
            return command()
        except TSS2_Exception as error:
            raise _translate(error) from error

    def _load(self, key: WrappedKey, auth: bytes, *, beside: int = 0) -> ESYS_TR:
        def load() -> ESYS_TR:
            try:
                parsed = TSSPrivKey.from_pem(key.pem)
                private, public = TPM2B_PRIVATE(bytes(parsed.private)), TPM2B_PUBLIC.unmarshal(key.public)[0]
            except (ValueError, TypeError, TSS2_Exception) as error:
                raise VaultError(
                    "damaged", "a key file of the vault is not what was written: restore it from a backup", path=""
                ) from error
            return self._esys.load(self._primary, private, public)

        handle = self._slots.get(key.public, load, beside=beside)
        self._esys.tr_set_auth(handle, auth)
        return handle

    def _secret(self, attributes: TPMA_SESSION) -> ESYS_TR:
        """The salted session for the next command, doing for it what `attributes` say."""
        if self._session is not None and self._session_uses >= _SESSION_USES:
            self._end_session()
        if self._session is None:
            self._session, self._session_uses = self._start_session(TPM2_SE.HMAC, TPMA_SESSION(0)), 0
        self._session_uses += 1
        self._esys.trsess_set_attributes(self._session, attributes | TPMA_SESSION.CONTINUESESSION)
        return self._session

    def _start_session(self, kind: TPM2_SE, attributes: TPMA_SESSION, *, salted: bool = True) -> ESYS_TR:
        if salted and len(self._slots.loaded) >= self._slots.places:
            self._slots.make_room(1)  # the persistent primary takes a place for the length of this command
        session = self._esys.start_auth_session(
            tpm_key=self._primary if salted else ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric="aes128cfb" if salted else TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),  # AES-256 is refused by some chips
            auth_hash=TPM2_ALG.SHA256,
        )
        self._esys.trsess_set_attributes(session, attributes | TPMA_SESSION.CONTINUESESSION)
        return session

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(TSS2_Exception):
                self._esys.flush_context(session)

    def _flush_strangers(self) -> None:
        """Flush what a client that died has left behind, for want of a resource manager in front of swtpm."""
        for first in (_TRANSIENT_FIRST, 0x02000000, 0x03000000):  # transient objects, loaded HMAC sessions, saved sessions
            _, data = self._esys.get_capability(TPM2_CAP.HANDLES, first, 64)
            for handle in list(data.data.handles):
                with suppress(TSS2_Exception):
                    self._esys.flush_context(self._esys.tr_from_tpmpublic(handle))

    # -- what the chip has -----------------------------------------------------------------------------------------------------

    def _property(self, which: int) -> int:
        _, data = self._esys.get_capability(TPM2_CAP.TPM_PROPERTIES, which, 1)
        return next((int(item.value) for item in data.data.tpmProperties if int(item.property) == which), 0)

    def _count_places(self) -> int:
        return max(self._property(int(TPM2_PT_HR.TRANSIENT_MIN)), self._property(int(TPM2_PT_HR.TRANSIENT_AVAIL)), 3)

    def _read_hashes(self) -> frozenset[str]:
        _, data = self._esys.get_capability(TPM2_CAP.ALGS, 0, 256)
        present = {int(item.alg) for item in data.data.algorithms}
        return frozenset(name for name, algorithm in _HASHES.items() if int(algorithm) in present)

    def _has_curve(self, curve: int) -> bool:
        _, data = self._esys.get_capability(TPM2_CAP.ECC_CURVES, 0, 64)
        return int(curve) in {int(item) for item in data.data.eccCurves}

    def _template(self, suite: Suite | None) -> TPM2B_PUBLIC:
        if suite is None:
            return TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=_SIGNING | TPMA_OBJECT.RESTRICTED)
        # Bare RSA needs DECRYPT; only where the chip cannot pad with the suite's hash itself.
        bare = suite.kind == "rsa3072" and suite.hash not in self._hashes
        return TPM2B_PUBLIC.parse(suite.kind, objectAttributes=_SIGNING | TPMA_OBJECT.DECRYPT if bare else _SIGNING)


def _primary_template() -> TPM2B_PUBLIC:
    template = TPM2B_PUBLIC.parse("ecc256:null:aes128cfb", objectAttributes=_PARENT)
    template.publicArea.unique.ecc.x = template.publicArea.unique.ecc.y = bytes(32)
    return template


def _no_ticket() -> TPMT_TK_HASHCHECK:
    return TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)


def _fixed_width(suite: Suite, signed: TPMT_SIGNATURE) -> bytes:
    """The wire form. `signed` must be held meanwhile: what pytss gives of its inside points into its memory."""
    if suite.kind == "rsa3072":
        return bytes(signed.signature.rsapss.sig).rjust(suite.signature_bytes, b"\0")
    half = suite.signature_bytes // 2
    r, s = bytes(signed.signature.ecdsa.signatureR), bytes(signed.signature.ecdsa.signatureS)
    return r.rjust(half, b"\0") + s.rjust(half, b"\0")


def _key_scheme() -> TPMT_SIG_SCHEME:
    return TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)


def _selection(pcrs: Sequence[int]) -> str:
    return f"{_PCR_BANK}:{','.join(str(pcr) for pcr in sorted(set(pcrs)))}"


def _sealed_blob(pcrs: Sequence[int], private: TPM2B_PRIVATE, public: TPM2B_PUBLIC) -> bytes:
    """Which PCRs it is bound to (a bitmap), then both halves as the chip gave them."""
    bitmap = sum(1 << pcr for pcr in set(pcrs))
    return bitmap.to_bytes(4, "big") + bytes(public.marshal()) + bytes(private.marshal())


def _open_sealed_blob(blob: bytes) -> tuple[list[int], TPM2B_PRIVATE, TPM2B_PUBLIC]:
    try:
        public, used = TPM2B_PUBLIC.unmarshal(blob[4:])
        private, rest = TPM2B_PRIVATE.unmarshal(blob[4 + used :])
    except TSS2_Exception as error:
        raise TpmRefusedError("malformed_blob", "this is nothing that was sealed here") from error
    if 4 + used + rest != len(blob):
        raise TpmRefusedError("malformed_blob", "bytes are left over behind what was sealed")
    bitmap = int.from_bytes(blob[:4], "big")
    return [pcr for pcr in range(32) if bitmap >> pcr & 1], private, public


def _translate(error: TSS2_Exception) -> TpmRefusedError | TpmUnavailableError:
    """Our error for the library's: unavailable if another try may help, refused if not."""
    rc = int(error.rc)
    if rc & 0xFFFF0000:  # the layers above the chip: no connection, a broken one, a confused context
        return TpmUnavailableError("no_tpm", f"the TPM does not answer: {error}", rc=rc)
    if rc in _REASONS:
        code, text = _REASONS[rc]
        return TpmRefusedError(code, text, rc=rc)
    if int(error.error) in (0x8E, 0xA2):
        return TpmRefusedError(
            "auth_fail", "the TPM refused the key's auth value: the vault's secret is not the one it was made with", rc=rc
        )
    if int(error.error) == 0x9F:
        return VaultError("wrong_tpm", "the key does not belong to this TPM: it was made under another one's primary key", path="")
    if rc in _FORGETTING:
        return TpmUnavailableError(
            "tpm_memory", "the TPM has no room for keys or sessions even after dropping ours: who else uses it?", rc=rc
        )
    return TpmRefusedError("refused", f"the TPM refused: {error}", rc=rc)

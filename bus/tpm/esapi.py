"""A real TPM, a chip or swtpm, through tpm2-pytss. With `esapi_chip` and `esapi_types` the only place that knows that library.

What is secret on its way to the chip (auth values, what is sealed and unsealed, an activated credential) goes through a
session that is salted to our primary key.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_PT,
    TPM2_SE,
    TPM2B_DATA,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPM2B_SENSITIVE_DATA,
    TPMA_OBJECT,
    TPMA_SESSION,
    TPMS_SENSITIVE_CREATE,
    TSS2_Exception,
    utils,
)
from tpm2_pytss.tsskey import TSSPrivKey

from bus.errors import TpmRefusedError, TpmUnavailableError, VaultError
from bus.protocol import pss
from bus.protocol.suites import Suite
from bus.tpm import esapi_types as types
from bus.tpm.esapi_chip import Chip
from bus.tpm.hmac_session import RSA_DECRYPT, SIGN, sized, unsized
from bus.tpm.interface import HARDWARE, MAX_SEAL_BYTES, SOFTWARE_TPM, Attested, Endorsement, Facts, Lockout, WrappedKey

_LABELS: Final = {32: TPM2_ALG.SHA256, 48: TPM2_ALG.SHA384}
"""ECDSA does not hash, so a chip without SHA-3 signs such a digest under the label of a hash as long: the label is not signed."""
_NO_TICKET: Final = struct.pack(">HIH", 0x8024, 0x40000007, 0)
"""TPMT_TK_HASHCHECK of a digest that was made outside the chip."""
_EK_KINDS: Final = ("EK-RSA2048", "EK-ECC256", "EK-HIGH-ECC384", "EK-HIGH-RSA3072")
_SIMULATORS: Final = ("IBM SW", "XCG")
"""How libtpms, swtpm and the reference simulator describe themselves."""
_UNSEAL_TRIES: Final = 30
_IN_LOCKOUT: Final = 0x200


class EsapiTpm:
    """A TPM behind a TCTI string such as `device:/dev/tpmrm0` or `swtpm:path=/run/x.sock`."""

    def __init__(self, tcti: str, *, origin: str = HARDWARE, primary_handle: int = 0x81000001) -> None:
        """Open it. Raises TpmUnavailableError if it does not answer, TpmRefusedError("foreign_primary")."""
        self.tcti = tcti
        self._chip = Chip(tcti, primary_handle=primary_handle)
        # Whatever the way to it looks like: /dev/tpm0 of a virtual machine is such a one too.
        self._origin = SOFTWARE_TPM if self._chip.description().startswith(_SIMULATORS) else origin

    def facts(self) -> Facts:
        chip = self._chip

        def read() -> Facts:
            firmware = chip.property(int(TPM2_PT.FIXED) + 11)
            return Facts(
                description=chip.description(),
                origin=self._origin,
                firmware=f"{firmware >> 16:x}.{firmware & 0xFFFF:x}",
                kinds=frozenset({*(kind for kind, curve in types.CURVES.items() if chip.has_curve(curve)), "rsa3072"}),
                hashes=chip.hashes,
                transient_slots=chip.slots.places,
                primary_handle=chip.handle,
                primary_name=bytes(chip.esys.tr_get_name(chip.primary)),
                lockout=Lockout(
                    failed_tries=chip.property(int(TPM2_PT.LOCKOUT_COUNTER)),
                    max_tries=chip.property(int(TPM2_PT.MAX_AUTH_FAIL)),
                    locked=bool(chip.property(int(TPM2_PT.PERMANENT)) & _IN_LOCKOUT),
                ),
            )

        return chip.run(read)

    def statistics(self) -> Mapping[str, int]:
        slots = self._chip.slots
        return {
            "places": slots.places,
            "loaded": len(slots.loaded),
            "hits": slots.hits,
            "restores": slots.restores,
            "loads": slots.loads,
            "evictions": slots.evictions,
            "recoveries": self._chip.recoveries,
        }

    def close(self) -> None:
        self._chip.close()

    # -- keys ------------------------------------------------------------------------------------------------------------------

    def create(self, suite: Suite | None, *, auth: bytes) -> WrappedKey:
        chip = self._chip
        template = types.key_template(suite, hashes=chip.hashes)

        def make() -> WrappedKey:
            session = chip.secret_session(TPMA_SESSION.DECRYPT)
            chip.slots.make_room(2)
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth))
            private, public, *_ = chip.esys.create(chip.primary, sensitive, template, session1=session)
            pem = TSSPrivKey(private, public, empty_auth=not auth, parent=chip.handle).to_pem()
            return WrappedKey(pem, public.marshal(), public.to_der(), self._origin)

        return chip.run(make)

    def sign(self, key: WrappedKey, suite: Suite, digest: bytes, *, auth: bytes) -> bytes:
        chip = self._chip
        native = suite.hash in chip.hashes
        if suite.kind == "rsa3072" and not native:
            block = pss.encode(digest, bits=3072, hash_name=suite.hash, salt=os.urandom(len(digest)))
            bare = sized(block) + struct.pack(">HH", TPM2_ALG.NULL, 0)
            answer = chip.run(lambda: chip.authorized(RSA_DECRYPT, key, bare, auth=auth))
            return unsized(answer)[0].rjust(suite.signature_bytes, b"\0")
        algorithm = TPM2_ALG.RSAPSS if suite.kind == "rsa3072" else TPM2_ALG.ECDSA
        label = types.HASHES[suite.hash] if native else _LABELS[len(digest)]
        parameters = sized(digest) + struct.pack(">HH", algorithm, label) + _NO_TICKET
        answer = chip.run(lambda: chip.authorized(SIGN, key, parameters, auth=auth))
        first, rest = unsized(answer[4:])  # a TPMT_SIGNATURE: algorithm, hash, then what the algorithm makes
        if suite.kind == "rsa3072":
            return first.rjust(suite.signature_bytes, b"\0")
        half = suite.signature_bytes // 2
        return first.rjust(half, b"\0") + unsized(rest)[0].rjust(half, b"\0")

    # -- secrets ---------------------------------------------------------------------------------------------------------------

    def seal(self, secret: bytes, *, pcrs: Sequence[int]) -> bytes:
        if not 0 < len(secret) <= MAX_SEAL_BYTES:
            raise ValueError(
                f"a TPM seals 1 to {MAX_SEAL_BYTES} bytes, not {len(secret)}: seal a key and encrypt the rest under it"
            )
        chip = self._chip

        def seal() -> bytes:
            session = chip.secret_session(TPMA_SESSION.DECRYPT)
            chip.slots.make_room(2)
            # With PCRs, USERWITHAUTH must be clear: an empty password would open it else.
            attributes = types.OURS if pcrs else types.OURS | TPMA_OBJECT.USERWITHAUTH
            template = TPM2B_PUBLIC.parse(
                "keyedhash", objectAttributes=attributes, authPolicy=self._pcr_policy(pcrs) if pcrs else b""
            )
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(secret)))
            private, public, *_ = chip.esys.create(chip.primary, sensitive, template, session1=session)
            return types.sealed_blob(pcrs, private, public)

        return chip.run(seal)

    def unseal(self, blob: bytes) -> bytes:
        pcrs, private, public = types.open_sealed_blob(blob)
        chip = self._chip

        def unseal() -> bytes:
            chip.slots.make_room(2)
            handle = chip.esys.load(chip.primary, private, public)
            try:
                if not pcrs:
                    return bytes(chip.esys.unseal(handle, session1=chip.secret_session(TPMA_SESSION.ENCRYPT)))
                return self._unseal_with_policy(handle, pcrs)
            finally:
                chip.esys.flush_context(handle)

        return chip.run(unseal)

    def _unseal_with_policy(self, handle: ESYS_TR, pcrs: Sequence[int]) -> bytes:
        chip = self._chip
        for _ in range(_UNSEAL_TRIES):  # any PCR extended between policy and use gives PCR_CHANGED: new session, again
            policy = chip.start_session(TPM2_SE.POLICY, TPMA_SESSION.ENCRYPT)
            try:
                chip.esys.policy_pcr(policy, b"", types.selection(pcrs))
                return bytes(chip.esys.unseal(handle, session1=policy))
            except TSS2_Exception as error:
                if error.rc != types.PCR_CHANGED:
                    raise
            finally:
                chip.esys.flush_context(policy)
        raise TpmUnavailableError("pcr_changed", "the platform registers kept changing while a secret was unsealed")

    def _pcr_policy(self, pcrs: Sequence[int]) -> bytes:
        chip = self._chip
        trial = chip.start_session(TPM2_SE.TRIAL, TPMA_SESSION(0), salted=False)
        try:
            chip.esys.policy_pcr(trial, b"", types.selection(pcrs))
            return bytes(chip.esys.policy_get_digest(trial))
        finally:
            chip.esys.flush_context(trial)

    # -- attestation -----------------------------------------------------------------------------------------------------------

    def certify(self, key: WrappedKey, attester: WrappedKey, *, qualifying: bytes, auth: bytes, attester_auth: bytes) -> Attested:
        chip = self._chip

        def certify() -> Attested:
            first = chip.secret_session(TPMA_SESSION(0))
            second = chip.start_session(TPM2_SE.HMAC, TPMA_SESSION(0))
            try:
                chip.slots.make_room(2)
                subject, voucher = chip.load(key, auth), chip.load(attester, attester_auth)
                attest, signature = chip.esys.certify(
                    subject, voucher, TPM2B_DATA(qualifying), types.key_scheme(), session1=first, session2=second
                )
            finally:
                chip.esys.flush_context(second)
            return Attested(bytes(attest), signature.marshal())

        return chip.run(certify)

    def quote(self, pcrs: Sequence[int], attester: WrappedKey, *, qualifying: bytes, attester_auth: bytes) -> Attested:
        chip = self._chip

        def quote() -> Attested:
            session = chip.secret_session(TPMA_SESSION(0))
            attest, signature = chip.esys.quote(
                chip.load(attester, attester_auth),
                types.selection(pcrs),
                qualifying_data=TPM2B_DATA(qualifying),
                in_scheme=types.key_scheme(),
                session1=session,
            )
            return Attested(bytes(attest), signature.marshal())

        return chip.run(quote)

    def activate(self, attester: WrappedKey, *, credential: bytes, secret: bytes, attester_auth: bytes) -> bytes:
        chip = self._chip
        try:
            id_object, used = TPM2B_ID_OBJECT.unmarshal(credential)
            encrypted, used_secret = TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
        except TSS2_Exception as error:
            raise TpmRefusedError("malformed_credential", "this is no TPM2B_ID_OBJECT with its TPM2B_ENCRYPTED_SECRET") from error
        if used != len(credential) or used_secret != len(secret):
            raise TpmRefusedError("malformed_credential", "bytes are left over behind a TPM2B_ID_OBJECT or TPM2B_ENCRYPTED_SECRET")

        def activate() -> bytes:
            _, template = self._read_endorsement()
            session = chip.secret_session(TPMA_SESSION.ENCRYPT)
            chip.slots.make_room(3)
            endorsement, *_ = chip.esys.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
            policy = None
            try:
                handle = chip.load(attester, attester_auth, beside=1)
                policy = chip.start_session(TPM2_SE.POLICY, TPMA_SESSION(0), salted=False)
                chip.esys.policy_secret(ESYS_TR.ENDORSEMENT, policy, nonce_tpm=b"", cp_hash_a=b"", policy_ref=b"", expiration=0)
                return bytes(
                    chip.esys.activate_credential(handle, endorsement, id_object, encrypted, session1=session, session2=policy)
                )
            finally:
                if policy is not None:
                    chip.esys.flush_context(policy)
                chip.esys.flush_context(endorsement)

        try:
            return chip.run(activate)
        except VaultError as error:  # what it means of a key file, the TPM says of a credential with the same response code
            reason = "this credential was not made for this TPM's endorsement key and attestation key, or it was changed on its way"
            raise TpmRefusedError("wrong_credential", reason, rc=error.rc) from error

    def endorsement(self) -> Endorsement:
        chip = self._chip

        def read() -> Endorsement:
            certificate, template = self._read_endorsement()
            chip.slots.make_room(2)
            handle, public, *_ = chip.esys.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
            chip.esys.flush_context(handle)
            return Endorsement(public.to_der(), public.marshal(), certificate)

        return chip.run(read)

    def _read_endorsement(self) -> tuple[bytes, TPM2B_PUBLIC]:
        """The certificate (empty if there is none) and the template of the first endorsement key that this chip has."""
        for kind in _EK_KINDS:
            with suppress(ValueError, utils.NoSuchIndex):
                certificate, template = utils.create_ek_template(kind, utils.NVReadEK(self._chip.esys))
                if certificate:
                    return bytes(certificate), template
        _, template = utils.create_ek_template(_EK_KINDS[0], utils.NVReadEK(self._chip.esys))
        return b"", template

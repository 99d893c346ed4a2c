"""The TPM library's own types: what we ask it to make, and what its errors mean to us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tpm2_pytss import (
    TPM2_ALG,
    TPM2_ECC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMT_SIG_SCHEME,
    TSS2_Exception,
)

from bus.errors import TpmRefusedError, TpmUnavailableError, VaultError
from bus.protocol.suites import Suite
from bus.tpm.hmac_session import ResponseError

OURS: Final = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA
SIGNING: Final = OURS | TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.SENSITIVEDATAORIGIN
PARENT: Final = OURS | TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.SENSITIVEDATAORIGIN
HASHES: Final = {
    "sha256": TPM2_ALG.SHA256,
    "sha384": TPM2_ALG.SHA384,
    "sha3-256": TPM2_ALG.SHA3_256,
    "sha3-384": TPM2_ALG.SHA3_384,
}
CURVES: Final = {"ecc256": TPM2_ECC.NIST_P256, "ecc384": TPM2_ECC.NIST_P384}
PCR_BANK: Final = "sha256"

MEMORY, SESSIONS, GAP, LOCKOUT, PCR_CHANGED, POLICY_FAIL = 0x902, 0x903, 0x901, 0x921, 0x128, 0x99D
_HANDLES_USED_UP: Final = (0x905, 0x906)
_STALE: Final = (0x910, 0x911, 0x912, 0x918, 0x919, 0x91A)
"""REFERENCE_H0 to _H2 and _S0 to _S2: another client has flushed what is ours."""
FORGETTING: Final = frozenset({MEMORY, SESSIONS, GAP, *_HANDLES_USED_UP, *_STALE})
"""Codes after which dropping all handles and sessions and trying once more helps."""
_REASONS: Final = {
    LOCKOUT: ("lockout", "the TPM is in dictionary-attack lockout: wait, or have its owner run `tpm2_dictionarylockout -c`"),
    POLICY_FAIL: ("policy_fail", "the platform registers (PCRs) are not what they were when this was sealed"),
}


def key_template(suite: Suite | None, *, hashes: frozenset[str]) -> TPM2B_PUBLIC:
    """What to ask of a chip that has these hashes; without a suite, an attestation key."""
    if suite is None:
        return TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=SIGNING | TPMA_OBJECT.RESTRICTED)
    # Bare RSA needs DECRYPT; only where the chip cannot pad with the suite's hash itself.
    bare = suite.kind == "rsa3072" and suite.hash not in hashes
    return TPM2B_PUBLIC.parse(suite.kind, objectAttributes=SIGNING | TPMA_OBJECT.DECRYPT if bare else SIGNING)


def primary_template() -> TPM2B_PUBLIC:
    """The TCG's storage root key of ECC P-256: whoever makes it in the owner hierarchy of one chip gets the same key."""
    template = TPM2B_PUBLIC.parse("ecc256:null:aes128cfb", objectAttributes=PARENT)
    template.publicArea.unique.ecc.x = template.publicArea.unique.ecc.y = bytes(32)
    return template


def key_scheme() -> TPMT_SIG_SCHEME:
    """The scheme that the key itself names."""
    return TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)


def selection(pcrs: Sequence[int]) -> str:
    return f"{PCR_BANK}:{','.join(str(pcr) for pcr in sorted(set(pcrs)))}"


def sealed_blob(pcrs: Sequence[int], private: TPM2B_PRIVATE, public: TPM2B_PUBLIC) -> bytes:
    """Which PCRs it is bound to (a bitmap), then both halves as the chip gave them."""
    bitmap = sum(1 << pcr for pcr in set(pcrs))
    return bitmap.to_bytes(4, "big") + bytes(public.marshal()) + bytes(private.marshal())


def open_sealed_blob(blob: bytes) -> tuple[list[int], TPM2B_PRIVATE, TPM2B_PUBLIC]:
    try:
        public, used = TPM2B_PUBLIC.unmarshal(blob[4:])
        private, rest = TPM2B_PRIVATE.unmarshal(blob[4 + used :])
    except TSS2_Exception as error:
        raise TpmRefusedError("malformed_blob", "this is nothing that was sealed here") from error
    if 4 + used + rest != len(blob):
        raise TpmRefusedError("malformed_blob", "bytes are left over behind what was sealed")
    bitmap = int.from_bytes(blob[:4], "big")
    return [pcr for pcr in range(32) if bitmap >> pcr & 1], private, public


def translate(error: TSS2_Exception | ResponseError) -> TpmRefusedError | TpmUnavailableError:
    """Our error for the library's: unavailable if another try may help, refused if not."""
    rc, text = int(error.rc), str(error)
    if rc & 0xFFFF0000:  # the layers above the chip: no connection, a broken one, a confused context
        return TpmUnavailableError("no_tpm", f"the TPM does not answer: {text}", rc=rc)
    if rc in _REASONS:
        code, reason = _REASONS[rc]
        return TpmRefusedError(code, reason, rc=rc)
    if rc in FORGETTING:
        reason = "the TPM has no room for keys or sessions even after dropping ours: who else uses it?"
        return TpmUnavailableError("tpm_memory", reason, rc=rc)
    error = rc & 0xBF if rc & 0x80 else rc  # format one: without the number of the handle, parameter or session
    if error in (0x8E, 0xA2):
        reason = "the TPM refused the key's auth value: the vault's secret is not the one that it was made with"
        return TpmRefusedError("auth_fail", reason, rc=rc)
    if error == 0x9F:
        return VaultError("wrong_tpm", "the key does not belong to this TPM: it was made under another one's primary key", path="")
    return TpmRefusedError("refused", f"the TPM refused: {text}", rc=rc)

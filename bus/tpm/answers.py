"""What the TPM service does for each command: one short function a verb, from values to values."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from bus.errors import RemoteProtocolError, TpmRefusedError
from bus.protocol.tpm_structures import EncryptedSecret, IdObject
from bus.tpm.interface import Attested, Priority, TpmEngine
from bus.tpm.wire import KEYS_IN_A_PAGE, VERSION

Fields = Mapping[str, Any]
_KEY: Final = re.compile(r"[A-Z][A-Z0-9]{0,31}(\.[1-9][0-9]{0,8})?", re.ASCII)


class Answers:
    """The commands over one engine."""

    def __init__(self, engine: TpmEngine) -> None:
        self._engine = engine
        self._answers: Mapping[str, Callable[[Fields], Awaitable[Fields]]] = {
            "ping": self._ping,
            "getEK": self._get_ek,
            "getAttestationData": self._get_attestation_data,
            "activateCredential": self._activate_credential,
            "endorsement": self._endorsement,
            "attestationKey": self._attestation_key,
            "signMany": self._sign_many,
            "create": self._create,
            "rotate": self._rotate,
            "seal": self._seal,
            "unseal": self._unseal,
            "certify": self._certify,
            "quote": self._quote,
            "measure": self._measure,
            "facts": self._facts,
            "statistics": self._statistics,
        }

    async def answer(self, command: str, fields: Fields, *, sees: Callable[[str], bool]) -> Fields:
        """`sees` tells of which agents the caller may know the keys."""
        if command == "keys":
            return await self._keys(fields["after"], sees)
        return await self._answers[command](fields)

    async def _ping(self, _: Fields) -> Fields:
        return {"version": VERSION}

    async def _get_ek(self, fields: Fields) -> Fields:
        found = await self._engine.endorsement(beside=_beside(fields))
        return {"ek_public": found.spki, "ek_cert": found.certificate}

    async def _get_attestation_data(self, fields: Fields) -> Fields:
        beside = _beside(fields)
        found, attester = await self._engine.endorsement(beside=beside), await self._engine.attestation_key(beside=beside)
        return {"ek_pub": found.spki, "ek_cert": found.certificate, "aik_name": attester.name}

    async def _activate_credential(self, fields: Fields) -> Fields:
        blob = fields["credential_blob"]
        credential = IdObject(fields["hmac"], fields["enc"]).encode() if blob is None else blob
        secret = fields["encrypted_secret"]
        try:
            IdObject.parse(credential)
            EncryptedSecret.parse(secret)
        except RemoteProtocolError as error:
            raise TpmRefusedError("malformed_credential", f"this is no credential: {error}") from error
        return {"decrypted_secret": await self._engine.activate(credential, secret, beside=_beside(fields))}

    async def _endorsement(self, fields: Fields) -> Fields:
        found = await self._engine.endorsement(beside=_beside(fields))
        return {"spki": found.spki, "public": found.public, "certificate": found.certificate}

    async def _attestation_key(self, fields: Fields) -> Fields:
        found = await self._engine.attestation_key(beside=_beside(fields))
        return {"spki": found.spki, "public": found.public, "name": found.name}

    async def _sign_many(self, fields: Fields) -> Fields:
        key, contents = _agents_key(fields["key"]), fields["contents"]
        priority = fields["priority"] if fields["priority"] is not None else Priority.NORMAL
        proofs = await self._engine.sign_many(key, fields["purpose"], contents, signer=fields["signer"], priority=priority)
        return {"batches": proofs}

    async def _create(self, fields: Fields) -> Fields:
        return {"key": await self._engine.create(fields["name"], fields["suite"], origin=fields["origin"])}

    async def _rotate(self, fields: Fields) -> Fields:
        return {"key": await self._engine.rotate(fields["name"], keep_until_ms=fields["keep_until_ms"], suite=fields["suite"])}

    async def _keys(self, after: str | None, sees: Callable[[str], bool]) -> Fields:
        found = sorted((info for info in await self._engine.keys() if sees(info.name)), key=lambda info: info.id)
        rest = [info for info in found if after is None or info.id > after]
        return {"keys": rest[:KEYS_IN_A_PAGE], "more": len(rest) > KEYS_IN_A_PAGE}

    async def _seal(self, fields: Fields) -> Fields:
        pcrs, origin = fields["pcrs"] or (), fields["origin"]
        return {"blob": await self._engine.seal(fields["secret"], pcrs=pcrs, origin=origin, beside=_beside(fields))}

    async def _unseal(self, fields: Fields) -> Fields:
        return {"secret": await self._engine.unseal(fields["blob"], origin=fields["origin"])}

    async def _certify(self, fields: Fields) -> Fields:
        return _attested(await self._engine.certify(_agents_key(fields["key"]), qualifying=fields["qualifying"]))

    async def _quote(self, fields: Fields) -> Fields:
        return _attested(await self._engine.quote(fields["pcrs"], qualifying=fields["qualifying"], beside=_beside(fields)))

    async def _measure(self, fields: Fields) -> Fields:
        return {"timing": await self._engine.measure(fields["suite"])}

    async def _facts(self, fields: Fields) -> Fields:
        return {"facts": await self._engine.facts(beside=_beside(fields))}

    async def _statistics(self, _: Fields) -> Fields:
        return {"statistics": await self._engine.statistics()}


def _agents_key(key: str) -> str:
    """The attestation key lies in the same vault, and is for nobody to name."""
    if _KEY.fullmatch(key) is None:
        raise TpmRefusedError("unknown_key", f"{key!r} is no key of an agent: NAME, or NAME.GENERATION for an older one")
    return key


def _beside(fields: Fields) -> str | None:
    return None if fields["beside"] is None else _agents_key(fields["beside"])


def _attested(found: Attested) -> Fields:
    return {"attest": found.attest, "signature": found.signature}

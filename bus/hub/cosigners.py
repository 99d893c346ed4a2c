"""Agents' ML-DSA keys, for topics where policy wants a second signature (`cosign`): made, sealed, opened, and vouched for.

    STATE/cosign/NAME.json      the key's seed, sealed by the TPM (or the software keystore, where there is none); made once

No TPM signs ML-DSA, so the key is in this process's memory while its agent is open. Readers take it because the trust statement
names its hash. Whoever has the authority writes that down: this hub, or the hub of this folder. An agent whose role may publish on
no such topic has no such key: it would make its papers longer for nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from anyio import to_thread

from bus.errors import TpmRefusedError, VaultError
from bus.identity import durable
from bus.identity.ml_dsa import CosigningKey, generate
from bus.policy import Policy
from bus.protocol import cosign
from bus.protocol.topics import intersection
from bus.tpm.interface import TpmEngine

Vouch = Callable[[str, bytes], Awaitable[None]]
"""From a name and the SHA-256 of its key to a trust statement that lists it."""
_MAX_BYTES = 16_384


def needs_cosigner(policy: Policy, name: str) -> bool:
    """Whether this agent may publish somewhere where two signatures are wanted."""
    asking = [rule.match.text for rule in policy.topics if rule.cosign]
    return any(intersection(pattern.text, match) for pattern in policy.role_of(name).publish for match in asking)


@dataclass(slots=True, eq=False)
class Cosigners:
    """Of one state folder, with its engine open. `keys` is what signs: those of agents that were opened here."""

    folder: Path
    engine: TpmEngine
    vouch: Vouch | None
    """None: nobody here can write down a key that is new; one that is listed already serves."""
    keys: dict[str, CosigningKey] = field(repr=False)

    async def of(self, name: str, policy: Policy) -> bytes:
        """The public key to go into an agent's papers, vouched for; empty where it needs none. Raises VaultError, TpmError."""
        if not needs_cosigner(policy, name):
            return b""
        if name not in self.keys:
            self.keys[name] = await self._opened(name)
        public = self.keys[name].public
        if self.vouch is not None:
            await self.vouch(name, cosign.key_hash(public))
        return public

    async def _opened(self, name: str) -> CosigningKey:
        place = self.folder / f"{name}.json"
        data = await to_thread.run_sync(lambda: durable.read(place, longest=_MAX_BYTES))
        if data is None:
            origin = (await self.engine.facts()).origin
            sealed = await self.engine.seal(generate().seed, origin=origin, beside=name)
            made = json.dumps({"version": 1, "origin": origin, "sealed": b64encode(sealed).decode()})
            data = await to_thread.run_sync(_kept, place, made.encode())
        try:
            document = json.loads(data)
            seed = await self.engine.unseal(b64decode(document["sealed"], validate=True), origin=document["origin"])
            return CosigningKey.from_seed(seed)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = f"{place} holds no ML-DSA key: restore it, or take it away, and its agent gets another"
            raise VaultError("damaged", text, path=str(place)) from error
        except TpmRefusedError as error:
            if error.code not in ("wrong_tpm", "wrong_origin", "malformed_blob"):
                raise
            text = f"this TPM did not seal {place}: take it away, and its agent gets another"
            raise VaultError("wrong_tpm", text, path=str(place)) from error


def _kept(place: Path, data: bytes) -> bytes:
    """What lies there then: of two processes that come at once, the first one's."""
    durable.make_folder(place.parent)
    mine = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    durable.replace(mine, data)
    try:
        os.link(mine, place)
    except FileExistsError:
        pass
    except OSError as error:
        raise durable.disk_error(error, place) from error
    finally:
        mine.unlink(missing_ok=True)
    return durable.read(place, longest=_MAX_BYTES) or b""

"""The authority of a trust domain: it certifies agents and brokers, revokes them, and signs policy and trust statements.

`open_authority` opens the one of a state folder, or makes it. No other process may have it open at the same time.
"""

from bus.identity.authority.issue import TRUST_NAME, Authority, Holder
from bus.identity.authority.keys import Passphrase, Protection, TpmSeal
from bus.identity.authority.opening import change_protection, is_there, open_authority
from bus.identity.authority.signers import PolicySignature, StatementSignature, generate_root_key

__all__ = [
    "TRUST_NAME",
    "Authority",
    "Holder",
    "Passphrase",
    "PolicySignature",
    "Protection",
    "StatementSignature",
    "TpmSeal",
    "change_protection",
    "generate_root_key",
    "is_there",
    "open_authority",
]

"""The domain of users' unit tests, and the root key that everybody has: refused wherever something real is judged.

`bus.testing` plays an authority whose private keys are in every copy of this library. Who believed it would believe anybody. So
there is one question, and whoever verifies asks it first (see `Verifier`): a domain or a root key of tests is refused, unless it
is a test that asks; and a test is refused every other. An authority asks before it is made.
"""

from __future__ import annotations

from typing import Final

from bus.errors import VerificationError
from bus.trust.root import Root

DOMAIN: Final = "testing.invalid"
"""RFC 6761 keeps `.invalid` free: nobody can have it."""
ROOT_KEY: Final = bytes.fromhex("43439900901e26213a2ca6eb47139b7f944d8e10")
"""The identifier of the root's key (RFC 5280, 4.2.1.2): who has the key makes root certificates of any name with it."""


def check_domain(domain: str) -> None:
    """Return unless it is that of tests. Raises VerificationError("untrusted")."""
    if domain == DOMAIN:
        raise _refused()


def check(root: Root, domain: str, *, for_tests: bool) -> None:
    """Return if this root and domain are real, or, for tests, if both are those of tests. Raises VerificationError("untrusted")."""
    if not for_tests:
        check_domain(domain)
        if root.ski == ROOT_KEY:
            raise _refused()
    elif domain != DOMAIN or root.ski != ROOT_KEY:
        raise VerificationError("untrusted", detail=f"a test believes the root of {DOMAIN}, and nothing that anybody else believes")


def _refused() -> VerificationError:
    detail = (
        f"its keys are in every copy of tpmbus, for the tests of {DOMAIN}: pin the root of your own authority, and give your "
        "policy a `domain:` of its own"
    )
    return VerificationError("untrusted", detail=detail)

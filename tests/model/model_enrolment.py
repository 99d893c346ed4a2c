"""Enrolment: one name, two chips that want it, a desk of the authority, and somebody who keeps every message and sends it again.

ONE is honest. TWO is a genuine TPM in the hands of whoever: it has stolen the second of two tokens, and the holder of the name
may once have agreed that TWO takes it over. Only a chip can answer a nonce that was given to it; anybody can send an old answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

ONE_HOLDER = "A name is never held by two chips."
NONCE_ONCE = "A nonce enrols at most once."
TOKEN_ONCE = "A token enrols at most once."
CONSENT_ONCE = "A name moves to another chip only by a consent of the key that has it, and by each consent at most once."

TOKEN_OF = {"ONE": "first token", "TWO": "second token"}


class Consent(NamedTuple):
    """The key that has the name signs for its successor."""

    by: str
    successor: str
    nonce: int | None


class Answer(NamedTuple):
    """Credential activated, key certified over the nonce: only this chip can make it."""

    nonce: int
    chip: str
    token: str
    consent: Consent | None


class Desk(NamedTuple):
    requests: int = 4
    consents: int = 2
    revocations: int = 1
    asked: tuple[str, ...] = ()
    """Which chip asked for each nonce: nonces are numbered."""
    open: frozenset[int] = frozenset()
    spent: frozenset[str] = frozenset()
    given: frozenset[Consent] = frozenset()
    seen: frozenset[Answer] = frozenset()
    holders: tuple[str, ...] = ()
    """The chips of the certificates that stand."""
    issued: tuple[Answer, ...] = ()


def moves(desk: Desk, broken: str = "") -> Iterator[tuple[str, Desk]]:
    for chip in TOKEN_OF if desk.requests else ():
        nonce = len(desk.asked)
        asked = desk._replace(requests=desk.requests - 1, asked=(*desk.asked, chip), open=desk.open | {nonce})
        yield f"{chip} asks, and gets nonce {nonce}", asked
    if desk.consents and desk.holders:
        for nonce in sorted(desk.open):
            holder, successor = desk.holders[-1], desk.asked[nonce]
            if successor != holder:
                consent = Consent(holder, successor, None if broken == "consent without the nonce" else nonce)
                yield (
                    f"{holder} signs for its successor {successor}",
                    desk._replace(consents=desk.consents - 1, given=desk.given | {consent}),
                )
    for answer in sorted(set(_fresh(desk)) - desk.seen, key=str):
        yield f"{answer.chip} answers nonce {answer.nonce} {_with(answer)}", _judged(desk, answer, broken)
    for answer in sorted(desk.seen, key=str):
        yield f"the answer of {answer.chip} to nonce {answer.nonce} {_with(answer)} comes again", _judged(desk, answer, broken)
    if desk.revocations and desk.holders:
        yield "the certificate is revoked", desk._replace(revocations=desk.revocations - 1, holders=())


def _with(answer: Answer) -> str:
    return f"with the {answer.token}" if answer.token else f"with the consent of {answer.consent.by}" if answer.consent else ""


def _fresh(desk: Desk) -> Iterator[Answer]:
    """What the chips can answer to nonces that are open: with their token, or with any consent that was ever given."""
    for nonce in desk.open:
        chip = desk.asked[nonce]
        yield Answer(nonce, chip, TOKEN_OF[chip], None)
        yield from (Answer(nonce, chip, "", consent) for consent in desk.given)


def _judged(desk: Desk, answer: Answer, broken: str) -> Desk:
    """The desk looks at an answer. The nonce is burned whatever comes of it."""
    desk = desk._replace(seen=desk.seen | {answer})
    if answer.nonce not in desk.open:
        return desk
    if broken != "nonce not burned":
        desk = desk._replace(open=desk.open - {answer.nonce})
    holder = desk.holders[-1] if desk.holders else None
    consent = answer.consent
    agreed = (
        consent is not None and consent.by == holder and consent.successor == answer.chip and consent.nonce in (answer.nonce, None)
    )
    allowed = bool(answer.token) and (answer.token not in desk.spent or broken == "token not burned")
    if not agreed and not (allowed and (holder in (None, answer.chip) or broken == "taken names not looked at")):
        return desk
    holders = (
        (answer.chip,) if agreed or holder == answer.chip else (*desk.holders, answer.chip)
    )  # the certificate before is `rotated`
    return desk._replace(spent=desk.spent | {answer.token}, holders=holders, issued=(*desk.issued, answer))


def fault(desk: Desk) -> str:
    if len(set(desk.holders)) > 1:
        return ONE_HOLDER
    each_once = {
        NONCE_ONCE: [answer.nonce for answer in desk.issued],
        TOKEN_ONCE: [answer.token for answer in desk.issued if answer.token],
        CONSENT_ONCE: [answer.consent for answer in desk.issued if answer.consent],
    }
    return next((name for name, used in each_once.items() if len(set(used)) < len(used)), "")

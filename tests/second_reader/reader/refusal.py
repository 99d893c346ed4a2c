"""A refusal is its code (part 9)."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818  (a refusal is an answer, not an error)
    def __init__(self, code: str, why: str = "") -> None:
        super().__init__(f"{code}: {why}" if why else code)
        self.code = code


def demand(condition: object, code: str, why: str = "") -> None:
    if not condition:
        raise Refused(code, why)

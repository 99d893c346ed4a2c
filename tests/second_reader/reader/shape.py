"""What a field must be. Each function gives the value back, or refuses it as malformed."""

from __future__ import annotations

from collections.abc import Callable, Container
from itertools import pairwise
from typing import Any

from .names import AGENT
from .refusal import demand

U32, U64 = (1 << 32) - 1, (1 << 64) - 1


def array(value: Any, count: int) -> list[Any]:
    demand(type(value) is list and len(value) == count, "malformed", f"no array of {count}")
    return value


def items(value: Any, least: int, most: int) -> list[Any]:
    demand(type(value) is list and least <= len(value) <= most, "malformed", f"no list of {least} to {most}")
    return value


def number(value: Any, least: int = 0, most: int = U64) -> int:
    demand(type(value) is int and least <= value <= most, "malformed", f"no number from {least} to {most}")
    return value


def one_of(value: Any, allowed: Container[int]) -> int:
    demand(type(value) is int and value in allowed, "malformed", f"{value} is none of {allowed}")
    return value


def binary(value: Any, lengths: Container[int] | None = None) -> bytes:
    demand(type(value) is bytes and (lengths is None or len(value) in lengths), "malformed", f"no bin of {lengths}")
    return value


def text(value: Any, lengths: Container[int] | None = None) -> str:
    demand(type(value) is str and (lengths is None or len(value) in lengths), "malformed", f"no str of {lengths}")
    return value


def agent(value: Any) -> str:
    demand(AGENT.fullmatch(text(value)), "malformed", f"{value!r} is no agent")
    return value


def domain(value: Any) -> str:
    return text(value, range(1, 254))


def ascending(values: list[Any], key: Callable[[Any], Any]) -> None:
    keys = [key(value) for value in values]
    demand(all(left < right for left, right in pairwise(keys)), "malformed", "does not ascend")

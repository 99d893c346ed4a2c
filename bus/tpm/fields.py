"""How a value stands in JSON: one encoding, checked in both directions.

A decoder takes what JSON can hold and gives the value or raises ValueError with what is wrong, never with the value itself.
Base64 is RFC 4648 with padding and nothing else: no line breaks, no other alphabet, no stray bits.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_INTEGER: Final = 2**53
"""Beyond it, other languages' JSON numbers are not exact."""


@dataclass(frozen=True, slots=True)
class Field:
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    optional: bool = False
    """May be left out; then it is None, and None is left out."""


def optional(field: Field) -> Field:
    return Field(field.encode, field.decode, optional=True)


Shape = Mapping[str, Field]


def binary(max_bytes: int, *, sizes: Sequence[int] = ()) -> Field:
    longest = (max_bytes + 2) // 3 * 4

    def decode(value: Any) -> bytes:
        if not isinstance(value, str):
            raise ValueError("is no base64 text")  # noqa: TRY004  every decoder says no with ValueError
        if len(value) > longest:
            raise ValueError(f"has more than {max_bytes} bytes")
        data = _from_base64(value)
        if sizes and len(data) not in sizes:
            raise ValueError(f"has {len(data)} bytes, not {' or '.join(map(str, sizes))}")
        return data

    return Field(_to_base64, decode)


def integer(first: int, last: int) -> Field:
    def decode(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
            raise ValueError(f"is no whole number from {first} to {last}")
        return value

    return Field(int, decode)


def word(choices: Mapping[str, Any]) -> Field:
    names = {value: name for name, value in choices.items()}

    def decode(value: Any) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return choices[value]

    return Field(names.__getitem__, decode)


def text(max_length: int, *, pattern: Callable[[str], object] | None = None, what: str = "text") -> Field:
    def decode(value: Any) -> str:
        if not isinstance(value, str) or len(value) > max_length or (pattern is not None and not pattern(value)):
            raise ValueError(f"is no {what}")
        return value

    return Field(str, decode)


def many(field: Field, *, least: int, most: int) -> Field:
    def decode(value: Any) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError(f"is no list of {least} to {most}")
        return [field.decode(item) for item in value]

    return Field(lambda values: [field.encode(value) for value in values], decode)


def named(field: Field, *, longest_name: int, most: int) -> Field:
    """An object whose names are anybody's, and whose values are all of one kind."""

    def decode(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most or any(len(name) > longest_name for name in value):
            raise ValueError(f"is no object of at most {most} names")
        return {name: field.decode(item) for name, item in value.items()}

    return Field(lambda values: {name: field.encode(value) for name, value in values.items()}, decode)


def record(shape: Shape, make: Callable[..., Any], take: Callable[[Any], Mapping[str, Any]]) -> Field:
    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("is no object")  # noqa: TRY004  every decoder says no with ValueError
        return make(**decode_fields(shape, value))

    return Field(lambda value: encode_fields(shape, take(value)), decode)


def nullable(field: Field) -> Field:
    return Field(
        lambda value: None if value is None else field.encode(value), lambda value: None if value is None else field.decode(value)
    )


class WrongFieldError(ValueError):
    """`code` says what is wrong with a set of fields: unknown_field, missing_field, invalid_field."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def encode_fields(shape: Shape, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: field.encode(values[name]) for name, field in shape.items() if not (field.optional and values.get(name) is None)}


def decode_fields(shape: Shape, document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an object that has exactly these fields. Raises WrongFieldError."""
    for name in document:
        if name not in shape:
            raise WrongFieldError("unknown_field", f"there is no field {name[:32]!r} here: it has {', '.join(shape) or 'none'}")
    values = {}
    for name, field in shape.items():
        if name in document:
            try:
                values[name] = field.decode(document[name])
            except ValueError as error:
                raise WrongFieldError("invalid_field", f"{name} {error}") from None
        elif field.optional:
            values[name] = None
        else:
            raise WrongFieldError("missing_field", f"{name} is missing")
    return values


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64(value: str) -> bytes:
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise ValueError("is no base64") from None
    if _to_base64(data) != value:
        raise ValueError("is base64 with stray bits")
    return data


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("is no number")  # noqa: TRY004  every decoder says no with ValueError
    return value


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError("is no object of counts")  # noqa: TRY004  every decoder says no with ValueError
    return {name: COUNT.decode(count) for name, count in value.items()}


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is not true or false")  # noqa: TRY004  every decoder says no with ValueError
    return value


COUNT: Final = integer(0, MAX_INTEGER)
COUNTS: Final = Field(dict, _counts)
FLAG: Final = Field(bool, _flag)
SECONDS: Final = Field(float, _number)

"""`decode=` of a subscription: what makes the body of a message into what its reader wants.

    a class of msgspec       from the bytes, by msgspec
    a model of pydantic      from the value, by pydantic
    a dataclass              the same: nested, and every field checked
    any other callable       from the value; what it raises refuses the message

msgspec and pydantic are imported when they are first named, and not before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bus.agent.message import Message

Decode = Callable[[Message], Any]


def decoder(wanted: Any) -> Decode:
    """Raises TypeError for what decodes nothing."""
    if isinstance(wanted, type):
        if hasattr(wanted, "__struct_fields__"):
            return _by_msgspec(wanted)
        if hasattr(wanted, "model_validate"):
            validate = wanted.model_validate
            return lambda message: validate(message.body)
        if dataclasses.is_dataclass(wanted):
            return _by_pydantic(wanted)
    if not callable(wanted):
        raise TypeError(f"decode={wanted!r}: a function of the body, a dataclass, or a class of msgspec or pydantic")
    return lambda message: wanted(message.body)


def _by_msgspec(wanted: type) -> Decode:
    import msgspec  # noqa: PLC0415  only where it is named

    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(wanted).decode
    convert = msgspec.convert

    def made(message: Message) -> Any:
        return decode(message.data) if message.is_packed else convert(message.body, wanted)

    return made


def _by_pydantic(wanted: type) -> Decode:
    from pydantic import TypeAdapter  # noqa: PLC0415  only where a dataclass is named

    validate: Callable[[Any], Any] = TypeAdapter(wanted).validate_python
    return lambda message: validate(message.body)

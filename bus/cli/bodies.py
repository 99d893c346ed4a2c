"""What messages look like on a command line, both ways.

In: JSON if it parses, else a string; raw bytes if that is asked for. Out: one line for a person, one document for a program. Bytes,
which JSON has none of, are base64 under `data` in place of `body`.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import bus

_LARGEST, _SMALLEST = (1 << 64) - 1, -(1 << 63)
"""Whole numbers that a body can have."""
_ESCAPED_CHARACTERS, _HEAD_BYTES = 100, 16
"""Of bytes that are no plain text a person is shown so much, or else their number and so many of them."""


def parse_body(text: bytes, *, raw: bool) -> Any:
    """The body that is meant. What is no JSON is a string, and bytes that are no UTF-8 are bytes."""
    if raw:
        return text
    try:
        return json.loads(text, parse_int=_whole, parse_constant=_no_number)
    except (ValueError, RecursionError):
        pass
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) <= len(str(_SMALLEST)) else _LARGEST + 1
    if not _SMALLEST <= number <= _LARGEST:
        raise ValueError("longer than 64 bits: taken as a string")
    return number


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def parse_headers(pairs: tuple[str, ...]) -> dict[str, str]:
    """`name=value` for each. Raises ValueError."""
    headers = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"{pair!r} is no header: write name=value")
        headers[name] = value
    return headers


def as_line(message: bus.Message) -> str:
    """For a person: topic, sender, body, and what is unusual about it."""
    body = body_of(message)
    marks = "".join(
        [
            f" (missed {message.missed})" if message.missed else "",
            f" (delivery {message.deliveries})" if message.redelivered else "",
            " (signed by identity)" if message.signed_by == "identity" else "",
        ]
    )
    return f"{message.topic} {message.sender} {as_text(body)}{marks}"


def as_text(body: Any) -> str:
    """A body on one line that `parse_body` reads back, unless it holds bytes. Nothing in it moves a terminal's cursor."""
    if isinstance(body, bytes):
        return _shown(body)
    if isinstance(body, str) and body.isprintable() and parse_body(body.encode(), raw=False) == body:
        return body
    text = json.dumps(body, ensure_ascii=False, default=_plain)
    return text if text.isprintable() else json.dumps(body, default=_plain).replace("\x7f", "\\u007f")


def _shown(data: bytes) -> str:
    """Text as it is, a few other bytes escaped, of many their number and the first: a terminal full of escapes says less."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if (text or not data) and text.isprintable():
        return text
    escaped = repr(data[: _ESCAPED_CHARACTERS + 1])[2:-1]
    if len(escaped) <= _ESCAPED_CHARACTERS:
        return escaped
    return f"<{len(data):,} bytes: {data[:_HEAD_BYTES].hex(' ')}{' ..' * (len(data) > _HEAD_BYTES)}>"


def as_bytes(body: Any) -> bytes:
    """Exactly what was sent where that was bytes or text; else JSON."""
    if isinstance(body, bytes):
        return body
    return body.encode(errors="surrogatepass") if isinstance(body, str) else as_text(body).encode()


def as_document(message: bus.Message) -> dict[str, Any]:
    """For a program."""
    body = body_of(message)
    document: dict[str, Any] = {"topic": message.topic, "sender": message.sender}
    document |= {"data": _plain(body)} if isinstance(body, bytes) else {"body": body}
    document |= {"id": message.id, "sent_at": message.sent_at.isoformat(), "signed_by": message.signed_by}
    document |= {"missed": message.missed, "deliveries": message.deliveries, "position": message.position}
    return document | ({"headers": dict(message.headers)} if message.headers else {})


def dump(document: Any) -> str:
    """One document on one line."""
    return json.dumps(document, ensure_ascii=False, default=_plain)


def body_of(message: bus.Message) -> Any:
    """The body; the bytes of one that says to be a value and is none."""
    try:
        return message.body
    except ValueError:
        return message.data


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)

"""A grant: an epoch's secret, sealed to one reader's key by somebody who may grant it.

    grant  = envelope of kind 2 on `_grant.<READER>`; its epoch is the granted one, its ref the id of the key that opens it
    sealed = HPKE(key, info = "tpmbus/1 grant" | SHA-256(header), [proof, body: bin])
    body   = [secret(32), params: bin, reader, reader session(0|16), names: bin]

The header in `info` binds what is sealed to where it says it goes; the proof inside says who granted. `names` is the audience in
a grant to the sender itself, so that a later session of it knows who was meant; else it is empty. It is bytes of its own, because
anybody can seal to a public key: a list within the body would let strangers make a reader take room for nested lists.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from bus.protocol import contexts
from bus.protocol.audience import Members, encode_members, parse_members
from bus.protocol.codec import array, ascii_text, malformed, pack, sized, unpack
from bus.protocol.epochs import MAX_PARAMS_BYTES, SECRET_BYTES
from bus.protocol.header import GRANT, MAX_HEADER_BYTES, SESSION_ID_BYTES, Header
from bus.protocol.names import is_agent_name

GRANT_TOPIC: Final = "_grant."
MAX_GRANT_BYTES: Final = 32 << 10
"""Of the whole envelope, to anybody but its sender: four times what a grant without names can have."""


class GrantBody(NamedTuple):
    secret: bytes
    params: bytes
    reader: str
    reader_session: bytes
    """Empty in a grant to an inbox key."""
    names: Members

    def encode(self) -> bytes:
        return pack((*self[:4], encode_members(self.names)))

    @classmethod
    def parse(cls, data: bytes) -> GrantBody:
        """Raises RemoteProtocolError("malformed")."""
        secret, params, reader, session, names = array(unpack(data, longest=8, arrays=1), 5)
        if len(sized(params)) > MAX_PARAMS_BYTES or not is_agent_name(ascii_text(reader)):
            raise malformed("a grant is of an epoch's parameters to an agent")
        return cls(sized(secret, SECRET_BYTES), params, reader, sized(session, 0, SESSION_ID_BYTES), parse_members(sized(names)))

    def __repr__(self) -> str:
        return f"<GrantBody to {self.reader}>"


def topic(reader: str) -> str:
    return GRANT_TOPIC + reader


def reader_of(header: Header) -> str:
    """Whom a grant is for, as its topic says. Raises RemoteProtocolError("malformed") if the header is no grant's."""
    reader = header.topic.removeprefix(GRANT_TOPIC)
    if header.kind != GRANT or reader == header.topic or not is_agent_name(reader):
        raise malformed("a grant goes to `_grant.` and an agent's name")
    if header.flags or header.seq or header.before or header.priority or header.records != 1 or not header.ref:
        raise malformed("a grant's header has no flag, number or priority, one record, and the id of a key")
    return reader


def check_size(size: int, header: Header) -> None:
    """Return if a grant to this reader may have so many bytes. Raises RemoteProtocolError("malformed").

    Asked before it is opened: anybody can seal to a public key, and who opens or keeps what strangers sealed pays for its size.
    """
    if size > MAX_GRANT_BYTES and header.sender != reader_of(header):
        raise malformed("a grant of more than 32 KiB that is not to its own sender")


def info(header: bytes) -> bytes:
    """What HPKE binds the sealed part to."""
    if len(header) > MAX_HEADER_BYTES:
        raise malformed("a header of more than 1 KiB")
    return contexts.GRANT + hashlib.sha256(header).digest()

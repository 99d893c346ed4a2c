"""One end of a link between two gateways: a stream of frames in numbered, sealed messages of NATS.

together    what one turn of the loop sends leaves in one message, up to PIECE_BYTES; more of it in several
lost        NATS promises nothing: a message that is missing ends the link, and so does SILENCE_SECONDS without a word. Who has
            nothing to say says so each HEARTBEAT_SECONDS, with a number, so a last message that was lost is missed soon
window      only WINDOW_BYTES are under way at a time, until the other end has said that its owner took them. So a gateway that is
            slow makes others wait, and not NATS: its server never takes it for one that does not read, and nothing grows there
hostile     what does not open is junk. The other end may break all these rules too, and that ends the link

The table of links (`neighbours.py`) turns its hands and gives it what comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from bus.backbone.nats.neighbour_messages import Words, parse_said, said, words_head
from bus.backbone.nats.sealing import Sealing
from bus.errors import BusError, ClosedError, ConnectionLostError, LocalProtocolError, RemoteProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.transport.framing import LENGTH, Incoming
from bus.transport.link import (
    FLUSH_SECONDS,
    HIGH_WATER_BYTES,
    LOW_WATER_BYTES,
    MAX_BUFFERED_BYTES,
    OnFrames,
    OnLost,
    OnWritable,
    Peer,
)
from bus.transport.owner import LOST, Owner
from bus.transport.soon import Soon

PIECE_BYTES: Final = 64 << 10
"""Of the stream, in one message: large enough that a message costs little beside it, small enough that others get a word in."""
WINDOW_BYTES: Final = 512 << 10
"""64 gateways that all send to one have half of what a server keeps for a client (64 MB) under way."""
_TELL_BYTES: Final = WINDOW_BYTES // 4
"""So much may be taken in before the other end is told."""
HEARTBEAT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 3.0


class NeighbourLink:
    """Implements `transport.link.Link`."""

    def __init__(
        self, peer: Peer, sealing: Sealing, label: bytes, post: Callable[[bytes], None], *, soon: Soon, now: float, piece_bytes: int
    ) -> None:
        self.peer, self.writable = peer, True
        self.is_over = False
        """Nothing more is sent or heard."""
        self.is_open = False
        """The other end has shown that it has the key."""
        self.was_ended = False
        """By the other end, in order."""
        self._sealing, self._label, self._post_message, self._soon = sealing, label, post, soon
        self._piece_bytes = piece_bytes
        self._owner: Owner | None = None
        self._incoming = Incoming()
        self._held: deque[bytes] = deque()  # opened, and not taken in yet
        self._held_bytes = 0
        self._outbox: deque[bytes | memoryview] = deque()
        self._unsent = 0
        self._awake = self._is_paused = False
        self._ending: BusError | None = None  # why we end it
        self._no_more: BusError | None = None  # why nothing more comes: take in what there is, then this
        self._sent_number = self._heard_number = 0
        self._sent = self._their_taken = 0  # bytes of our stream
        self._taken = self._told = 0  # bytes of theirs
        self._heard_at = self._spoke_at = now
        self._has_heard = self._has_spoken = False
        self._flush_until = 0.0

    # ---- for the owner -------------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        return self._unsent

    def start(self, on_frames: OnFrames, on_lost: OnLost, on_writable: OnWritable) -> None:
        if self._owner is not None:
            raise RuntimeError("this link was started already")
        self._owner = Owner(on_frames, on_lost, on_writable)
        self._wake()

    def send(self, frame: bytes) -> None:
        if self._is_ending:
            return
        size = len(frame)
        if size > MAX_FRAME_BYTES:
            self._end(LocalProtocolError(f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}"))
            return
        self._outbox.append(LENGTH.pack(size))
        self._outbox.append(frame)
        self._unsent += size + LENGTH.size
        self._wake()
        if self._unsent > HIGH_WATER_BYTES:
            self.writable = False
            if self._unsent > MAX_BUFFERED_BYTES:
                self._end(ConnectionLostError("the other gateway does not read, and too much waits for it"), flush=False)

    def flush(self) -> None:
        """It leaves in the next turn of the loop, as soon as anything can here."""

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._wake()

    def close(self, *, flush: bool = True) -> None:
        self._end(ClosedError("this link was closed"), flush=flush)

    # ---- for the table -------------------------------------------------------------------------------------------------------

    def heard(self, words: Words) -> bool:
        """A message with the label of this end. False: it is junk."""
        if self.is_over or words.number <= self._heard_number:
            return False
        plain = self._sealing.open(words.number, words.head, words.sealed)
        if plain is None:
            return False
        self._has_heard = self.is_open = True
        if words.number != self._heard_number + 1:
            self.leave(ConnectionLostError(f"NATS lost {words.number - self._heard_number - 1} messages of the other gateway"))
            return True
        self._heard_number = words.number
        said = parse_said(plain)
        if said is None or not self._their_taken <= said.taken <= self._sent:
            self._end(RemoteProtocolError("malformed", "words of a gateway that make no sense"))
            return True
        if said.taken != self._their_taken:
            self._their_taken = said.taken
            self._wake()
        if said.stream:
            self._came(said.stream)
        if said.is_last:
            self.was_ended = True
            self.lost(ConnectionLostError("the other gateway ended the link"))
        return True

    def tick(self, now: float, *, may_judge: bool) -> None:
        """Now and then. `may_judge`: not just after we stood still ourselves, when what came meanwhile has not been read yet."""
        if self.is_over:
            return
        if self._has_heard or not may_judge:
            self._has_heard, self._heard_at = False, now
        elif now - self._heard_at > SILENCE_SECONDS:
            self.leave(ConnectionLostError("the other gateway says nothing"))
        if self._has_spoken:
            self._has_spoken, self._spoke_at = False, now
        elif now - self._spoke_at >= HEARTBEAT_SECONDS:
            self.speak()
        self._is_flushed_by(now)

    def speak(self) -> None:
        """With nothing to say."""
        if not self.is_over:
            self._post(b"")

    def lost(self, reason: BusError) -> None:
        """Nothing comes any more, and nothing can be said."""
        if not self.is_over:
            self.is_over, self.writable, self._is_paused = True, False, False
            self._no_more = reason
            self._outbox.clear()
            self._unsent = 0
            self._wake()

    def leave(self, reason: BusError) -> None:
        """The same as `lost`, and the other end is told, if it can hear."""
        if not self.is_over:
            self._post(b"", is_last=True)
            self.lost(reason)

    # ---- what comes ----------------------------------------------------------------------------------------------------------

    def _came(self, stream: bytes) -> None:
        if self._is_ending:
            return
        if self._held_bytes + len(stream) > WINDOW_BYTES:
            self._end(RemoteProtocolError("malformed", "the other gateway sends more than it may"))
        elif self._owner is None or self._is_paused or self._held:
            self._held.append(stream)
            self._held_bytes += len(stream)
        else:
            self._take_in(stream, self._owner)

    def _take_in(self, stream: bytes, owner: Owner) -> None:
        incoming, left, frames = self._incoming, memoryview(stream), []
        while left:
            room = incoming.room()
            count = min(len(room), len(left))
            room[:count] = left[:count]
            left = left[count:]
            frames += incoming.took(count)
            if incoming.fault is not None:
                break
        self._taken += len(stream)
        if self._taken - self._told >= _TELL_BYTES:
            self._wake()
        if fault := (owner.frames(frames) if frames else None) or incoming.fault:
            self._end(fault)

    # ---- turns ---------------------------------------------------------------------------------------------------------------

    @property
    def _is_ending(self) -> bool:
        return self._ending is not None or self._no_more is not None

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._soon(self._turn)

    def _turn(self) -> None:
        self._awake = False
        owner = self._owner
        while self._held and owner is not None and not self._is_paused and self._ending is None:
            stream = self._held.popleft()
            self._held_bytes -= len(stream)
            self._take_in(stream, owner)
        if not self.is_over:
            self._write()
        if self._ending is not None and not self._unsent:
            self._say_last()
        if owner is not None and self.is_over and not self._held and (reason := self._ending or self._no_more) is not None:
            self._owner = LOST
            owner.lost(reason)

    def _write(self) -> None:
        while self._unsent and (room := min(self._piece_bytes, WINDOW_BYTES - self._sent + self._their_taken)) > 0:
            stream = self._cut(room)
            self._unsent -= len(stream)
            self._sent += len(stream)
            self._post(stream)
        if self._taken - self._told >= _TELL_BYTES:
            self._post(b"")
        if not self.writable and not self._is_ending and self._unsent <= LOW_WATER_BYTES:
            self.writable = True
            if self._owner is not None and (fault := self._owner.writable()):
                self._end(fault)

    def _cut(self, most: int) -> bytes:
        """The next part of the stream."""
        outbox, pieces = self._outbox, []
        while outbox and len(outbox[0]) <= most:
            piece = outbox.popleft()
            most -= len(piece)
            pieces.append(piece)
        if outbox and most:
            piece = memoryview(outbox[0])
            pieces.append(piece[:most])
            outbox[0] = piece[most:]
        return b"".join(pieces)

    def _post(self, stream: bytes, *, is_last: bool = False) -> None:
        self._sent_number += 1
        self._told = self._taken
        self._has_spoken = True
        head = words_head(self._label, self._sent_number)
        body = said(self._taken, stream, is_last=is_last)
        self._post_message(head + self._sealing.seal(self._sent_number, head, body))

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def _end(self, reason: BusError, *, flush: bool = True) -> None:
        if self._no_more is None and self._ending is None:
            self._ending, self.writable = reason, False
            self._held.clear()
            self._held_bytes = 0
        if not flush:
            self._outbox.clear()
            self._unsent = 0
        self._wake()

    def _is_flushed_by(self, now: float) -> None:
        """What could not be written by then never is."""
        if self._ending is not None and not self.is_over:
            self._flush_until = self._flush_until or now + FLUSH_SECONDS
            if now >= self._flush_until:
                self._end(self._ending, flush=False)

    def _say_last(self) -> None:
        if not self.is_over:
            self._post(b"", is_last=True)
            self.is_over = True

"""A link: frames between two ends, one of which serves the other. What carries them (memory, a Unix socket, TLS) does not show.

No task waits on a link. Frames come by callback, as many at once as came at once, and are worked off there; what must go out is
handed to `send`, and everything that one turn of the event loop hands over leaves in one write. So a busy end makes few large
writes and an idle one sends at once, with no timer and nothing to set. Who has more to do after the last frame of a turn, and
nothing more to send, says `flush` first.

A link never waits for a slow peer. It says how much is in line (`buffered`) and whether that is too much (`writable`); whoever
fills it decides what then happens to whom. Beyond MAX_BUFFERED_BYTES it is cut: memory has to end somewhere.

All callbacks come from the event loop, never from inside a call of the owner's. `on_lost` is the last of them, and comes once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from bus.errors import BusError

HIGH_WATER_BYTES: Final = 256 << 10
"""What may wait to be written before a link calls itself full: little enough that what is urgent is not far behind it."""
LOW_WATER_BYTES: Final = 64 << 10
"""What may still wait when it calls itself writable again: enough for the kernel to go on with meanwhile."""
MAX_BUFFERED_BYTES: Final = 32 << 20
"""Beyond it the peer does not read and the owner does not look, and one of them has to be stopped."""
FLUSH_SECONDS: Final = 1.0
"""For what was sent before `close`, however slowly the peer reads."""

OnFrames = Callable[[list[bytes]], None]
OnLost = Callable[[BusError], None]
OnWritable = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as what carries the frames can tell. It may restrict; it proves nothing to the bus."""

    kind: Literal["memory", "unix", "tls", "nats"]
    address: str
    uid: int | None = None
    pid: int | None = None
    server_leaf: bytes | None = None
    """DER of the TLS certificate of the end that listens, whichever end we are. On NATS the public key of who answered."""
    client_leaf: bytes | None = None
    """DER of the TLS certificate of the end that connected. On NATS the public key of who began."""
    silent_seconds: float = 0.0
    """For how long it said nothing after it had connected; no link was made for it before."""


class Link(Protocol):
    @property
    def peer(self) -> Peer: ...

    @property
    def writable(self) -> bool:
        """False from when more than HIGH_WATER_BYTES wait to be written until `on_writable`; and once the link has ended."""

    @property
    def buffered(self) -> int:
        """Bytes that wait to be written."""

    def start(self, on_frames: OnFrames, on_lost: OnLost, on_writable: OnWritable) -> None:
        """Say once who listens; nothing is delivered before.

        What `on_frames` raises ends the link, and `on_lost` is told: a BusError as it is, anything else as the cause of one.
        """

    def send(self, frame: bytes) -> None:
        """A frame, without its length. Never waits and never raises; after the end it is dropped."""

    def flush(self) -> None:
        """Write what was sent now, where that can be, and not in the next turn of the loop: the peer works on it meanwhile."""

    def pause(self) -> None:
        """Stop reading from the peer. What has been read already may still be delivered."""

    def resume(self) -> None:
        """Go on reading."""

    def close(self, *, flush: bool = True) -> None:
        """End it. What was sent is still written, within FLUSH_SECONDS, unless `flush` is false. Then `on_lost(ClosedError)`."""

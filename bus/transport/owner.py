"""Who uses a link: the three callbacks, kept so that nothing which one of them raises is lost, and none of it reaches the loop."""

from __future__ import annotations

import logging

from bus.errors import BusError, ConnectionLostError
from bus.transport.link import OnFrames, OnLost, OnWritable

_log = logging.getLogger(__name__)


class Owner:
    __slots__ = ("_on_frames", "_on_lost", "_on_writable")

    def __init__(self, on_frames: OnFrames, on_lost: OnLost, on_writable: OnWritable) -> None:
        self._on_frames, self._on_lost, self._on_writable = on_frames, on_lost, on_writable

    def frames(self, frames: list[bytes]) -> BusError | None:
        """Deliver. What comes back is what the link has to end with."""
        try:
            self._on_frames(frames)
        except BusError as error:
            return error
        except Exception as error:  # noqa: BLE001  it is handed on as a cause, and it must not end the loop
            return _fault("what reads from a link", error)
        return None

    def writable(self) -> BusError | None:
        try:
            self._on_writable()
        except BusError as error:
            return error
        except Exception as error:  # noqa: BLE001  as above
            return _fault("what writes to a link", error)
        return None

    def lost(self, reason: BusError) -> None:
        try:
            self._on_lost(reason)
        except Exception:  # noqa: BLE001  there is nobody left to tell, and it must not end the loop
            _log.exception("what was told of a link's end failed")


def _fault(what: str, error: Exception) -> BusError:
    _log.error("%s failed, so the link was ended", what, exc_info=error)
    lost = ConnectionLostError(f"{what} failed: {type(error).__name__}")
    lost.__cause__ = error
    return lost


def nothing(*_: object) -> None:
    """Nobody wants to know."""


LOST = Owner(nothing, nothing, nothing)
"""The owner of a link that has told its own of the end."""

"""What is kept: the narrow place between a broker and the backbone that stores envelopes and owns consumers.

Until there is a backbone, what must be kept is refused: nobody is told that something is on disk that is not.
"""

from __future__ import annotations

from bus.broker.crossing import Crossing
from bus.broker.moment import Moment
from bus.errors import VerificationError


class Durable:
    """Without a backbone."""

    def publish(self, crossing: Crossing, moment: Moment) -> None:
        """An envelope of a durable topic was admitted. Raises VerificationError("busy")."""
        raise _busy(crossing)

    def keep(self, crossing: Crossing, moment: Moment) -> None:
        """A grant is to be on disk before its turn is stored. Raises VerificationError("busy")."""
        raise _busy(crossing)


def _busy(crossing: Crossing) -> VerificationError:
    return VerificationError("busy", agent=crossing.header.sender, detail="this broker keeps nothing: open it with a state folder")

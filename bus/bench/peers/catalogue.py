"""All buses that can be measured, in the order of the table. Their packages are not imported here."""

from __future__ import annotations

from typing import Final

from bus.bench.peers.agentmesh import AGENTMESH
from bus.bench.peers.chip import SESSION, TPM, WAITED
from bus.bench.peers.contender import Contender
from bus.bench.peers.nats import NATS
from bus.bench.peers.nats_synced import NATS_SYNCED
from bus.bench.peers.ours import TPMBUS, TPMBUS_MANY
from bus.bench.peers.pyzmq import CURVE, PLAIN
from bus.bench.peers.slim import MLS, NO_MLS
from bus.bench.peers.units import ENVELOPES, RECORDS
from bus.bench.peers.zenoh import ZENOH

OURS: Final = (TPMBUS.name, TPMBUS_MANY.name)
"""Two ways to publish, at one hub; every other bus is measured beside both."""
CONTENDERS: Final[dict[str, Contender]] = {
    one.name: one for one in (TPMBUS, TPMBUS_MANY, NATS, ZENOH, PLAIN, CURVE, MLS, NO_MLS, AGENTMESH)
}
VARIANTS: Final[dict[str, Contender]] = {one.name: one for one in (SESSION, TPM, WAITED, RECORDS, ENVELOPES, NATS_SYNCED)}
"""Of this bus and of others, used otherwise than they are there: in the table of targets, and in no table of buses."""

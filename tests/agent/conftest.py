"""What the tests of agents share: `agent_scenes`, which they import."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

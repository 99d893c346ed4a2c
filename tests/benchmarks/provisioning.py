"""From an empty state folder to 76 agents with keys, certificates and inbox keys, and again when all exist; what importing costs.

python tests/benchmarks/provisioning.py [RUNS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from targets import Row, show


def tpmbus(*arguments: str, state: Path) -> tuple[dict, float]:
    environment = os.environ | {"TPMBUS_STATE": str(state), "XDG_RUNTIME_DIR": str(state.parent)}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bus.cli.main", *arguments, "--json"], capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(done.stdout), time.perf_counter() - begun


def provisioning(runs: int) -> list[Row]:
    cold, cold_keys, warm = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as folder:
            state = Path(folder) / "state"
            document, seconds = tpmbus("provision", state=state)
            assert (document["made"], document["enrolled"]) == (76, 76)
            cold.append(seconds)
            cold_keys.append(sum(agent["seconds"] for agent in document["agents"]))
            document, seconds = tpmbus("provision", state=state)
            assert (document["made"], document["enrolled"]) == (0, 0)
            warm.append(seconds)
            stop_service(state)
    print(f"\ncold runs {rounded(cold)}, of which making identity keys {rounded(cold_keys)}; warm {rounded(warm)}")
    return [
        Row(f"76 agents, certificates and all, median of {runs}", statistics.median(cold), "s", 15),
        Row(f"of which their identity keys, median of {runs}", statistics.median(cold_keys), "s", 10),
        Row("the same when all exist, whole command", statistics.median(warm), "s", 1),
    ]


def rounded(seconds: list[float]) -> list[float]:
    return [round(value, 2) for value in seconds]


def stop_service(state: Path) -> None:
    holder = json.loads((state / "tpm.lock").read_text())
    os.kill(holder["pid"], 15)


def importing() -> list[Row]:
    code = "import sys, time; t = time.perf_counter(); import bus; print(time.perf_counter() - t, 'tpm2_pytss' in sys.modules)"
    times = []
    for _ in range(9):
        seconds, loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert loaded == "False"
        times.append(float(seconds))
    return [Row("import bus", statistics.median(times) * 1000, "ms", 150)]


if __name__ == "__main__":
    show("Provisioning", [*provisioning(int(sys.argv[1]) if len(sys.argv) > 1 else 5), *importing()])

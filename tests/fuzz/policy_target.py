"""Coverage-guided input for the policy loader.

python tests/fuzz/policy_target.py -max_total_time=60 A_NEW_FOLDER tests/fuzz/corpus/policy
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["bus.policy", "bus.protocol.topics", "bus.protocol.names"]):
    from bus.policy.loader import lint


def judge(data: bytes) -> None:
    """Anything but a report is a crash."""
    for problem in lint({"p.yaml": data}).problems:
        if not (problem.message and problem.line >= 1 and problem.column >= 1):
            raise AssertionError(problem)


if __name__ == "__main__":
    atheris.Setup(sys.argv, judge)
    atheris.Fuzz()

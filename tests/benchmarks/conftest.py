"""Makes the modules of `benchmarks/` importable: they are scripts, and no part of any package."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# At the end, so that they hide nothing.
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

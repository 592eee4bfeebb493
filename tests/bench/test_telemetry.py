"""The benchmark of telemetry runs whole, in its short form."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    "off, against off",
    "OTelTelemetry, no-op providers",
    "OTelTelemetry, the SDK, nothing sampled",
    "OTelTelemetry, the SDK, all recorded",
    "InMemoryTelemetry",
    "ConsoleTelemetry",
]


def test_every_row_has_a_figure_of_ours(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "telemetry.py", "--quick", "--json", out],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["metric"] for row in rows] == ROWS
    assert not [row["metric"] for row in rows if row["ours"] is None]

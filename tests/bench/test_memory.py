"""The benchmarks of memory run whole, in their short form. No time is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def ran(name: str, out: Path, *more: str) -> tuple[str, Any]:
    """The table and the JSON of one short run."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / name, "--quick", "--json", out, *more],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_what_memory_costs_is_measured_beside_its_floors(tmp_path: Path) -> None:
    printed, whole = ran("memory.py", tmp_path / "out.json", "--dir", str(tmp_path))
    names = [row["metric"] for row in whole["rows"]]
    for name in (
        "recall, 10 users, 100 episodes: in memory",
        "recall, 10 users, 100 episodes: SQLite, hot",
        "recall, 10 users, 100 episodes: SQLite, cold",
        "recall, one user, 600 episodes: SQLite, hot",
        "remember, durable",
        "memory of the indexes, 10 users asked",
        "loop lag of others, p99, while one user with 600 recalls",
    ):
        assert name in names
        assert name in printed
    assert all([row["ours"] is not None for row in whole["rows"]])


def test_how_well_memory_finds_is_measured_on_every_data_set(tmp_path: Path) -> None:
    printed, found = ran("recall.py", tmp_path / "out.json")
    assert {each["data"] for each in found} == {"recall", "retelling"}
    assert {each["way"] for each in found} == {"words (BM25)", "vectors", "reciprocal ranks", "hybrid"}
    assert all([0 <= each["recall_at_5"] <= 1 and each["questions"] for each in found])
    assert "| hybrid |" in printed

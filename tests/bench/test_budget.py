"""The benchmark of ledgers runs whole, in its short form, and its count of suspensions sees one."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.domain.ledger import Granted, Hold, Refused

ROOT = Path(__file__).parents[2]

ROWS = [
    "check and charge in memory, 1 task",
    "check and charge in memory, 64 tasks",
    "check and charge in memory, 1,000 tasks",
    "suspensions of a check and charge in memory",
    "single turn under a budget",
    "one turn of a ten-tool run under a budget",
    "20 concurrent runs: CPU a run under a budget",
    "SQLite: reservations and settlements, one at a time",
    "SQLite: reservations and settlements, 64 tasks",
    "SQLite: commits of 64 runs that settle and reserve, beside those that do not",
    "Postgres: reservations and settlements, one at a time",
    "Postgres: reservations and settlements, 64 tasks",
    "Postgres: commits of 64 runs that settle and reserve, beside those that do not",
    "Redis: reservations and settlements, one at a time",
    "Redis: reservations and settlements, 64 tasks",
]


def test_every_row_has_a_figure_of_ours(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "bench" / "budget.py",
            "--quick",
            "--json",
            tmp_path / "out.json",
            "--dir",
            tmp_path,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob(".bench-*")), "it leaves nothing behind"
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["metric"] for row in rows] == ROWS
    assert not [row["metric"] for row in rows if row["ours"] is None]


class Hesitant(InMemoryLedger):
    """Gives way before it answers."""

    async def reserve(self, hold: Hold) -> Granted | Refused:
        await asyncio.sleep(0)
        return await super().reserve(hold)


def test_a_ledger_in_memory_gives_way_to_nobody_where_nobody_is_in_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "bench")
    from budget import suspensions  # type: ignore[import-not-found, unused-ignore]

    assert suspensions(InMemoryLedger(), 3) == 0
    assert suspensions(Hesitant(), 3) == 3

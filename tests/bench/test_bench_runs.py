"""The benchmark runs whole, in its short form. No time is looked at: a shared machine would make it a coin toss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROWS = [
    "import",
    "modules imported beyond raw",
    "memory imported beyond raw",
    "of anthropic, apsw, httpx, openai, pydantic, rich, typer imported",
    "build an agent with one tool",
    "build it and run a single turn",
    "single turn",
    "one turn of a ten-tool run",
    "ten parallel tools",
    "20 concurrent runs: CPU a run",
    "20 concurrent runs: memory a run in flight",
    "20 concurrent runs: loop lag, p99",
    "stream of 200 chunks: CPU a token",
    "20-turn run",
    "20-turn run: its last fifth against its first",
    "durable step, one run",
    "durable steps, 16 runs",
    "durable steps, 64 runs",
    "durable turns, 1 run",
    "durable turns, 16 runs",
    "durable turns, 64 runs",
    "syncs a turn with a `once` call",
    "syncs a turn with three `once` calls",
    "syncs a turn with three reads",
    "file growth a turn beyond its 109 bytes of content",
    "Postgres: durable steps, 1 run",
    "Postgres: durable steps, 64 runs, beside groups without savepoints",
    "Postgres: durable steps, 64 runs, beside groups with savepoints",
    "DBOS: steps, 2 runs",
    "Temporal: steps, 2 runs",
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    """The table and the JSON of one short run."""
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "bench" / "overhead.py",
            "--quick",
            "--json",
            folder / "out.json",
            "--dir",
            folder,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob(".bench-*")), "it leaves nothing behind"
    return done.stdout, json.loads((folder / "out.json").read_text())


def test_the_table_has_every_row(quick: tuple[str, dict[str, object]]) -> None:
    lines = [line for line in quick[0].splitlines() if line.startswith("| ")][1:]

    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        assert line.startswith(f"| {row}"), line


def test_every_row_has_a_figure_of_ours(quick: tuple[str, dict[str, object]]) -> None:
    rows = quick[1]["rows"]

    assert isinstance(rows, list)
    assert [row["metric"] for row in rows] == ROWS
    assert not [row["metric"] for row in rows if row["ours"] is None]

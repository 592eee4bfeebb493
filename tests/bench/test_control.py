"""The benchmark of people in control runs whole, in its short form, and its crowd of parked runs sees what is kept."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROWS = [
    "judging a call: StandardPermissions",
    "judging a call: a document of 1,000 statements",
    "judging a call: an async policy",
    "judging a call: an async hook",
    "judging a call: a hook in a thread",
    "judging a call: a tool's own requires_approval, async",
    "deciding: StandardPermissions",
    "deciding: 10 statements, ten a tool",
    "deciding: 100 statements, ten a tool",
    "deciding: 1,000 statements, ten a tool",
    "deciding: 1,000 statements, one a user",
    "deciding: 1,000 statements with * in their names",
    "deciding: 1,000 statements, all about the call",
    "deciding: 1,000 statements, one a user, of a run that names no user",
    "single turn: StandardPermissions",
    "one turn of a ten-tool run: StandardPermissions",
    "one turn of a ten-tool run: a document of 1,000 statements",
    "one turn of a ten-tool run: an async policy",
    "one turn of a ten-tool run: a handler approves of each call",
    "an approval signed and verified",
    "a checkpoint made and verified",
    "resuming a parked run of 20 events: CPU",
    "resuming a parked run of 20 events: wall",
    "12 parked runs: tasks",
    "12 parked runs: open files",
    "12 parked runs: resident memory a run",
    "beside 12 parked runs: asking the store what is due, where nothing is",
    "beside 12 parked runs: a page of what is due, where all are",
    "beside 12 parked runs: the requests of one tenant, 4",
    "beside 12 parked runs: a fresh run, wall",
]


def test_every_row_has_a_figure_of_ours(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "bench" / "control.py",
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


@pytest.mark.parametrize("leaks", [False, True])
def test_the_crowd_keeps_no_task_and_no_file_and_would_show_one(
    leaks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "bench")
    import parked  # type: ignore[import-not-found, unused-ignore]

    tasks_kept: list[asyncio.Task[bool]] = []
    files_kept: list[int] = []

    class Leaking(parked.Crowd):  # type: ignore[misc, unused-ignore]
        async def _run(self, tenant: str) -> object:
            if leaks:
                tasks_kept.append(asyncio.create_task(asyncio.Event().wait()))
                files_kept.append(os.open(os.devnull, os.O_RDONLY))
            return await super()._run(tenant)

    async def park() -> tuple[int, int]:
        crowd = Leaking(tmp_path / "runs.db")
        await crowd.park(3, 2)
        await crowd.agent.close()
        return crowd.tasks, crowd.files

    tasks, files = asyncio.run(park())
    for file in files_kept:
        os.close(file)
    assert tasks == (2 if leaks else 0)
    if Path("/proc/self/fd").exists():
        assert files == (2 if leaks else 0)

"""Eight processes append to one file and are killed at random."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipworthy import FileAuditLog
from shipworthy.errors import AuditError
from tests.audit.file_logs import said, verified

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"


def attacked(folder: Path, seconds: float, mutant: str = "", seed: int = 0) -> str:
    """What is wrong after a while of killing; "" for nothing."""
    folder.mkdir()
    path = folder / "audit.jsonl"
    command = [sys.executable, "-m", "tests.audit.nursery", str(path), str(seconds), str(seed), mutant]
    subprocess.run(command, check=True, timeout=seconds + 60)
    for failed in folder.glob("failed-*"):
        return f"a writer failed: {failed.read_text()}"
    if (verdict := verified(path).verdict) != "ok":
        return f"what the kills left is called {verdict}"

    async def mend() -> None:
        log = FileAuditLog(path, secret=folder / "key")
        await log.open()
        await log.close()

    try:
        asyncio.run(mend())
    except AuditError as error:
        return f"it does not go on: {error}"
    acknowledged = {line for file in folder.glob("acks-*") for line in file.read_text().split("\n")[:-1]}
    kept = said(path)
    if lost := acknowledged - set(kept):
        return f"{len(lost)} of {len(acknowledged)} acknowledged entries are lost"
    if len(kept) != len(set(kept)):
        return "an entry is there twice"
    assert acknowledged
    report = verified(path)
    assert report.forward_secure
    return "" if report.verdict == "ok" else f"after it was mended it is called {report.verdict}"


def test_eight_processes_that_are_killed_at_random_make_one_chain_and_lose_nothing_acknowledged(
    tmp_path: Path,
) -> None:
    for seed in range(20 if LONG else 1):
        assert attacked(tmp_path / str(seed), 15.0 if LONG else 2.0, seed=seed) == ""


@pytest.mark.parametrize("mutant", ["no_lock", "early"])
def test_without_the_lock_or_the_order_of_the_lines_it_is_found_out(tmp_path: Path, mutant: str) -> None:
    assert any(attacked(tmp_path / str(seed), 1.0, mutant, seed) for seed in range(4))

"""Processes that drive audited runs die, at every point and at random: the log has what the journal has, and no effect
came before its attempt was entered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.audit.chaos import noted
from tests.audit.evidence import LASTING, Kind

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
MUTANTS: list[tuple[Kind, str]] = [
    ("file", "after_the_commit"),
    ("file", "after_the_effect"),
    ("file", "without_the_first"),
    ("joined", "unlinked"),
]


def chaos(way: str, folder: Path, kind: Kind, mutant: str = "", *more: str) -> list[dict[str, Any]]:
    """What is told of it."""
    command = [sys.executable, "-m", "tests.audit.chaos", way, str(folder), kind, mutant, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900 if LONG else 120, check=False)
    assert done.returncode == 0, (done.stderr, noted(folder / "errors"))
    return noted(folder / "told")


def wrong(told: list[dict[str, Any]]) -> dict[str, Any]:
    return {each.get("point", "at the end"): each["wrong"] for each in told if each["wrong"]}


@pytest.mark.crash
@pytest.mark.parametrize("kind", LASTING)
def test_wherever_a_process_dies_the_log_has_what_the_journal_has(kind: Kind, tmp_path: Path) -> None:
    told = chaos("points", tmp_path, kind, "", "all" if LONG else "some")
    assert wrong(told) == {}
    assert any([" append " in each["point"] for each in told]) is (kind != "joined")
    assert len(told) >= {"file": 35, "apart": 28, "joined": 16}[kind]


@pytest.mark.crash
@pytest.mark.parametrize(("kind", "mutant"), MUTANTS)
def test_mutant_a_log_that_is_told_too_late_or_not_of_all_is_noticed(
    kind: Kind, mutant: str, tmp_path: Path
) -> None:
    assert wrong(chaos("points", tmp_path, kind, mutant, "some")) != {}


@pytest.mark.crash
@pytest.mark.parametrize("kind", LASTING)
def test_eight_processes_that_are_killed_at_random_leave_one_chain_and_every_run_its_end(
    kind: Kind, tmp_path: Path
) -> None:
    for seed in range(5 if LONG else 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        runs, seconds = (1000, 60.0) if LONG else (32, 1.5)
        [told] = chaos("killing", folder, kind, "", str(runs), str(seed), str(seconds))
        assert told["wrong"] == []
        assert told["kills"] > 5

"""The benchmark of many tenants finds what it is there to find: each fault that can be planted fails its check."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--users", "12", "--turns", "2", "--tenants", "3"]

FOUND = {
    "leak": "isolation: the journal of u3/0 has marks ['[u0]']",
    "foreign-history": "isolation: the conversation of u0/0 has ['[u3/0]', '[u3]', '[u3/0]', ",
    "lost-history": "isolation: the conversation of u0/1 has ['[u0/1]']",
    "lost-charge": "accounting: u0 used 200 tokens; runs say 200, the ledger 0",
    "double-charge": "accounting: u0 used 200 tokens; runs say 200, the ledger 400",
    "tenant-charge": "accounting: users of tenant-0 used 956 tokens, the ledger says 756",
}


def run(folder: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "multi_tenant.py", *SMALL, "--json", folder / "out.json", *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done, json.loads((folder / "out.json").read_text())["faults"]


@pytest.mark.parametrize("runtime", ["inmemory", "sqlite"])
def test_nobody_sees_anybody_else_and_every_token_is_accounted_for(runtime: str, tmp_path: Path) -> None:
    place = f"sqlite:{tmp_path / 'runs.db'}" if runtime == "sqlite" else runtime
    done, faults = run(tmp_path, "--runtime", place)
    assert done.returncode == 0, done.stderr
    assert faults == []
    for figure in ("p50", "p99", "turns a second", "memory growth a user", "loop lag"):
        assert figure in done.stdout


@pytest.mark.parametrize("fault", FOUND)
@pytest.mark.parametrize("runtime", ["inmemory", "sqlite"])
def test_a_planted_fault_is_found(runtime: str, fault: str, tmp_path: Path) -> None:
    place = f"sqlite:{tmp_path / 'runs.db'}" if runtime == "sqlite" else runtime
    done, faults = run(tmp_path, "--runtime", place, "--plant", fault)
    assert done.returncode == 1, done.stderr
    assert [line for line in faults if line.startswith(FOUND[fault])], faults


def test_every_fault_that_can_be_planted_is_tried() -> None:
    script = (ROOT / "bench" / "multi_tenant.py").read_text()
    planted = script.split("FAULTS: dict", 1)[1].split("}", 1)[0]
    assert {line.split('"')[1] for line in planted.splitlines() if '"' in line} == set(FOUND)

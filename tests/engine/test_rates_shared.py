"""One pace for several processes that share a ledger."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipworthy import RateLimit
from shipworthy.app.ledgers import make_ledger
from tests.engine.pacing import Counted, Paced, Passed, paced, too_many

ROOT = Path(__file__).parents[2]
RUNS, BURST, LIMIT = 100, 10, 200
"""Runs of each process, and requests a second that both may make together."""


async def drive(place: str, name: str, limit: int) -> list[Passed]:
    """What passed of one process's runs, all begun at once."""
    ledger, model = Counted(make_ledger(place)), Paced()
    a = paced(model, RateLimit(requests=limit, period="second", burst=BURST), ledger=ledger)
    await ledger.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    results = await asyncio.gather(
        *[a.run("Hi", tenant_id=f"tenant {n % 3}", run_id=f"{name}-{n}") for n in range(RUNS)]
    )
    assert {result.status for result in results} == {"completed"}
    assert len(model.seen) == RUNS
    await ledger.close()
    return ledger.passed(model)


def both(place: str, *limits: int) -> list[Passed]:
    """What passed in two processes; each is told what the limit is."""
    script = "import sys; from tests.engine.test_rates_shared import main; main(*sys.argv[1:])"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, place, f"p{n}", str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for n, limit in enumerate(limits)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        passed: list[Passed] = []
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            said, _ = child.communicate(timeout=60)
            passed += [(begin, end) for begin, end in json.loads(said)]
        return passed
    finally:
        for child in children:
            child.kill()
            child.wait()


def main(place: str, name: str, limit: str) -> None:
    """One process."""
    print(json.dumps(asyncio.run(drive(place, name, int(limit)))), flush=True)


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a ledger of this test alone is."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/ledger.db"
    elif request.param == "redis":
        yield request.getfixturevalue("redis_url")
    else:
        yield request.getfixturevalue("database")


def test_two_processes_keep_one_pace(place: str) -> None:
    """All runs of both come through, and together never faster than the limit and its burst."""
    passed = both(place, LIMIT, LIMIT)
    assert len(passed) == 2 * RUNS
    assert too_many(passed, LIMIT, 1.0, BURST) is None


def test_a_pace_of_each_process_by_itself_is_caught() -> None:
    """The mutant: a ledger for each."""
    assert too_many(both("inmemory", LIMIT, LIMIT), LIMIT, 1.0, BURST) is not None

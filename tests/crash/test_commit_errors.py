"""The disk fails under a commit: the run stops with a typed error, and resuming reads back what became of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shipworthy import errors
from tests.crash import proof
from tests.crash.proof import DiskFault

pytestmark = pytest.mark.crash

PLANS = {
    "run": proof.Plan(way="run", runs=("z1", "p2")),
    "stream": proof.Plan(way="stream", runs=("z1", "p2")),
    "together": proof.Plan(way="together", runs=("g1", "g2", "z3")),
}
FAULTS = {
    "EIO at a write": ("write", "SQLITE_IOERR_WRITE"),
    "EIO at a sync": ("sync", "SQLITE_IOERR_FSYNC"),
    "ENOSPC at a write": ("write", "SQLITE_FULL"),
}
MANY = 10**6


def nths(plan: proof.Plan, operation: str) -> range:
    """Which operations fail. How many there are depends on who shares a commit where several runs go at once."""
    with proof.worlds() as fresh:
        world = next(fresh)
        made = world.do(plan.job(world, lossy=True)).operations[operation]
    surely = made * 2 // 3 if plan.way == "together" else made
    return range(1, surely + 1, 2 if proof.LONG else max(surely // 8, 1))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("where", ["the same process", "a new process"])
def test_a_failed_commit_stops_the_run_and_harms_nothing(name: str, fault: str, where: str) -> None:
    plan = PLANS[name]
    expected, _ = proof.uncrashed(plan)
    operation, code = FAULTS[fault]
    again, times = (20, 1) if where == "the same process" else (0, MANY)
    found = {}
    told: set[str] = set()
    with proof.worlds() as fresh:
        for nth, world in zip(nths(plan, operation), fresh, strict=False):
            failing = DiskFault(operation, nth, code, times)  # type: ignore[arg-type]
            outcome = world.do(plan.job(world, fault=failing, again=again, tolerant=True))
            assert world.died(), f"never reached: {operation} {nth}"
            told.update(outcome.errors)
            proof.figures.points += 1
            violations = proof.finish_and_judge(world, plan, expected, outcome.pending)
            if violations:
                found[f"{operation} {nth}"] = violations
    assert found == {}
    assert ("StoreFull" if code == "SQLITE_FULL" else "CommitUncertain") in told
    assert all(issubclass(getattr(errors, name), errors.StoreError) for name in told)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("nth", range(3, 15, 1 if proof.LONG else 6))
@pytest.mark.parametrize(
    "inject",
    ["fdatasync:error=EIO:when={}", "fdatasync:error=EIO:when={}+3", "pwrite64:error=ENOSPC:when={}+40"],
)
def test_an_error_of_the_system_call_itself_harms_nothing(inject: str, nth: int) -> None:
    """As the test above, with SQLite's own VFS; strace lets the call fail. *nth* counts in each thread."""
    plan = PLANS["run"]
    expected, _ = proof.uncrashed(plan)
    call = inject.split(":")[0]
    with proof.worlds() as fresh:
        world = next(fresh)
        job = plan.job(world, again=20, tolerant=True)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        run = subprocess.run(
            [*strace, "-e", f"inject={inject.format(nth)}", sys.executable, "-m", "tests.crash.child"],
            input=msgspec.json.encode(job),
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            timeout=90,
        )
        if b"attach" in run.stderr or b"PTRACE" in run.stderr:
            pytest.skip("strace may not trace here")
        assert run.returncode == 0, run.stderr.decode()
        outcome = world.outcome(job)
        assert outcome.errors
        proof.figures.points += 1
        assert proof.finish_and_judge(world, plan, expected, outcome.pending) == []

"""One SQLite file, several processes, threads and event loops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipworthy.adapters.sqlite import SqliteStore, connection
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.scope import Operator
from shipworthy.errors import Fenced, RunBusy
from shipworthy.testing.contracts.store.workers import ALICE, STRANGER, answer, begun, ended, ending, seqs

ROOT = Path(__file__).parents[2]

PREAMBLE = """
import asyncio, json, os, sys
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.errors import *
from shipworthy.testing.contracts.store.workers import *
path, me = sys.argv[1], sys.argv[2]
def say(*what): print(json.dumps(what), flush=True)
"""


class Child:
    """A Python process that says and hears lines of JSON."""

    def __init__(self, script: str, path: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait()}"
        return json.loads(line)

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextmanager
def children(script: str, path: Path, *names: str) -> Iterator[list[Child]]:
    made = [Child(script, path, name) for name in names]
    try:
        yield made
    finally:
        for child in made:
            child.process.kill()
            child.process.communicate()


COMMIT = """
async def drive(store, run_id):
    fence = await begun(store, ALICE, run_id)
    for seq in range(3, 13):
        await store.commit(fence, answer(seq))
    await store.commit(fence, ending(13))
async def main():
    sys.stdin.readline()
    store = SqliteStore(path)
    await store.open()
    await asyncio.gather(*[drive(store, f"{me}-{i}") for i in range(8)])
    mine = [await seqs(store, ALICE, f"{me}-{i}") for i in range(8)]
    await store.close()
    say(all(found == list(range(1, 14)) for found in mine))
say("ready")
asyncio.run(main())
"""


def test_three_processes_share_a_new_file(tmp_path: Path) -> None:
    """They open it at the same moment; every batch of every run lands, and the ends have one order."""
    path = tmp_path / "runs.db"
    names = ("a", "b", "c")
    with children(COMMIT, path, *names) as workers:
        for worker in workers:
            assert worker.hear() == ["ready"]
        for worker in workers:
            worker.tell()
        assert [worker.hear() for worker in workers] == [[True]] * 3

    async def look() -> None:
        store = SqliteStore(path)
        await store.open()
        runs = {f"{name}-{i}" for name in names for i in range(8)}
        assert {run.run_id for run in await store.list(ALICE, RunFilter())} == runs
        for run_id in runs:
            assert await seqs(store, ALICE, run_id) == list(range(1, 14))
        assert sorted(await store.session(ALICE)) == sorted(runs)
        assert list(await store.orphans(Operator("test"))) == []
        await store.close()

    asyncio.run(look())
    assert os.listdir(f"{path}-workers") == []


HOLD = """
async def main():
    store = SqliteStore(path, lease_ttl=float(me), clock_skew=0.1)
    await store.open()
    fence = await begun(store, ALICE, "r")
    await store.commit(fence, answer(3))
    say("holding", os.getpid())
    start_by = store.start_by()
    await asyncio.to_thread(sys.stdin.readline)
    late = store.clock() > start_by
    try:
        await store.commit(fence, answer(4))
        say("landed", late)
    except Fenced:
        say("fenced", late)
    await store.close()
asyncio.run(main())
"""


def test_a_file_that_another_process_creates_while_it_is_looked_at_is_no_stranger(tmp_path: Path) -> None:
    database = connection.Database(str(tmp_path / "runs.db"))
    opened = connection.connect(database)
    opened.pragma("journal_mode", "wal")

    def meanwhile(_: object, statement: str, __: object) -> bool:
        if "user_version" in statement:
            opened.exec_trace = None
            connection.prepare(database).close()
        return True

    opened.exec_trace = meanwhile
    try:
        connection._create(opened, database)
        assert connection._ours(opened, database)
    finally:
        opened.close()


def test_a_killed_process_loses_its_runs_at_once_and_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    async def take_over(worker: Child) -> None:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        with pytest.raises(RunBusy):
            await store.claim(ALICE, "r")
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        claim = await store.claim(ALICE, "r")
        assert claim.previous == "dead"
        assert await seqs(store, ALICE, "r") == [1, 2, 3]
        await store.commit(claim.fence, answer(4))
        await store.close()

    async def come_and_go() -> None:
        """A later worker sweeps what the dead one left."""
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        await store.close()

    with children(HOLD, tmp_path / "runs.db", "3600") as (worker,):
        worker.hear()
        asyncio.run(take_over(worker))
        asyncio.run(come_and_go())
    assert os.listdir(tmp_path / "runs.db-workers") == []


def test_a_process_that_was_stopped_beyond_its_lease_commits_nothing_when_it_goes_on(tmp_path: Path) -> None:
    async def take_over(worker: Child) -> None:
        store = SqliteStore(tmp_path / "runs.db", clock_skew=0.1)
        await store.open()
        worker.process.send_signal(signal.SIGSTOP)
        while True:
            try:
                claim = await store.claim(ALICE, "r")
                break
            except RunBusy:
                await asyncio.sleep(0.05)
        assert claim.previous == "expired"
        await store.commit(claim.fence, answer(4))
        worker.process.send_signal(signal.SIGCONT)
        worker.tell()
        assert worker.hear() == ["fenced", True]
        assert await seqs(store, ALICE, "r") == [1, 2, 3, 4]
        await store.close()

    with children(HOLD, tmp_path / "runs.db", "0.5") as (worker,):
        worker.hear()
        asyncio.run(take_over(worker))


FORK = """
import signal
async def main():
    store = SqliteStore(path)
    await store.open()
    await begun(store, ALICE, "r")
    child = os.fork()
    if child == 0:
        try:
            store.start_by()
        except StoreClosed as error:
            say("refused", os.getpid(), str(error))
        await store.close()  # must not touch what is the parent's
        signal.pause()
    else:
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_forked_child_is_refused_and_does_not_keep_its_dead_parent_alive(tmp_path: Path) -> None:
    async def take_over() -> str:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        claim = await store.claim(ALICE, "r")
        await store.close()
        return claim.previous

    with children(FORK, tmp_path / "runs.db", "x") as (worker,):
        word, child, text = worker.hear()
        try:
            assert (word, "forked" in text) == ("refused", True)
            with pytest.raises(RunBusy):
                asyncio.run(take_over())
            worker.process.kill()
            worker.process.wait()
            assert asyncio.run(take_over()) == "dead"
        finally:
            os.kill(child, signal.SIGKILL)


def test_several_event_loops_use_one_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    asyncio.run(store.open())
    failures: list[BaseException] = []

    async def drive(run_id: str) -> None:
        await store.open()
        fence = await begun(store, ALICE, run_id)
        for seq in range(3, 20):
            await store.commit(fence, answer(seq))
        await store.commit(fence, ending(20))
        assert await seqs(store, ALICE, run_id) == list(range(1, 21))

    async def several(name: int) -> None:
        await asyncio.gather(*[drive(f"{name}-{i}") for i in range(4)])

    def loop(name: int) -> None:
        try:
            asyncio.run(several(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(store.close())
    assert failures == []


def test_a_loop_that_is_gone_does_not_keep_others_waiting(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")

    async def leave_early() -> None:
        await store.open()
        fence = await begun(store, ALICE, "r")
        store._writer.submit(lambda _: None)  # type: ignore[union-attr]
        await store.commit(fence, answer(3))

    async def go_on() -> list[int]:
        claim = await store.claim(ALICE, "r")
        await store.commit(claim.fence, answer(4))
        found = await seqs(store, ALICE, "r")
        await store.close()
        return found

    asyncio.run(leave_early())
    assert asyncio.run(go_on()) == [1, 2, 3, 4]


def test_pruning_goes_in_small_steps_between_which_others_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        await asyncio.gather(*[ended(store, STRANGER, f"old-{i}", at=10, joins=False) for i in range(100)])
        fence = await begun(store, ALICE, "live")
        pruning = asyncio.ensure_future(store.prune(Operator("test"), 50))
        seq = 3
        while not pruning.done():
            await store.commit(fence, answer(seq))
            seq += 1
        assert await pruning == 100
        assert seq > 5, "the live run waited for all of it"
        assert await seqs(store, ALICE, "live") == list(range(1, seq))
        await store.close()

    asyncio.run(scenario())


def test_a_fence_of_a_pruned_run_fits_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "runs.db")
        await store.open()
        fence = await begun(store, ALICE, "old", at=10)
        await store.commit(fence, ending(3, at=10, joins=False))
        assert await store.prune(Operator("test"), 50) == 1
        again = await begun(store, ALICE, "old")
        assert again.key != fence.key
        with pytest.raises(Fenced):
            await store.commit(fence, answer(3))
        await store.close()

    asyncio.run(scenario())

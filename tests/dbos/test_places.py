"""Where runs wait for a worker, and where there is none to be had."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from shipworthy import (
    DBOSRuntime,
    SqliteRuntime,
)
from shipworthy.errors import (
    ConfigurationError,
    DriverUnavailable,
    InvalidDeps,
    RunBusy,
)
from tests.dbos.world import ALICE, Till, agent, go, over, runtime_on, set_polling, until


def test_the_callers_loop_keeps_its_executor(tmp_path: Path) -> None:
    async def law() -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as mine:
            asyncio.get_running_loop().set_default_executor(mine)
            async with runtime_on(tmp_path) as runtime:
                await agent(runtime, Till()).run("Go", **ALICE)
            assert (await asyncio.to_thread(lambda: threading.current_thread().name)).startswith("mine")

    go(law)


def test_a_run_waits_in_the_queue_until_a_process_takes_it(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await runtime.open()
            await asyncio.to_thread(set_polling, "desk/clerk", 0.05)
            result = await a.run("Go", run_id="r", **ALICE)
            assert (result.output, till.taken) == ("Charged.", [5])
            (workflow,) = await asyncio.to_thread(DBOS.list_workflows)
            assert workflow.queue_name == "desk/clerk"

    go(law)


def test_a_run_in_the_queue_is_nobodys_to_take_and_can_be_cancelled(tmp_path: Path) -> None:
    async def law() -> None:
        till = Till()
        async with runtime_on(tmp_path, queue="desk") as runtime:
            a = agent(runtime, till)
            await runtime.open()
            await asyncio.to_thread(set_polling, "desk/clerk", 3600.0)
            await asyncio.sleep(1.5)  # the last look before that
            task = asyncio.create_task(a.run("Go", run_id="r", **ALICE))
            await until(lambda now: now == ["ENQUEUED"])
            with pytest.raises(RunBusy, match="queue"):
                await a.resume("r", tenant_id="acme")
            assert await a.recover() == []
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await a.resume("r", tenant_id="acme")).status == "cancelled"
            assert (till.taken, await over(1)) == ([], ["CANCELLED"])

    go(law)


def test_a_process_has_one(tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_on(tmp_path) as runtime:
            await runtime.open()
            other = DBOSRuntime(f"sqlite:{tmp_path / 'other.db'}")
            with pytest.raises(ConfigurationError, match="Share one DBOSRuntime"):
                await other.open()
            await other.store.close()
        async with runtime_on(tmp_path) as runtime:
            assert (await agent(runtime, Till()).run("Go", **ALICE)).output == "Charged."

    go(law)


def test_what_cannot_reach_a_worker_is_refused(tmp_path: Path) -> None:
    async def law() -> None:
        async with runtime_on(tmp_path) as runtime:
            a = agent(runtime, Till())
            with pytest.raises(InvalidDeps, match="factory"):
                await a.run("Go", deps=1, **ALICE)
            with pytest.raises(ConfigurationError, match="name"):
                await agent(runtime, Till()).run("Go", **ALICE)

    go(law)


@pytest.mark.parametrize("url", ["", "sqlite:", "mysql://host/db", 5, "postgres://"])
def test_a_place_that_dbos_cannot_use_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="DBOS"):
        DBOSRuntime(url)


@pytest.mark.parametrize("name", ["x", "", "My App", "abc\n", 5])
def test_a_name_that_dbos_refuses_is_refused_where_it_is_given(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a-z"):
        DBOSRuntime("sqlite:bot.db", name=name)


def test_a_database_that_cannot_be_reached_is_said_so(tmp_path: Path) -> None:
    async def law() -> None:
        store = SqliteRuntime(tmp_path / "bot.db").store
        runtime = DBOSRuntime("postgresql://nobody:secret@127.0.0.1:9/db", store=store)
        started = time.monotonic()
        with pytest.raises(DriverUnavailable) as caught:
            await agent(runtime, Till()).run("Go", **ALICE)
        assert time.monotonic() - started < 5
        assert "secret" not in str(caught.value)
        await runtime.close()

    go(law)


def test_without_the_package_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['dbos'] = None\nfrom shipworthy import DBOSRuntime\nDBOSRuntime('sqlite:a.db')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingExtra" in done.stderr
    assert "shipworthy[dbos]" in done.stderr

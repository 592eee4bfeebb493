"""The server is killed and started again in the middle of many runs, or ends all their sessions.

Who is patient goes on as if nothing had been; who is not is told so, and what was acknowledged is there. No effect is
repeated.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest

from shipworthy.adapters.postgres import PostgresStore
from tests.crash import proof
from tests.crash.databases import PostgresDatabase
from tests.crash.proof import Plan, World
from tests.postgres.plans import on_postgres
from tests.servers.postgres import OwnPostgres

pytestmark = pytest.mark.crash

KILLS = 2
HARASSED = 20.0
"""Seconds after which sessions are left alone: a machine that is busy could get nothing done between two ends."""
ROUNDS = 8 if proof.LONG else 1
RUNS = tuple(f"{'gz'[n % 2]}{n}" for n in range(64 if proof.LONG else 32))
PAUSE = 0.5
"""Seconds that a body takes; the runs have some of them, so that they last for as long as the kills."""
PATIENT = on_postgres(
    Plan(way="together", runs=RUNS), pause=PAUSE, tool_timeout=PAUSE + 1.0, patience=20.0, ttl=1.0
)
IMPATIENT = proof.with_setting(PATIENT, patience=0.05, ttl=0.3, pause=0.3, tool_timeout=0.8)
SERVING = on_postgres(
    Plan(way="serve", runs=RUNS), pause=0.2, tool_timeout=1.0, patience=20.0, recover_every=0.2, fencing=True
)


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    with OwnPostgres() as started:
        yield started


@contextmanager
def a_world(server: OwnPostgres, folder: Path) -> Iterator[World]:
    dsn = server.fresh_database()
    yield World(folder, PostgresDatabase(dsn))
    server.drop_database(dsn)


def expected_of(plan: Plan) -> proof.Reference:
    alone = msgspec.structs.replace(plan, way="together")
    return proof.uncrashed(proof.with_setting(alone, pause=0.0, patience=5.0))[0]


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_runs_outlive_a_server_that_is_killed_and_started_again(
    server: OwnPostgres, tmp_path: Path, round_: int
) -> None:
    chance = random.Random(f"{proof.SEED} patient {round_}")
    expected = expected_of(PATIENT)
    with a_world(server, tmp_path) as world:
        job = PATIENT.job(world)
        child = world.start(job)
        while not world.acks() and not child.ended:
            time.sleep(0.02)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, PAUSE))
            if child.ended:
                break
            server.kill()
            server.start()
            proof.figures.kills += 1
        assert proof.figures.kills, "it was over too soon"
        assert child.wait() == 0, child.log.read_text()
        assert (world.outcome(job).errors, world.outcome(job).pending) == ([], [])
        violations = proof.judge_end(world, expected)
        proof.figures.found(violations)
        assert violations == []


def killed_under(server: OwnPostgres, world: World, plan: Plan, recover: bool, after: float) -> list[str]:
    """What runs are told when the server is killed in their midst, and gone for longer than they wait."""
    job = plan.job(world, tolerant=True, recover=recover)
    child = world.start(job)
    time.sleep(after)
    server.kill()
    try:
        assert child.wait() == 0, child.log.read_text()
        return world.outcome(job).errors
    finally:
        server.start()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_runs_that_a_killed_server_stopped_are_recovered(
    server: OwnPostgres, tmp_path: Path, round_: int
) -> None:
    chance = random.Random(f"{proof.SEED} impatient {round_}")
    expected = expected_of(IMPATIENT)
    with a_world(server, tmp_path) as world:
        told: set[str] = set()
        for number in range(KILLS):
            told.update(killed_under(server, world, IMPATIENT, number > 0, chance.uniform(0.3, PAUSE + 0.3)))
            proof.figures.kills += 1
            assert proof.judge_crash(world) == []
        assert proof.finish_and_judge(world, IMPATIENT, expected) == []
        assert told
        assert told <= {"CommitUncertain", "StoreUnavailable"}


async def made(world: World) -> None:
    store = PostgresStore(world.database.address)
    await store.open()
    await store.close()


def test_without_its_sync_a_killed_server_loses_what_it_acknowledged(
    server: OwnPostgres, tmp_path: Path, figures: proof.Figures
) -> None:
    """The mutant of these."""
    careless = proof.with_mutant(IMPATIENT, "left_to_the_server")
    lost: list[proof.Violation] = []
    with a_world(server, tmp_path) as world:
        asyncio.run(made(world))  # or the schema may be lost as well, and nothing can be read
        for number in range(6):
            killed_under(server, world, careless, number > 0, 0.4 + number / 20)
            if lost := proof.judge_crash(world):
                break
    assert {violation.kind for violation in lost} == {"lost"}


def test_runs_outlive_the_end_of_all_sessions(server: OwnPostgres, tmp_path: Path) -> None:
    """A worker without its session may lose its runs to another one, at once; their callers find them there."""
    expected = expected_of(SERVING)
    with a_world(server, tmp_path) as world:
        jobs = [proof.with_runs(SERVING, RUNS[i::2]).job(world, again=50, tolerant=True) for i in range(2)]
        children = [world.start(job) for job in jobs]
        while len(world.acks()) < len(RUNS) and not all(child.ended for child in children):
            time.sleep(0.02)  # what cannot be opened is said so, at once
        chance = random.Random(f"{proof.SEED} sessions")
        peace = time.monotonic() + HARASSED
        while not all(child.ended for child in children) and time.monotonic() < peace:
            time.sleep(chance.uniform(0.05, 0.5))
            proof.figures.kills += sessions_ended(world)
        assert [child.wait() for child in children] == [0, 0], [child.log.read_text() for child in children]
        violations = proof.judge_end(world, expected)
        proof.figures.found(violations)
        assert violations == []


def sessions_ended(world: World) -> int:
    with psycopg.connect(world.database.address, autocommit=True) as connection:
        return connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()[0][0]

"""Several processes that ask a new store at once what it signs with."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.postgres import Postgres

ROOT = Path(__file__).parents[2]
ASK = """
import asyncio, json, sys
from shipworthy.app.runtimes import runtime_for

async def main():
    store = runtime_for(sys.argv[1]).store
    await store.open()
    print("ready", flush=True)
    sys.stdin.readline()
    asked = await asyncio.gather(*[store.signing_keys() for _ in range(4)])
    print(json.dumps([[key.id, key.secret.hex()] for keys in asked for key in keys]), flush=True)
    await store.close()

asyncio.run(main())
"""
MUTANT = """
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.shared.keys import new_key
from shipworthy.adapters.sqlite import SqliteStore

async def own(self, made=[new_key()]):
    return made

PostgresStore.signing_keys = SqliteStore.signing_keys = own
"""


def asked(address: str, script: str) -> list[list[list[str]]]:
    """What each of four processes is told."""
    with contextlib.ExitStack() as stack:
        children = []
        for _ in range(4):
            child = subprocess.Popen(
                [sys.executable, "-c", script, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            stack.callback(child.communicate)
            stack.callback(child.kill)
            children.append(child)
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        told: list[list[list[str]]] = [
            json.loads(child.stdout.readline()) for child in children if child.stdout
        ]
        return told


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'runs.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.fresh_database()


def test_processes_that_ask_at_once_sign_with_one_key(address: str) -> None:
    told = asked(address, ASK)
    [key] = told[0][:1]
    assert told == [[key] * 4] * 4


def test_a_key_made_in_each_process_is_caught(address: str) -> None:
    told = asked(address, MUTANT + ASK)
    assert len({json.dumps(each) for each in told}) == 4

"""`shipworthy worker`: a process that serves an agent's runs until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipworthy.app.cli import invoke
from tests.temporal.world import TENANT, Bank, until, with_loop

SHOP = """
from shipworthy import Agent, EchoModel, ScriptedModel, SqliteRuntime, TemporalRuntime, ToolCall, tool

@tool(effect="read")
async def look(n: int) -> str:
    return f"fact {{n}}"

@tool(effect="once")
async def pay(amount: int) -> str:
    return f"paid {{amount}}"

model = ScriptedModel([ToolCall("look", {{"n": 1}}), "over"])
own = Agent(model=model, tools=[look, pay], name="bank", runtime=TemporalRuntime(
    "{address}", store="sqlite:bank.db", task_queue="{queue}", patience=2.0))
moved = Agent(model=model, tools=[look, pay], name="bank", runtime=SqliteRuntime("bank.db"))
nowhere = Agent(model=EchoModel(), name="bank")
"""


@pytest.fixture
def bank(tmp_path: Path, temporal: str) -> Bank:
    bank = Bank(tmp_path, temporal)
    (tmp_path / "shop.py").write_text(SHOP.format(address=temporal, queue=bank.queue))
    return bank


@contextlib.contextmanager
def worker(bank: Bank, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, in a process."""
    started = subprocess.Popen(
        [sys.executable, "-m", "shipworthy.app.cli", "worker", *arguments, "--json"],
        cwd=bank.path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


async def listens(started: subprocess.Popen[str]) -> dict[str, str]:
    """What it says once it listens."""
    assert started.stdout is not None
    line = await asyncio.to_thread(started.stdout.readline)
    assert line, started.communicate()[1]
    told: dict[str, str] = json.loads(line)["serving"]
    return told


async def ends(started: subprocess.Popen[str], number: int) -> int:
    started.send_signal(number)
    await until(lambda: started.poll() is not None)
    assert started.returncode is not None
    return started.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@with_loop
async def test_it_serves_where_the_agent_s_runtime_is_and_leaves_when_told(bank: Bank, number: int) -> None:
    caller = bank.agent()
    with worker(bank, "shop.py:own") as started:
        told = await listens(started)
        result = await caller.run("Look.", **TENANT)
        assert await ends(started, number) == 0
    assert result.output == "over"
    assert told == {
        "agent": "bank",
        "address": bank.address,
        "namespace": "default",
        "task_queue": bank.queue,
    }
    await caller.close()


@with_loop
async def test_it_serves_an_agent_of_another_runtime_on_that_runtime_s_store(bank: Bank) -> None:
    caller = bank.agent()
    with worker(bank, "shop.py:moved", "--temporal", bank.address, "--task-queue", bank.queue) as started:
        await listens(started)
        result = await caller.run("Look.", **TENANT)
        assert await ends(started, signal.SIGTERM) == 0
    assert result.output == "over"
    await caller.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shop.py:moved"], "--temporal host:port"),
        (["shop.py:nowhere", "--temporal", "127.0.0.1:1"], "postgres://"),
        (["shop.py:own", "--temporal", "127.0.0.1:1"], "cannot be reached"),
        (["shop.py:own", "--namespace", "nowhere"], "namespace create -n nowhere"),
    ],
)
def test_what_is_wrong_is_said(
    bank: Bank,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(bank.path.parent)
    assert invoke(["worker", *arguments]) == 1
    assert words in capsys.readouterr().err

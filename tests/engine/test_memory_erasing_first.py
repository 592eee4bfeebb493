"""Erasing with an agent's memory before the agent ran, in a process that is new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy import Agent, Scope
from shipworthy.app.memories import InMemoryMemory, SqliteMemory
from shipworthy.engine.erasing import runs_of
from shipworthy.testing import EchoModel, ScriptedModel, mock

ALICE = Scope("acme", "alice")
Build = Callable[..., Agent[Any, Any]]


async def _left(path: Path, build: Build) -> list[str]:
    """Runs of Alice that are left after a new process erased her before it ran anything."""
    for erases in (False, True):
        memory = SqliteMemory(path / "bot.db", embedder=None)
        bot = build(model=EchoModel(), memory=memory, runtime=f"sqlite:{path / 'bot.db'}")
        if erases:
            await memory.erase(ALICE)
        else:
            await bot.run("My word is canary.", tenant_id="acme", user_id="alice", run_id="r")
            assert await runs_of(bot.runtime, ALICE) == ["r"]
        left = await runs_of(bot.runtime, ALICE)
        await bot.close()
    return left


def _covering_at_the_first_run(**options: Any) -> Agent[Any, Any]:
    bot: Agent[Any, Any] = Agent(**options)
    assert bot.memory is not None
    bot.memory._journals.clear()
    return bot


def test_erasing_before_the_first_run_erases_the_journals_too(tmp_path: Path) -> None:
    assert asyncio.run(_left(tmp_path, Agent)) == []


def test_an_agent_that_tells_its_memory_of_the_runtime_late_is_found_out(tmp_path: Path) -> None:
    assert asyncio.run(_left(tmp_path, _covering_at_the_first_run)) == ["r"]


@pytest.mark.parametrize("model", [mock(), EchoModel(), ScriptedModel([])])
def test_no_double_is_asked_to_learn(model: Any) -> None:
    bot: Agent[Any, Any] = Agent(model=model, memory=InMemoryMemory(embedder=None))
    assert bot._memory is not None
    assert not bot._memory._extracts

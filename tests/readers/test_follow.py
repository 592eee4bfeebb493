"""`runs show --follow` shows a journal as it grows, whoever drives the run, and says how the run ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from shipworthy import Agent, Inbox, ScriptedModel, SqliteRuntime, StandardPermissions, ToolCall, tool
from shipworthy.app import cli
from shipworthy.app.commands import following
from tests.readers.world import ALICE, refund

SHOW = ("runs", "show", "r1", "--tenant", "acme", "--follow")
ROOT = Path(__file__).parents[2]


def driven(path: Path, *, fails: bool = False) -> None:
    """A run in the file, to its end."""
    script: list[Any] = [ValueError("no model today")] if fails else ["Done."]

    async def go() -> None:
        async with Agent(model=ScriptedModel(script), runtime=SqliteRuntime(str(path))) as agent:
            await agent.run("?", **ALICE, run_id="r1")

    asyncio.run(go())


def followed(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    code = cli.invoke([*SHOW, "--store", f"sqlite:{path}", *more])
    return code, capsys.readouterr().out


def law_of_following(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody else's run is shown to its end: what was there, and what comes while one looks."""
    looking = threading.Event()

    @tool(effect="read")
    def wait() -> str:
        """Wait until somebody looks."""
        begun.set()
        return "seen" if looking.wait(20) else "not seen"

    begun = threading.Event()

    async def go() -> None:
        model = ScriptedModel([ToolCall("wait"), "Done."])
        async with Agent(model=model, tools=[wait], runtime=SqliteRuntime(str(path))) as agent:
            await agent.run("?", **ALICE, run_id="r1")

    before = following._show

    def show(*given: Any) -> None:
        before(*given)
        if type(given[1]).__name__ == "ToolAttempted":
            looking.set()

    driver = threading.Thread(target=lambda: asyncio.run(go()))
    driver.start()
    try:
        assert begun.wait(10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(following, "_show", show)
            code, out = followed(path, capsys)
    finally:
        looking.set()
        driver.join()
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()] == [
        "run_started",
        "model_requested",
        "model_answered",
        "tools_judged",
        "tool_attempted",
        "tool_returned",
        "model_requested",
        "model_answered",
        "run_ended",
    ]
    assert "wait: seen" in out


def test_a_run_that_somebody_else_drives_is_followed_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law_of_following(tmp_path / "runs.db", capsys)


def test_the_law_catches_one_that_shows_what_is_there_and_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def glance(printer: Any, store: Any, scope: Any, run_id: str, *, full: bool) -> int:
        for event in await store.read(scope, run_id):
            following._show(printer, event, {}, full)
        return 0

    monkeypatch.setattr(following, "follow", glance)
    with pytest.raises(AssertionError):
        law_of_following(tmp_path / "runs.db", capsys)


def test_the_exit_code_says_how_the_run_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driven(tmp_path / "failed.db", fails=True)
    code, out = followed(tmp_path / "failed.db", capsys)
    assert code == 1
    assert "failed" in out.splitlines()[-1]


def test_as_json_it_is_a_line_for_each_event_and_the_run_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driven(tmp_path / "runs.db")
    code, out = followed(tmp_path / "runs.db", capsys, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["event"]["seq"] for line in lines[:-1]] == [1, 2, 3, 4]
    assert (lines[-1]["run"]["run_id"], lines[-1]["run"]["status"]) == ("r1", "completed")


def test_a_run_that_is_not_there_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driven(tmp_path / "runs.db")
    code = cli.invoke(
        ["runs", "show", "r2", "--tenant", "acme", "--follow", "--store", f"sqlite:{tmp_path}/runs.db"]
    )
    assert code == 1
    assert "r2" in capsys.readouterr().err


def hears_ctrl_c() -> None:
    """Whatever started the tests: a shell's job in the background ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_paused_run_is_followed_until_ctrl_c(tmp_path: Path) -> None:
    async def go() -> None:
        options: dict[str, Any] = {"permissions": StandardPermissions(), "approval_handler": Inbox()}
        model, runtime = (
            ScriptedModel([ToolCall("refund", {"number": "17"})]),
            SqliteRuntime(f"{tmp_path}/runs.db"),
        )
        async with Agent(model=model, tools=[refund], runtime=runtime, **options) as agent:
            await agent.run("?", **ALICE, run_id="r1")

    asyncio.run(go())
    command = [sys.executable, "-m", "shipworthy.app.cli", *SHOW, "--store", "sqlite:runs.db"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    with child:
        try:
            assert child.stdout is not None
            while "run_parked" not in child.stdout.readline():
                assert child.poll() is None
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 130
        finally:
            child.kill()

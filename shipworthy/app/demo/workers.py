"""The parent's side of the workers: start one, read what it tells, kill it where it is told to."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

import shipworthy
from shipworthy.app.demo.worker import Task
from shipworthy.errors import ShipworthyError

_LINE = 16 * 1024 * 1024
_PATIENCE = 300


class DemoBroken(ShipworthyError):
    """The demo itself could not go on."""

    fix = "Run it again; if it recurs, please report it with this text."


class Sitting(msgspec.Struct, kw_only=True):
    """What one worker did of a run. `seen`: the events that it streamed, as the bytes that it wrote."""

    tenant: str
    run_id: str
    pid: int = 0
    returncode: int | None = None
    killed_at: str | None = None
    seen: list[bytes] = []
    status: str | None = None
    error: str | None = None
    pending: list[str] = []


class _Line(msgspec.Struct):
    """One line of a worker."""

    pid: int = 0
    inside: str | None = None
    event: msgspec.Raw = msgspec.Raw()
    status: str | None = None
    error: str | None = None
    pending: list[str] = []


async def work(task: Task) -> Sitting:
    """Run a worker to its end; where it says that it is inside the stop, kill it there with SIGKILL."""
    sitting = Sitting(tenant=task.tenant, run_id=task.run_id)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shipworthy.app.demo.worker",
        msgspec.json.encode(task).decode(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        limit=_LINE,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            errors, _ = await asyncio.gather(_text_of(process.stderr), _read(process, sitting))
            sitting.returncode = await process.wait()
    except TimeoutError:
        raise DemoBroken(f"A worker on run {task.run_id} did not end within {_PATIENCE} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if sitting.killed_at is None and sitting.returncode != 0:
        raise DemoBroken(f"A worker ended with {sitting.returncode}:\n{errors}")
    return sitting


async def _read(process: asyncio.subprocess.Process, sitting: Sitting) -> None:
    assert process.stdout is not None
    async for text in process.stdout:
        line = msgspec.json.decode(text, type=_Line)
        if bytes(line.event):
            sitting.seen.append(bytes(line.event))
        elif line.inside is not None:
            sitting.killed_at = line.inside
            process.kill()
        elif line.pid:
            sitting.pid = line.pid
        else:
            sitting.status, sitting.error, sitting.pending = line.status, line.error, line.pending


async def _text_of(stream: asyncio.StreamReader | None) -> str:
    return (await stream.read()).decode(errors="replace") if stream is not None else ""


def _environment() -> dict[str, str]:
    """The same shipworthy in the worker as here, wherever it was imported from."""
    home = str(Path(shipworthy.__file__).parents[1])
    paths: list[Any] = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

"""Records the golden histories anew: python -m tests.temporal.make"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from shipworthy import Agent, InMemoryMemory
from shipworthy.domain.events import ModelFailed
from shipworthy.errors import ModelUnavailable, RequestRejected
from tests.servers import session
from tests.servers.temporal import OwnTemporal
from tests.temporal.world import TENANT, Bank, call, until

GOLDEN = Path(__file__).with_name("golden")
RUNS = {
    "paid": ([call("look", n=1), call("look", n=2)], call("pay", amount=7), "over"),
    "rejected": (RequestRejected("wrong key"),),
    "cancelled": (call("wire", amount=7), "over"),
    "stopped": (ModelUnavailable("down", retry_after=30.0), "over"),
    "remembered": ("over",),
}


async def to_its_end(caller: Agent[Any, str], run_id: str) -> None:
    """The run."""
    await caller.run("Do it.", **TENANT, run_id=run_id)


async def until_it_waits(caller: Agent[Any, str], run_id: str) -> None:
    """The run, which is stopped while it waits for the model's next attempt: between two steps."""
    async with caller.stream("Do it.", **TENANT, run_id=run_id) as stream:
        async for item in stream:
            if isinstance(item, ModelFailed):
                return


async def record(address: str, folder: Path) -> None:
    """Every kind of step, in five runs."""
    for run_id, turns in RUNS.items():
        bank = Bank(folder, address)
        memory = InMemoryMemory(embedder=None) if run_id == "remembered" else None
        caller = bank.agent(*turns, memory=memory)
        async with bank.worker(*turns, memory=memory):
            read = until_it_waits if run_id == "stopped" else to_its_end
            task = asyncio.create_task(read(caller, run_id))
            if run_id == "cancelled":
                await until(bank.begun.is_set)
                task.cancel()
            await asyncio.wait([task])
            await caller.resume(run_id, **TENANT)
        for number, history in enumerate(await bank.histories(run_id), start=1):
            text = json.dumps(json.loads(history.to_json()), indent=1)
            anonymous = re.sub(r'"[0-9]+@[^"]*"', '"somebody"', text)
            (GOLDEN / f"1-{run_id}-{number}.json").write_text(anonymous + "\n")
        await caller.close()


if __name__ == "__main__":
    session.open_session()
    try:
        GOLDEN.mkdir(exist_ok=True)
        with OwnTemporal() as server, tempfile.TemporaryDirectory() as place:
            asyncio.run(record(server.address, Path(place)))
    finally:
        session.close_session()

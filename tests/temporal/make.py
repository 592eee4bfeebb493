"""Records the golden histories anew: python -m tests.temporal.make"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from pathlib import Path

from shipworthy.errors import RequestRejected
from tests.servers import session
from tests.servers.temporal import OwnTemporal
from tests.temporal.world import TENANT, Bank, call, until

GOLDEN = Path(__file__).with_name("golden")
RUNS = {
    "paid": ([call("look", n=1), call("look", n=2)], call("pay", amount=7), "over"),
    "rejected": (RequestRejected("wrong key"),),
    "cancelled": (call("wire", amount=7), "over"),
}


async def record(address: str, folder: Path) -> None:
    """Every kind of step, in three runs."""
    for run_id, turns in RUNS.items():
        bank = Bank(folder, address)
        caller = bank.agent(*turns)
        async with bank.worker(*turns):
            task = asyncio.create_task(caller.run("Do it.", **TENANT, run_id=run_id))
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

"""The child of the crash proofs, with its runs driven by DBOS."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from dbos._sys_db import SystemDatabase

from shipworthy import DBOSRuntime
from shipworthy.adapters.dbos import Workflows
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import RunNotFound
from tests.crash import child, scenario

SAME_EXECUTOR = "same-executor"
"""A file in the folder of a world whose processes DBOS takes for one that is started again. They leave it to DBOS to
recover what the last one left."""

QUEUED = "queued"
"""A file in the folder of a world where runs wait in a queue of DBOS."""

UNTOLD = "untold"
"""A file in the folder of a world where DBOS does not tell a process that its workflow was cancelled."""


def preload() -> None:
    """Import what a job needs, in the process that is forked for each."""
    import shipworthy.app.dbos  # noqa: F401

    child.preload()


def main(raw: dict[str, Any]) -> None:
    """Do a job to its end, or to its point."""
    child.main(raw, Process)


async def untold(*_: Any) -> None:
    """Cancels nothing."""


class Process(child.Process):
    """Drives the scenario's runs as DBOS workflows. What DBOS notes of a step is a durable write too."""

    def _runtime(self) -> Runtime:
        self._same = (self.folder / SAME_EXECUTOR).exists()
        record = SystemDatabase.record_operation_result

        def pointed(*args: Any, **options: Any) -> None:
            with self.points.around("dbos"):
                record(*args, **options)

        SystemDatabase.record_operation_result = pointed  # type: ignore[method-assign]
        if (self.folder / UNTOLD).exists():
            Workflows.cancel = untold  # type: ignore[method-assign]
        return DBOSRuntime(
            self.job.database or f"sqlite:{self.folder / 'runs.db'}",
            store=super()._runtime().store,
            executor_id="clerk" if self._same else None,
            queue="desk" if (self.folder / QUEUED).exists() else None,
        )

    async def _open(self) -> bool:
        await super()._open()
        for run_id in self.job.runs if self._same else ():
            # DBOS knows nothing of a run that was begun right before the end.
            with contextlib.suppress(RunNotFound, TimeoutError):
                async with (
                    asyncio.timeout(5),
                    self.agent.stream(run_id=run_id, tenant_id=scenario.tenant(run_id)) as stream,
                ):
                    async for _ in stream:
                        pass
        return True

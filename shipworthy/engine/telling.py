"""Telling an inbox what a parked run waits for. The journal has it; whoever missed this finds it there."""

from __future__ import annotations

import logging

from shipworthy.engine.live import LiveRun
from shipworthy.engine.objecting import answered
from shipworthy.engine.requests import of_state
from shipworthy.ports.hooks import Desk
from shipworthy.rules.text import described

log = logging.getLogger("shipworthy")


async def tell(run: LiveRun) -> None:
    """Deliver the requests that are new, once they are durable. What goes wrong is logged."""
    desk = run.governance.desk
    if run.parent is not None:
        return  # the outermost run tells
    new = set(run.asked)
    run.asked.clear()
    if desk is None:
        return
    try:
        await answered(lambda: _deliver(run, desk, new), run.governance.patience)
    except Exception as error:
        log.warning("The inbox was not told of run %r, which waits for it: %s", run.run_id, described(error))


async def _deliver(run: LiveRun, desk: Desk, new: set[str]) -> None:
    requests = [each for each in await of_state(run.store, run.state) if each.address in new]
    if requests:
        await desk.deliver(requests)

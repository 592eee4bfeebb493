"""`shipworthy runs show --follow`: a journal's timeline as it grows, whoever drives the run."""

from __future__ import annotations

from typing import Any

from shipworthy.app.commands import timeline
from shipworthy.app.commands.printing import ERROR, OK, STOPPED, Printer
from shipworthy.app.commands.runs import summary_data
from shipworthy.domain.events import AnyEvent, RunEnded
from shipworthy.domain.scope import Scope
from shipworthy.ports.store import Store

_SOONEST, _LATEST = 0.02, 0.5
"""Seconds between two looks at a journal, where its store has no news of its own to tell."""
_CODES = {"completed": OK, "failed": ERROR}


async def follow(printer: Printer, store: Store, scope: Scope, run_id: str, *, full: bool) -> int:
    """Show every event, also those to come, until the run ends; gives the exit code that says how. A pause is no end.
    Raises RunNotFound."""
    await store.find(scope, run_id)
    names: dict[str, str] = {}
    after, wait = 0, _SOONEST
    while True:
        events = await store.read(scope, run_id, after)
        for event in events:
            _show(printer, event, names, full)
            after = event.seq
        if events and isinstance(last := events[-1], RunEnded):
            if printer.as_json:
                printer.emit({"run": summary_data(await store.find(scope, run_id))})
            return _CODES.get(last.status, STOPPED)
        wait = _SOONEST if events else min(wait * 2, _LATEST)
        await store.news(scope, run_id, wait)


def _show(printer: Printer, event: AnyEvent, names: dict[str, str], full: bool) -> None:
    if printer.as_json:
        printer.emit({"event": event})
        return
    for line in timeline.lines([event], names):
        printer.console.print(_row(line), no_wrap=not full, overflow="fold" if full else "ellipsis")


def _row(line: timeline.Line) -> Any:
    from rich.text import Text

    return Text.assemble(
        (f"{line.seq:>3}  {timeline.clock(line.at)}  ", "dim"),
        (f"{line.kind:<18}", line.style),
        f"  {line.what}",
    )

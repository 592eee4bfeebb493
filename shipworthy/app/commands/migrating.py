"""`shipworthy runs migrate`: bring every run to another store, and say what could not be brought."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from shipworthy.app.commands.printing import ERROR, OK, Printer, console, note
from shipworthy.app.commands.runs import existing, place_of, summary_data
from shipworthy.app.runtimes import runtime_for
from shipworthy.engine.migrate import Migration, Report
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError

_SHOWN = 20
"""Runs that are named to a person; JSON has them all."""


def migrate(source: str, destination: str, tenant: str | None, *, as_json: bool) -> int:
    """Bring the runs over; gives the exit code: ERROR if any was left behind."""
    printer = Printer(as_json=as_json)
    old, new = place_of(source), place_of(destination)
    if old == new:
        raise ConfigurationError(f"--from and --to are both {new}.", fix="Name another store with --to.")
    report = asyncio.run(_migrate(printer, existing(source), runtime_for(destination), (old, new), tenant))
    if as_json:
        printer.emit(_data(report, old, new))
    else:
        _say(printer, report, old, new)
    return ERROR if report.left else OK


async def _migrate(
    printer: Printer, old: Runtime, new: Runtime, names: tuple[str, str], tenant: str | None
) -> Report:
    origin, to = names
    async with contextlib.AsyncExitStack() as stack:
        for runtime in (old, new):
            await runtime.store.open()
            stack.push_async_callback(runtime.store.close)
        migration = Migration(old.store, new.store, origin=origin, to=to, tenant=tenant)
        with _progress(printer, migration) as total:
            if total is not None:
                total(await migration.count())
            return await migration.work()


def _data(report: Report, old: str, new: str) -> dict[str, Any]:
    left = [
        {
            **summary_data(left.run),
            "type": type(left.error).__name__,
            "what": left.error.what,
            "fix": left.error.fix or None,
        }
        for left in report.left
    ]
    counts = {
        name: getattr(report, name) for name in ("runs", "copied", "moved", "there", "counters", "grants")
    }
    return {"from": old, "to": new, **counts, "left": left}


def _say(printer: Printer, report: Report, old: str, new: str) -> None:
    printer.say(
        f"{report.runs} runs of {old}: {report.copied} ended ones copied, {report.moved} moved, "
        f"{report.there} there already, {len(report.left)} left behind."
    )
    for left in report.left[:_SHOWN]:
        run = left.run
        note(f"left: {run.scope.tenant}  {run.run_id}  {run.status}: {left.error}")
    if len(report.left) > _SHOWN:
        note(f"... and {len(report.left) - _SHOWN} more; --json names them all.")
    if report.counters:
        printer.say(f"What was spent came along, in {report.counters} counters.")
    if report.grants:
        printer.say(f"What people said yes to came along, in {report.grants} grants.")
    if not report.left:
        printer.say(f"Everything is in {new}.")


@contextlib.contextmanager
def _progress(printer: Printer, migration: Migration) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, where somebody looks at it, once the total is told."""
    if printer.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task("migrating", total=None)
        migration.advance = lambda: progress.advance(task)
        yield lambda total: progress.update(task, total=total)

"""`shipworthy audit verify`: whether a log is as it was written, and what could have been done without a trace."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from shipworthy.app.commands.opening_audit import Anchored, Given, Opened, anchored, reading, secrets_of
from shipworthy.app.commands.printing import ERROR, OK, USAGE, Printer, console, failed, note
from shipworthy.app.commands.visible import on_one_line
from shipworthy.errors import AnchorError
from shipworthy.rules.audit.verdicts import Report
from shipworthy.rules.audit.verifying import Verifier

_STEP = 4096


class Request(NamedTuple):
    """What is to be verified, and by what."""

    log: str
    secrets: Given
    anchors: Sequence[str]
    expected_log: str | None
    name: str | None
    as_json: bool


def verify(request: Request) -> int:
    """Verify a log; 0 if it is as it was written, 2 if an anchor could not be asked."""
    printer = Printer(as_json=request.as_json)
    try:
        return _verified(request, printer)
    except AnchorError as error:
        failed(error, printer)
        return USAGE


def _verified(request: Request, printer: Printer) -> int:
    secrets = secrets_of(request.secrets)
    with reading(request.log, found_only=False) as log, contextlib.ExitStack() as stack:
        seals = log.seals()
        own = log.checkpoints()
        kept = anchored(request.anchors, request.name or log.name())
        for each in kept:
            stack.callback(each.close.close)
        verifier = Verifier(
            secrets,
            seals=seals,
            checkpoints=own,
            anchored=[each.lines for each in kept],
            expected_log=request.expected_log,
        )
        exists = log.exists()
        if exists:
            _read(printer, log, verifier)
        report = held_to_anchors(verifier.report(missing=not exists), kept)
    _tell(printer, log, report, kept)
    return OK if report.verdict == "ok" else ERROR


def held_to_anchors(report: Report, anchors: Sequence[Anchored]) -> Report:
    """The same; or that an anchor which was given knows nothing of a log that is in order otherwise."""
    silent = [each.where for each in anchors if report.log not in each.knows]
    if report.verdict != "ok" or not silent:
        return report
    what = f"{'; '.join(silent)}: there is no checkpoint of this log."
    return msgspec.structs.replace(report, verdict="unanchored", what=what)


def _read(printer: Printer, log: Opened, verifier: Verifier) -> None:
    feed = verifier.feed
    with _progress(printer, log.size()) as advance:
        if advance is None:
            for line, whole in log.lines():
                feed(line, whole)
            return
        count = size = 0
        for line, whole in log.lines():
            feed(line, whole)
            count, size = count + 1, size + len(line) + 1
            if not count % _STEP:
                advance(size)


@contextlib.contextmanager
def _progress(printer: Printer, size: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, where somebody looks at it."""
    if printer.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task("verifying", total=size or None)
        yield lambda done: progress.update(task, completed=done)


def report_data(report: Report, anchors: Sequence[Anchored] = ()) -> dict[str, Any]:
    """A report, as JSON has it."""
    return {
        "verdict": report.verdict,
        "entry": report.seq,
        "line": report.line,
        "what": report.what,
        "means": report.means,
        "fix": report.fix or None,
        "also": report.also or None,
        "log": report.log,
        "name": report.name,
        "entries": report.entries,
        "bodies": {name: getattr(report.bodies, name) for name in report.bodies.__struct_fields__},
        "keys": list(report.keys),
        "forward_secure": report.forward_secure,
        "checkpoints": report.checkpoints,
        "anchored": report.anchored,
        "anchors": [each.where for each in anchors],
        "torn_bytes": report.torn,
        "windows": list(report.windows),
    }


def _tell(printer: Printer, log: Opened, report: Report, anchors: Sequence[Anchored]) -> None:
    if printer.as_json:
        printer.emit({"audit": report_data(report, anchors)})
        return
    if report.verdict == "ok":
        printer.say(
            f"ok: {report.entries} entries of {_named(report, log)} stand as they were made.", "green"
        )
    else:
        at = "" if report.seq is None else f" at entry {report.seq}"
        printer.say(f"{report.verdict}{at}: {on_one_line(report.what)}", "red")
        printer.say(f"  {report.means}")
        printer.say(f"  fix: {report.fix}")
        if report.also:
            printer.say(f"  also {on_one_line(report.also)}")
        printer.say(f"{report.entries} entries before it stand as they were made.")
    bodies = report.bodies
    printer.say(f"log        {on_one_line(report.log or 'unknown')}")
    printer.say(f"keys       {', '.join(report.keys) or 'none'}; {_secure(report)}")
    printer.say(
        f"bodies     {bodies.fit} fit, {bodies.erased} erased, {bodies.missing} missing, {bodies.edited} do not fit"
    )
    printer.say(f"anchored   {report.anchored} entries; {report.checkpoints} checkpoints were looked at")
    if report.torn:
        printer.say(
            f"torn end   {report.torn} bytes of an append that was interrupted; the next writer cuts them off"
        )
    for window in report.windows:
        note(f"note: {window}")


def _named(report: Report, log: Opened) -> str:
    return on_one_line(repr(report.name or log.where))


def _secure(report: Report) -> str:
    return "forward-secure" if report.forward_secure else "not forward-secure"

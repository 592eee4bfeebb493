"""`shipworthy audit show` and `follow`: what a log says. Neither verifies it, nor needs a secret."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from shipworthy.app.commands import timeline
from shipworthy.app.commands.opening_audit import Opened, reading
from shipworthy.app.commands.printing import OK, Printer, note
from shipworthy.app.commands.visible import on_one_line, word
from shipworthy.domain.audit import Entry
from shipworthy.errors import InputError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.reading import Holding, Sum, Sums

_PAUSE = 0.25


class Wanted(NamedTuple):
    """Which entries. `action`: one, or the beginning of some, such as "tool."."""

    tenant: str | None = None
    user: str | None = None
    run: str | None = None
    action: str | None = None
    actor: str | None = None
    since: int | None = None
    until: int | None = None

    def has(self, entry: Entry) -> bool:
        """Whether this is one of them."""
        for asked, value in ((self.tenant, entry.tenant), (self.user, entry.user), (self.run, entry.run)):
            if asked is not None and asked != value:
                return False
        for asked, value in ((self.action, entry.action), (self.actor, entry.actor)):
            if asked is not None and asked != value and not (asked[-1:] in ".:" and value.startswith(asked)):
                return False
        return (self.since is None or entry.at >= self.since) and (
            self.until is None or entry.at < self.until
        )


class How(NamedTuple):
    """How they are shown. `holding`: only those that hold; `last`: only so many."""

    bodies: bool = False
    holding: bool = False
    last: int | None = None
    as_json: bool = False


Found = tuple[Entry, bytes | None]


def show(log: str, wanted: Wanted, how: How) -> int:
    """Show entries of a log, in its order."""
    printer = Printer(as_json=how.as_json)
    with reading(log) as read:
        void = _void(read) if how.holding else set()
        some: Iterator[Found] | deque[Found] = (
            (entry, body) for entry, body in _entries(read) if wanted.has(entry) and entry.seq not in void
        )
        if how.last is not None:
            some = deque(some, maxlen=how.last)
        count = 0
        for entry, body in some:
            _show(printer, entry, body, how)
            count += 1
        if not count and _holds_nothing(read):
            raise InputError(
                f"There is no entry of an audit log in {log}.", fix="Pass the path of a log's newest file."
            )
    if not count:
        note("No entry matches.")
    return OK


def sums(log: str, wanted: Wanted, how: How) -> int:
    """Show what the entries that hold add up to."""
    printer = Printer(as_json=how.as_json)
    counted = Sums()
    with reading(log) as read:
        for line in read.entries(0):
            entry = form.entry_of(line)
            if entry is not None and wanted.has(entry):
                counted.read(entry)
    if how.as_json:
        printer.emit({"sums": _sums_data(counted)})
        return OK
    for title, each in _titled(counted):
        money = f"{each.cost / 1e9:.6f} USD"
        tokens = f"{each.input_tokens} + {each.output_tokens} tokens"
        printer.say(
            f"{title}: {each.started} runs, {each.open} open; {each.model_answers} answers; {tokens}; {money}"
        )
    return OK


def _titled(counted: Sums) -> Iterator[tuple[str, Sum]]:
    yield "all", counted.all
    for tenant, each in counted.tenants.items():
        yield f"tenant {word(tenant or '-')}", each
    for (tenant, user), each in counted.users.items():
        yield f"user {word(user or '-')} of {word(tenant or '-')}", each


def _sums_data(counted: Sums) -> dict[str, Any]:
    return {
        "all": _sum_data(counted.all),
        "tenants": [{"tenant": name, **_sum_data(each)} for name, each in counted.tenants.items()],
        "users": [{"tenant": t, "user": u, **_sum_data(each)} for (t, u), each in counted.users.items()],
        "open_runs": [{"tenant": tenant, "run": run} for tenant, run in counted.open_runs()],
    }


def _sum_data(each: Sum) -> dict[str, int]:
    return {**msgspec.to_builtins(each), "open": each.open}


def follow(log: str, wanted: Wanted, how: How, *, is_over: Callable[[], bool] = lambda: False) -> int:
    """Show the last entries of a log, and then each that comes, until Ctrl-C."""
    printer = Printer(as_json=how.as_json)
    with reading(log) as read:
        seen = 0
        last: deque[Entry] = deque(maxlen=how.last)
        for line in read.entries(0):
            seen += 1
            entry = form.entry_of(line)
            if entry is not None and wanted.has(entry):
                last.append(entry)
        for entry in last:
            _show(printer, entry, None, how)
        while not is_over():
            for line in read.entries(seen):
                seen += 1
                entry = form.entry_of(line)
                if entry is not None and wanted.has(entry):
                    _show(printer, entry, None, how)
            time.sleep(_PAUSE)
    return OK


def _entries(read: Opened) -> Iterator[Found]:
    """Entries with their bodies' texts; what is no entry is passed over."""
    entry: Entry | None = None
    for line, _ in read.lines():
        if form.is_entry(line):
            if entry is not None:
                yield entry, None
            entry = form.entry_of(line)
        elif entry is not None:
            body = form.body_of(line)
            yield entry, body.body.encode() if body is not None and body.seq == entry.seq else None
            entry = None
    if entry is not None:
        yield entry, None


def _holds_nothing(read: Opened) -> bool:
    """Whether there are lines, and no entry among them."""
    lines = 0
    for line, _ in read.lines():
        lines += 1
        if form.entry_of(line) is not None:
            return False
    return lines > 0


def _void(read: Opened) -> set[int]:
    holding = Holding()
    for line in read.entries(0):
        entry = form.entry_of(line)
        if entry is not None:
            holding.read(entry)
    return holding.void


def _show(printer: Printer, entry: Entry, body: bytes | None, how: How) -> None:
    if how.as_json:
        data: dict[str, Any] = {"entry": entry}
        if how.bodies:
            data["body"] = None if body is None else _json(body)
        printer.emit(data)
        return
    facts = " ".join(
        [f"{word(name)}={_short(value)}" for name, value in entry.facts.items() if value is not None]
    )
    whose = "/".join([word(each or "-") for each in (entry.tenant, entry.user)])
    run = "" if entry.run is None else f"  {word(entry.run)}#{entry.n}"
    action, actor = word(entry.action), word(entry.actor)
    at = timeline.moment(entry.at)
    printer.say(f"{entry.seq:>6}  {at}  {action:<18} {actor}  {whose}{run}  {facts}".rstrip())
    if how.bodies and body is not None:
        printer.say(f"        {on_one_line(body.decode(errors='replace'))}")


def _short(value: Any) -> str:
    return word(value) if isinstance(value, str) else on_one_line(form.encode(value).decode())


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode(errors="replace")

"""Four books of what runs cost: the audit log's, the journal's, the ledger's and telemetry's, by user and in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from shipworthy import Scope
from shipworthy.domain.audit import Entry
from shipworthy.domain.events import AnyEvent, RunStarted
from shipworthy.rules.audit import reading
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import Measured
from shipworthy.rules.telemetry.spans import Fold
from shipworthy.rules.telemetry.whose import Told
from tests.audit.evidence import Journal
from tests.engine.spending import balances, charges, summed

User = tuple[str | None, str | None]
Book = dict[User, tuple[int, int, int]]
"""By user: tokens of input, of output, and billionths of a dollar."""


def of_audit(entries: Iterable[Entry], sums: reading.Sums | None = None) -> tuple[Book, reading.Sums]:
    """What the entries say that hold."""
    sums = reading.Sums() if sums is None else sums
    for entry in entries:
        sums.read(entry)
    book = {
        user: (each.charged_input_tokens, each.charged_output_tokens, each.cost)
        for user, each in sums.users.items()
    }
    return _spent(book), sums


def of_journal(journal: Journal) -> Book:
    """What the events say."""
    by_user: dict[User, list[AnyEvent]] = defaultdict(list)
    for events in journal.values():
        started = events[0]
        assert isinstance(started, RunStarted)
        by_user[started.tenant, started.user] += events
    book: Book = {}
    for user, events in by_user.items():
        total = summed(charges(events))
        book[user] = (total.input_tokens, total.output_tokens, total.cost or 0)
    return _spent(book)


async def of_ledger(ledger: Any, users: Iterable[User]) -> tuple[Book, int]:
    """What was spent by the counters, and what is still held."""
    book: Book = {}
    held = 0
    for tenant, user in users:
        found = await balances(ledger, tenant, user)
        spent = {key[2]: value for key, value in found.items() if key[0] == "user"}
        units = [spent.get(unit, (0, 0)) for unit in ("input_tokens", "output_tokens", "cost_usd")]
        book[tenant, user] = (units[0][0], units[1][0], units[2][0])
        held += sum([each[1] for each in found.values()])
    return _spent(book), held


def replayed(journal: Journal) -> tuple[float, float, float]:
    """What telemetry would say in all that had seen every sitting: processes that were killed keep what they had."""
    found = dict.fromkeys((names.TOKENS_INPUT, names.TOKENS_OUTPUT, names.COST_USD), 0.0)
    for events in journal.values():
        started = events[0]
        assert isinstance(started, RunStarted)
        scope = Scope(started.tenant, started.user, started.session)
        for record in Fold(Told(scope, started.run_id, (started.agent,), "scripted")).feed(events):
            if isinstance(record, Measured) and record.metric in found:
                found[record.metric] += record.value
    return found[names.TOKENS_INPUT], found[names.TOKENS_OUTPUT], found[names.COST_USD]


def disagreements(
    audit: tuple[Book, reading.Sums], journal: Journal, ledger: tuple[Book, int], telemetry: Any
) -> Iterator[str]:
    """Where the four books differ; and runs that have no end."""
    book, sums = audit
    if book != (said := of_journal(journal)):
        yield f"audit and journal: {book} and {said}"
    if ledger[0] != said:
        yield f"ledger and journal: {ledger[0]} and {said}"
    if ledger[1]:
        yield f"{ledger[1]} are held for ever"
    total = [sum([each[n] for each in said.values()]) for n in range(3)]
    if [round(telemetry[0]), round(telemetry[1]), round(telemetry[2] * 1e9)] != total:
        yield f"telemetry and journal: {telemetry} and {total}"
    if [sums.all.charged_input_tokens, sums.all.charged_output_tokens, sums.all.cost] != total:
        yield f"the audit log's sum is {sums.all}, the journal's {total}"
    if open_runs := sums.open_runs():
        yield f"without an end: {open_runs}"
    if sums.all.started != len(journal) or sums.all.ended != len(journal):
        yield f"{sums.all.started} starts and {sums.all.ended} ends of {len(journal)} runs"


def _spent(book: Book) -> Book:
    return {user: each for user, each in book.items() if any(each)}

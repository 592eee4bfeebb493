"""What the laws of audited runs need: runtimes and logs of each kind, and whether the log has what the journal has."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy import Agent, InMemoryRuntime, PostgresRuntime, ScriptedModel, SqliteRuntime
from shipworthy.adapters.inmemory.audit import InMemoryAuditLog
from shipworthy.app.audit_logs import (
    FileAuditLog,
    PostgresAuditLog,
    SqliteAuditLog,
    copy_in_postgres,
    copy_in_sqlite,
)
from shipworthy.domain.audit import Entry
from shipworthy.domain.events import AnyEvent
from shipworthy.domain.scope import Operator, Scope
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.store import Store
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import Seal, seals_of
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.reading import Holding
from shipworthy.rules.audit.verdicts import Report
from shipworthy.rules.audit.verifying import Verifier
from shipworthy.rules.codec import encode_event

SECRET = "a secret of the log's owner, kept elsewhere"
ALICE: dict[str, Any] = {"tenant_id": "acme", "user_id": "alice"}
Kind = Literal["memory", "file", "apart", "joined", "postgres"]
"""Where a log is: in memory, in a file, in an SQLite file beside the journal's, in the journal's own, or in its
database."""
KINDS: tuple[Kind, ...] = ("memory", "file", "apart", "joined", "postgres")
LASTING: tuple[Kind, ...] = ("file", "apart", "joined")
Journal = dict[tuple[str, str], list[AnyEvent]]


class Told(msgspec.Struct, frozen=True):
    """An entry, and what its body says; None where it has none, or it was erased."""

    entry: Entry
    body: bytes | None
    line: bytes


class Place:
    """A runtime and a log, as often as somebody opens them; and what is found in the log."""

    def __init__(self, kind: Kind, folder: Path, dsn: str = "") -> None:
        self.kind, self.folder, self.dsn = kind, folder, dsn
        self.name = secrets.token_hex(4)
        self.path = folder / {"file": "audit.jsonl", "apart": "audit.db"}.get(kind, "bot.db")
        self._memory = InMemoryAuditLog(SECRET)

    def runtime(self, **options: Any) -> Any:
        """Another process's."""
        if self.kind == "memory":
            return InMemoryRuntime()
        if self.kind == "postgres":
            return PostgresRuntime(self.dsn)
        return SqliteRuntime(self.folder / "bot.db", **{"durability": "process", **options})

    def log(self) -> AuditLog:
        """The same."""
        if self.kind == "memory":
            return self._memory
        if self.kind == "file":
            return FileAuditLog(self.path, secret=SECRET, durability="process")
        if self.kind == "postgres":
            return PostgresAuditLog(self.dsn, secret=SECRET, name=self.name)
        return SqliteAuditLog(self.path, secret=SECRET, durability="process")

    def agent(self, *turns: Any, model: Any = None, **options: Any) -> Agent[Any, Any]:
        """One whose runs are entered; it follows a script."""
        options.setdefault("runtime", None)
        runtime = options.pop("runtime") or self.runtime()
        return Agent(
            "Be brief.",
            model=model or ScriptedModel(turns),
            runtime=runtime,
            audit_log=options.pop("audit_log", None) or self.log(),
            **{"name": "clerk", **options},
        )

    # what is there

    def _kept(self) -> tuple[list[bytes], Sequence[Seal], list[bytes]]:
        """Its lines, its seals and its checkpoints."""
        if self.kind == "file":
            seal, heads = Path(f"{self.path}.seal"), Path(f"{self.path}.checkpoints")
            seals = seals_of(seal.read_bytes()) if seal.exists() else []
            checkpoints = heads.read_bytes().split(b"\n")[:-1] if heads.exists() else []
            return self.path.read_bytes().split(b"\n"), seals, checkpoints
        copy: Any = self._memory
        if self.kind != "memory":
            sqlite = self.kind != "postgres"
            copy = copy_in_sqlite(self.path) if sqlite else copy_in_postgres(self.dsn, self.name)
        try:
            said, seal = [*copy.written(), b""], copy.seal()
            return said, [] if seal is None else [seal], list(copy.checkpoints())
        finally:
            if self.kind != "memory":
                copy.let_go()

    def told(self) -> list[Told]:
        """All whole entries, in their order, with their bodies."""
        found: list[Told] = []
        for line in self._kept()[0][:-1]:
            if form.is_entry(line):
                entry = form.entry_of(line)
                assert entry is not None
                found.append(Told(entry, None, line))
            elif (body := form.body_of(line)) is not None and body.seq == found[-1].entry.seq:
                fits = form.digest_of(bytes.fromhex(body.salt), body.body.encode()) == found[-1].entry.body
                assert fits, f"the body of entry {body.seq} is another"
                found[-1] = msgspec.structs.replace(found[-1], body=body.body.encode())
        return found

    def holding(self) -> list[Told]:
        """Those that hold, by the format's rule."""
        told, holding = self.told(), Holding()
        for each in told:
            holding.read(each.entry)
        return [each for each in told if each.entry.seq not in holding.void]

    def of(self, run_id: str) -> list[Entry]:
        """Those of a run."""
        return [each.entry for each in self.holding() if each.entry.run == run_id]

    def actions(self, run_id: str) -> list[str]:
        return [entry.action for entry in self.of(run_id)]

    def report(self) -> Report:
        """What a verifier says."""
        lines, seals, checkpoints = self._kept()
        verifier = Verifier([Secret(SECRET)], seals=seals, checkpoints=checkpoints)
        for line in lines[:-1]:
            verifier.feed(line)
        if lines[-1]:
            verifier.feed(lines[-1], whole=False)
        return verifier.report()

    def sound(self) -> None:
        """It verifies, with every body."""
        report = self.report()
        assert report.verdict == "ok", (report.verdict, report.what)
        assert report.bodies.missing == report.bodies.edited == 0


async def finish(agent: Agent[Any, Any], stream: bool = False, **options: Any) -> Any:
    """The result of a run, read along with or not."""
    options = {**ALICE, **options}
    if not stream:
        return await agent.run("Go", **options)
    async with agent.stream("Go", **options) as reading:
        async for _ in reading:
            pass
    return reading.result


async def journal_of(store: Store) -> Journal:
    """Every run of a store."""
    found: Journal = {}
    after = 0
    while page := await store.everything(Operator("a test"), after):
        after = page[-1][0]
        for _, run in page:
            scope = Scope(run.scope.tenant)
            found[run.scope.tenant, run.run_id] = await store.read(scope, run.run_id)
    return found


def differences(told: Sequence[Told], journal: Journal, *, behind: bool = False) -> Iterator[str]:
    """Where the entries that hold are not the journal, event for event. `behind`: a run that is not resumed yet may
    have its first event in the journal alone, and the log may tell of one more commit."""
    by_run: dict[tuple[str | None, str], list[Told]] = {}
    for each in told:
        if each.entry.n and each.entry.run is not None:
            by_run.setdefault((each.entry.tenant, each.entry.run), []).append(each)
    for run, entries in by_run.items():
        if run not in journal:
            yield f"{run}: the journal has no such run"
        if len({(e.entry.user, e.entry.session) for e in entries}) != 1:
            yield f"{run}: its entries are not of one user and session"
    for run, events in journal.items():
        entries = by_run.get(run, [])
        if behind:
            entries = entries[: len(events)]
        if entries or len(events) > 1 or not behind:
            yield from _unlike(run, entries, events)


def _unlike(run: Any, entries: Sequence[Told], events: Sequence[AnyEvent]) -> Iterator[str]:
    if [e.entry.n for e in entries] != [event.seq for event in events]:
        yield f"{run}: the log has {[e.entry.n for e in entries]}, the journal {len(events)} events"
        return
    for each, event in zip(entries, events, strict=True):
        if each.body != encode_event(event):
            yield f"{run}: event {event.seq}, a {type(event).__name__}, is another in the log"


async def agrees(place: Place, store: Store) -> None:
    """The log has what the journal has, every run that started has an end, and the log verifies."""
    journal = await journal_of(store)
    assert list(differences(place.holding(), journal)) == []
    place.sound()

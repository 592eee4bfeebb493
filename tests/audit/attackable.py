"""Places of audit logs that can be attacked: what a real writer left there is read, and a copy is written by whoever
has the files, or the database."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import apsw
import psycopg

from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.app.audit_logs import FileAuditLog, PostgresAuditLog, SqliteAuditLog
from shipworthy.app.commands.opening_audit import Opened, opened
from shipworthy.domain.audit import Standing
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import SLOT, Seal
from tests.audit.attacks import SECRET, Group, Log, a_draft

NAME = "bot"
ENTRIES = 100


class Attackable(Protocol):
    """A place of a log, and of copies of it."""

    def log(self, name: str, **how: Any) -> Any:
        """A writer of the log of this name."""
        ...

    def address(self, name: str) -> str:
        """What a command line calls it."""
        ...

    def reader(self, name: str) -> contextlib.AbstractContextManager[Opened]:
        """The log of this name, as a command reads it."""
        ...

    def put(self, name: str, log: Log) -> None:
        """Put this in the place of the log of this name."""
        ...


class InFiles:
    """Logs in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log(self, name: str, **how: Any) -> Any:
        return FileAuditLog(self.address(name), name=NAME, **how)

    def address(self, name: str) -> str:
        return str(self._folder / f"{name}.jsonl")

    def reader(self, name: str) -> contextlib.AbstractContextManager[Opened]:
        return contextlib.closing(opened(self.address(name)))

    def put(self, name: str, log: Log) -> None:
        path = self.address(name)
        sealed = b"" if log.seal is None else form.encode(log.seal).ljust(SLOT - 1) + b"\n"
        _write(path, None if log.groups is None else [*log.lines()])
        _write(f"{path}.checkpoints", log.checkpoints or None)
        _write(f"{path}.seal", [sealed[:-1]] if sealed else None)


def _write(path: str, lines: Iterable[bytes] | None) -> None:
    if lines is None:
        Path(path).unlink(missing_ok=True)
    else:
        Path(path).write_bytes(b"".join([line + b"\n" for line in lines]))


Rows = Sequence[tuple[int, bytes, bytes | None, bytes | None]]


def _rows(log: Log) -> Rows:
    """Number, line, salt and body of each entry, as a database has them."""
    rows = []
    for at, group in enumerate(log.groups or ()):
        body = None if group.body is None else form.body_of(group.body)
        salt = None if body is None else bytes.fromhex(body.salt)
        rows.append((at, group.entry, salt, None if body is None else body.body.encode()))
    return rows


def _sealed(log: Log) -> tuple[bytes, bytes]:
    """Where a log stands, and its seal, as a database has them."""
    seal = log.seal
    if seal is None:
        return b"{}", b""
    standing = Standing(
        log=seal.log, name=NAME, every=64, count=seal.count, mac=seal.mac, key="", signer="", logged=0
    )
    return form.encode(standing), bytes.fromhex(seal.seal)


def _heads(log: Log) -> list[tuple[int, bytes]]:
    return [(read[0].entries, line) for line in log.checkpoints if (read := form.head_of(line))]


class InSqlite:
    """Logs in an SQLite file; a copy is in a copy of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.db"

    def log(self, name: str, **how: Any) -> Any:
        return SqliteAuditLog(self._path(name), name=NAME, **how)

    def address(self, name: str) -> str:
        return f"sqlite:{self._path(name)}#{NAME}"

    def reader(self, name: str) -> contextlib.AbstractContextManager[Opened]:
        return contextlib.closing(opened(self.address(name)))

    def put(self, name: str, log: Log) -> None:
        if not self._path(name).exists():
            shutil.copy(self._path("log"), self._path(name))
        with contextlib.closing(apsw.Connection(str(self._path(name)))) as db, db:
            for table in ("audit_logs", "audit_entries", "audit_checkpoints"):
                db.execute(f"DELETE FROM {table}")
            if log.groups is None:
                return
            db.execute(
                "INSERT INTO audit_logs (name, standing, seal) VALUES (?, ?, ?)", (NAME, *_sealed(log))
            )
            high = db.last_insert_rowid() << 40
            db.executemany(
                "INSERT INTO audit_entries (id, line, salt, body) VALUES (?, ?, ?, ?)",
                [(high + seq, *rest) for seq, *rest in _rows(log)],
            )
            db.executemany(
                "INSERT INTO audit_checkpoints (id, line) VALUES (?, ?)",
                [(high + entries, line) for entries, line in _heads(log)],
            )


class InPostgres:
    """Logs in a database; a copy has another name there, and is made by the server's superuser."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._session = psycopg.connect(dsn, autocommit=True)
        self._session.execute("SET search_path = shipworthy")
        self._readers: dict[str, Opened] = {}

    def log(self, name: str, **how: Any) -> Any:
        return PostgresAuditLog(self._dsn, name=name, **how)

    def address(self, name: str) -> str:
        return f"{self._dsn}#{name}"

    def reader(self, name: str) -> contextlib.AbstractContextManager[Opened]:
        if name not in self._readers:
            self._readers[name] = opened(self.address(name))
        return contextlib.nullcontext(self._readers[name])  # connecting takes longer than all the rest

    def put(self, name: str, log: Log) -> None:
        with self._session.transaction(), self._session.cursor() as db:
            db.execute("DELETE FROM audit_logs WHERE name = %s RETURNING key", [name])
            for (key,) in db.fetchall():
                db.execute("DELETE FROM audit_entries WHERE log = %s", [key])
                db.execute("DELETE FROM audit_checkpoints WHERE log = %s", [key])
            if log.groups is None:
                return
            insert = "INSERT INTO audit_logs (name, standing, seal) VALUES (%s, %s, %s) RETURNING key"
            [key] = db.execute(insert, [name, *_sealed(log)]).fetchone() or [0]
            db.executemany(
                "INSERT INTO audit_entries (log, seq, line, salt, body) VALUES (%s, %s, %s, %s, %s)",
                [(key, *row) for row in _rows(log)],
            )
            db.executemany(
                "INSERT INTO audit_checkpoints (log, entries, line) VALUES (%s, %s, %s)",
                [(key, *head) for head in _heads(log)],
            )

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._session.close()


def written(place: Attackable, name: str, anchor: Path, seed: int) -> Log:
    """What a real writer left: the log, with what it was like at times before, and what its anchor has."""

    async def go() -> list[Log]:
        rng = random.Random(seed)
        log = place.log(name, secret=SECRET, anchors=[FileAnchor(anchor)])
        earlier: list[Log] = []
        at = 0
        await log.open()
        while at < ENTRIES:
            count = rng.randrange(1, 12)
            await log.append([a_draft(rng, n) for n in range(at, at + count)])
            at += count
            if rng.random() < 0.3:
                await log.close()
                earlier.append(taken(place, name))
                await log.open()
        await log.close()
        return earlier

    earlier = asyncio.run(go())
    kept = FileAnchor(anchor)
    asked = taken(place, name)
    names = {NAME, name}
    anchored = [line for each in sorted(names) for line in kept.all(each)]
    kept.close()
    return replace(asked, earlier=tuple(earlier[:-1]), anchored=tuple(anchored))


def taken(place: Attackable, name: str, **more: Any) -> Log:
    """What a verifier gets of a log, read as the command line reads it."""
    with place.reader(name) as log:
        seals, own = log.seals(), tuple(log.checkpoints())
        seal: Seal | None = seals[0] if seals else None
        if not log.exists():
            return Log(None, seal, own, **{"anchored": None, **more})
        groups: list[Group] = []
        for line, whole in log.lines():
            assert whole
            if form.is_entry(line) or not groups:
                groups.append(Group(line))
            else:
                groups[-1] = Group(groups[-1].entry, line)
    return Log(tuple(groups), seal, own, **{"anchored": None, **more})

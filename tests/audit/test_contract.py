"""Every audit log keeps the laws of its port, wherever it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from shipworthy.adapters.inmemory.audit import InMemoryAuditLog
from shipworthy.adapters.postgres import PostgresStore
from shipworthy.adapters.shared.kept_logs import Copy
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.app.audit_logs import (
    FileAuditLog,
    PostgresAuditLog,
    SqliteAuditLog,
    copy_in_postgres,
    copy_in_sqlite,
)
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.store import Store
from shipworthy.rules.audit.chain import Seal, seals_of
from shipworthy.testing.contracts.audit import LASTING_LAWS, LAWS, SECRET, Law, Logs, check, name
from shipworthy.testing.contracts.audit_joined import JOINED_LAWS
from tests.servers.postgres import Postgres


class InMemory(Logs):
    def __init__(self) -> None:
        super().__init__()
        self._log = InMemoryAuditLog(SECRET)

    def make(self, *secrets: str) -> AuditLog:
        return self._log

    def lines(self) -> Iterable[bytes]:
        return self._log.written()

    def seals(self) -> Sequence[Seal]:
        seal = self._log.seal()
        return [] if seal is None else [seal]


class InFile(Logs):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, *secrets: str) -> AuditLog:
        return FileAuditLog(self.path, secret=secrets)

    def lines(self) -> Iterable[bytes]:
        return self.path.read_bytes().split(b"\n")[:-1]

    def seals(self) -> Sequence[Seal]:
        return seals_of(Path(f"{self.path}.seal").read_bytes())

    def checkpoints(self) -> Iterable[bytes]:
        heads = Path(f"{self.path}.checkpoints")
        return heads.read_bytes().split(b"\n")[:-1] if heads.exists() else []


class Kept(Logs):
    """A log that a database keeps; *copy* reads it."""

    copy: Copy

    def lines(self) -> Iterable[bytes]:
        return self.copy.written()

    def seals(self) -> Sequence[Seal]:
        seal = self.copy.seal()
        return [] if seal is None else [seal]

    def checkpoints(self) -> Iterable[bytes]:
        return self.copy.checkpoints()

    async def close(self) -> None:
        await super().close()
        self.copy.let_go()


class Sqlite(Kept):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.copy = copy_in_sqlite(path)

    def make(self, *secrets: str) -> AuditLog:
        return SqliteAuditLog(self.path, secret=secrets)

    def make_store(self) -> Store:
        return SqliteStore(self.path)


class OnPostgres(Kept):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.dsn = dsn
        self.name = secrets.token_hex(4)  # all of them share the database: each law has a log of its own
        self.copy = copy_in_postgres(dsn, self.name)

    def make(self, *secrets: str) -> AuditLog:
        return PostgresAuditLog(self.dsn, secret=secrets, name=self.name)

    def make_store(self) -> Store:
        return PostgresStore(self.dsn)


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> Iterator[str]:
    made = postgres.fresh_database()
    yield made
    postgres.drop_database(made)


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_the_log_in_memory(law: Law) -> None:
    check(law, InMemory())


@pytest.mark.parametrize("law", LAWS + LASTING_LAWS, ids=name)
def test_the_log_in_a_file(law: Law, tmp_path: Path) -> None:
    check(law, InFile(tmp_path / "audit.jsonl"))


@pytest.mark.parametrize("law", LAWS + LASTING_LAWS, ids=name)
def test_the_log_in_sqlite(law: Law, tmp_path: Path) -> None:
    check(law, Sqlite(tmp_path / "audit.db"))


@pytest.mark.parametrize("law", LAWS + LASTING_LAWS, ids=name)
def test_the_log_on_postgres(law: Law, dsn: str) -> None:
    check(law, OnPostgres(dsn))


@pytest.mark.parametrize("law", JOINED_LAWS, ids=name)
def test_the_log_in_the_commits_of_sqlite(law: Law, tmp_path: Path) -> None:
    check(law, Sqlite(tmp_path / "bot.db"))


@pytest.mark.parametrize("law", JOINED_LAWS, ids=name)
def test_the_log_in_the_commits_of_postgres(law: Law, dsn: str) -> None:
    check(law, OnPostgres(dsn))

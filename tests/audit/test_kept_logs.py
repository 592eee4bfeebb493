"""An audit log in a database that was meddled with takes nothing more; what is erased, and what a power loss leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import psycopg
import pytest

import shipworthy.adapters.shared.chaining as chaining
from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.adapters.shared.kept_logs import KeptLog
from shipworthy.adapters.shared.sealed import SealedKey, seal_key
from shipworthy.adapters.sqlite import SqliteStore
from shipworthy.adapters.sqlite.audit_log import SqliteAudits
from shipworthy.adapters.sqlite.power import PowerLossVfs
from shipworthy.app.audit_logs import PostgresAuditLog, SqliteAuditLog, copy_in_sqlite
from shipworthy.domain.audit import Standing
from shipworthy.errors import AuditDamaged, AuditKeyWrong, AuditUnavailable, ConfigurationError
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.verifying import Verifier
from shipworthy.testing.contracts.audit import SECRET, said
from shipworthy.testing.contracts.audit_joined import begun, told
from shipworthy.testing.contracts.store.workers import answer, seqs
from tests.audit.test_contract import Kept, OnPostgres, Sqlite
from tests.servers.postgres import Postgres

Meddle = Callable[[str], None]
"""Executes SQL: {log} is the log's key, {last} says which entry is its last."""

DAMAGES = {
    "its last entry is gone": "DELETE FROM audit_entries WHERE {last}",
    "all entries are gone": "DELETE FROM audit_entries",
    "its last entry was edited": "UPDATE audit_entries SET line = {edited} WHERE {last}",
    "its seal is another": "UPDATE audit_logs SET seal = {zeros}",
    "it cannot be read where it stands": "UPDATE audit_logs SET standing = {zeros}",
    "it was put back": "UPDATE audit_logs SET standing = {old}",
    "the log is gone": "DELETE FROM audit_logs",
}


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> Iterator[str]:
    made = postgres.fresh_database()
    yield made
    postgres.drop_database(made)


class MeddledSqlite(Sqlite):
    """`meddle` executes a damage, `edit` edits a run's journal."""

    def meddle(self, damage: str, old: bytes) -> None:
        said = damage.format(
            last="id = (SELECT max(id) FROM audit_entries)",
            edited="""CAST(replace(CAST(line AS TEXT), '"at":', '"at":1') AS BLOB)""",
            zeros="zeroblob(32)",
            old=f"x'{old.hex()}'",
        )
        self.execute(said)

    def edit_journal(self) -> None:
        self.execute("UPDATE journal SET events = CAST(replace(CAST(events AS TEXT), 'Go.', 'No.') AS BLOB)")

    def execute(self, query: str) -> None:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5000)
        connection.execute(query)
        connection.close()


class MeddledPostgres(OnPostgres):
    """The same, by the server's superuser."""

    def meddle(self, damage: str, old: bytes) -> None:
        log = f"(SELECT key FROM audit_logs WHERE name = '{self.name}')"
        said = damage.format(
            last=f"seq = (SELECT max(seq) FROM audit_entries WHERE log = {log})",
            edited="""convert_to(replace(convert_from(line, 'utf8'), '"at":', '"at":1'), 'utf8')""",
            zeros="'\\x00'",
            old=f"'\\x{old.hex()}'",
        )
        if "FROM audit_entries" in damage or "UPDATE audit_entries" in damage:
            self.execute(said + (" AND " if "WHERE" in damage else " WHERE ") + f"log = {log}")
        else:
            self.execute(f"{said} WHERE name = '{self.name}'")

    def edit_journal(self) -> None:
        self.execute(
            f"""UPDATE journal SET events = convert_to(replace(convert_from(events, 'utf8'), 'Go.', 'No.'), 'utf8')
            WHERE tenant = '{self.scope.tenant}'"""
        )

    def execute(self, query: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SET search_path = shipworthy")
            connection.execute(query.encode())


def do(logs: Kept, law: Callable[[], object]) -> None:
    async def run() -> None:
        try:
            await law()  # type: ignore[misc]
        finally:
            await logs.close()

    asyncio.run(run())


def takes_nothing_more(logs: MeddledSqlite | MeddledPostgres, name: str) -> None:
    """A commit is refused, and so is an append, and a process that opens the log."""

    async def law() -> None:
        store, log = await logs.store(), await logs.new()
        old = logs.copy.kept()
        assert old is not None
        fence = await begun(logs, log, store, "r")
        logs.meddle(DAMAGES[name], old.standing)
        with pytest.raises(AuditDamaged):
            await store.commit(fence, told(logs, log, "r", answer(3)))
        with pytest.raises(AuditDamaged):
            await log.append([said("more")])
        assert await seqs(store, logs.scope, "r") == [1, 2]
        await store.commit(fence, answer(3))  # without entries it is none of its business
        if name != "the log is gone":  # nobody tells a new process of that, but an anchor
            with pytest.raises(AuditDamaged):
                await logs.new()

    do(logs, law)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_log_in_sqlite_that_was_meddled_with_takes_nothing_more(name: str, tmp_path: Path) -> None:
    takes_nothing_more(MeddledSqlite(tmp_path / "bot.db"), name)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_log_on_postgres_that_was_meddled_with_takes_nothing_more(name: str, dsn: str) -> None:
    takes_nothing_more(MeddledPostgres(dsn), name)


def test_a_store_that_does_not_look_at_the_seal_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlooked(kept: chaining.Kept, keys: object, name: str) -> Standing:
        return chaining.standing_of(kept, name)

    monkeypatch.setattr(chaining, "sound", unlooked)
    for name in ("its seal is another", "its last entry was edited"):
        with pytest.raises(pytest.fail.Exception):
            takes_nothing_more(MeddledSqlite(tmp_path / name), name)


def test_an_event_that_was_edited_in_the_journal_fits_its_digest_no_more(tmp_path: Path, dsn: str) -> None:
    for logs in (MeddledSqlite(tmp_path / "bot.db"), MeddledPostgres(dsn)):

        async def law(logs: MeddledSqlite | MeddledPostgres = logs) -> None:
            store, log = await logs.store(), await logs.new()
            await begun(logs, log, store, "r")
            logs.edit_journal()
            verifier = Verifier([Secret(SECRET)], seals=logs.seals())
            for line in logs.lines():
                verifier.feed(line)
            report = verifier.report()
            assert (report.verdict, report.bodies.edited, report.bodies.fit) == ("body_edited", 1, 1)

        do(logs, law)


def test_a_log_that_an_anchor_knows_is_not_begun_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        logs = MeddledSqlite(tmp_path / "a.db")
        anchored = {"secret": SECRET, "anchors": [FileAnchor(tmp_path / "anchor")]}
        log = SqliteAuditLog(logs.path, **anchored)  # type: ignore[arg-type]
        await log.open()
        await log.append([said("one")])
        await log.close()
        assert log.unanchored == log.anchor_failures == 0
        logs.meddle(DAMAGES["the log is gone"], b"")
        with pytest.raises(AuditDamaged, match="is gone"):
            await SqliteAuditLog(logs.path, **anchored).open()  # type: ignore[arg-type]

    asyncio.run(scenario())


def a_sealed_key_moves_on(logs: Kept, folder: Path) -> None:
    """Behind entries that were carried, appended, and found again by another process; nobody goes back."""
    path = folder / "writer.key"
    seal_key(path, SECRET, "ab" * 16)

    async def law() -> None:
        store = await logs.store()
        for turn in range(3):
            log = logs.make(SealedKey(path))  # type: ignore[arg-type]
            await log.open()
            fence = await begun(logs, log, store, f"r{turn}")
            for seq in range(3, 30):
                await store.commit(fence, told(logs, log, f"r{turn}", answer(seq)))
            log.carried()
            await log.append([said("beside", b"{}")])
            await log.close()
        assert logs.verified().forward_secure
        with pytest.raises(AuditKeyWrong, match="at epoch 1"):
            SealedKey(path).epoch("ab" * 16, 0)

    do(logs, law)


def test_a_sealed_key_moves_on_behind_entries_that_commits_carried(tmp_path: Path, dsn: str) -> None:
    a_sealed_key_moves_on(Sqlite(tmp_path / "bot.db"), tmp_path)
    (tmp_path / "other").mkdir()
    a_sealed_key_moves_on(OnPostgres(dsn), tmp_path / "other")


def after_a_power_loss(folder: Path) -> None:
    """A store that syncs nothing carried the entries; a process goes on with what the disk has of them."""
    name = f"lossy-{folder.name}"
    disk, path, left = PowerLossVfs(name), folder / "bot.db", folder / "left"
    seal_key(folder / "writer.key", SECRET, "cd" * 16)
    left.mkdir()

    async def scenario() -> None:
        logs = Sqlite(path)
        store = SqliteStore(path, durability="process", vfs=name)
        await store.open()
        keys = (SealedKey(folder / "writer.key"),)
        log = KeptLog(SqliteAudits(path, vfs=name), name="audit", keys=keys)
        await log.open()
        fence = await begun(logs, log, store, "r")
        for seq in range(3, 70):
            await store.commit(fence, told(logs, log, "r", answer(seq)))
        log.carried()
        await log.close()
        disk.lose_power(left)
        await store.close()
        on = SqliteAuditLog(left / "bot.db", secret=folder / "writer.key", name="audit")
        await on.open()
        await on.append([said("on")])
        await on.close()

    asyncio.run(scenario())


def test_entries_are_durable_before_a_sealed_key_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("right", "broken"):
        (tmp_path / name).mkdir()
    after_a_power_loss(tmp_path / "right")
    monkeypatch.setattr(SqliteAudits, "settle", lambda *_: None)
    with pytest.raises(AuditKeyWrong):
        after_a_power_loss(tmp_path / "broken")


def test_no_byte_of_what_was_erased_is_left_in_a_file_of_its_own(tmp_path: Path) -> None:
    def left() -> list[str]:
        return [file.name for file in tmp_path.iterdir() if b"of Alice" in file.read_bytes()]

    async def scenario() -> None:
        log = SqliteAuditLog(tmp_path / "a.db", secret=SECRET)
        await log.open()
        for _ in range(30):
            await log.append(
                [said("a", b'"of Alice %s"' % (b"x" * 3000), user="alice"), said("b", user="bob")]
            )
        assert left() != []
        assert await log.erase(lambda entry: entry.user == "alice") == 30
        assert left() == []
        await log.close()

    asyncio.run(scenario())


def test_a_copy_makes_no_file_and_says_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable, match="no file"):
        list(copy_in_sqlite(tmp_path / "none.db").lines())
    apsw.Connection(str(tmp_path / "other.db")).execute("CREATE TABLE t (x)")
    with pytest.raises(AuditUnavailable, match="no audit logs"):
        copy_in_sqlite(tmp_path / "other.db").seal()
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SqliteAuditLog(":memory:", secret=SECRET),
        lambda: SqliteAuditLog("a.db", secret=()),
        lambda: SqliteAuditLog("a.db", secret="too short"),
        lambda: SqliteAuditLog("a.db", secret=None),  # type: ignore[arg-type]
        lambda: SqliteAuditLog("a.db", secret=SECRET, name="a\x00b"),
        lambda: SqliteAuditLog("a.db", secret=SECRET, name=""),
        lambda: SqliteAuditLog("a.db", secret=SECRET, anchors=[SECRET]),  # type: ignore[list-item]
        lambda: SqliteAuditLog("a.db", secret=SECRET, durability="none"),  # type: ignore[arg-type]
        lambda: PostgresAuditLog("postgres://a@b@c/d", secret=SECRET),
        lambda: PostgresAuditLog("postgres://a@b/d", secret=SECRET, patience=-1),
    ],
)
def test_what_cannot_be_meant_is_refused_when_a_log_is_made(wrong: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        wrong()

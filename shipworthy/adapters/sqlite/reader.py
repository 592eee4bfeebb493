"""Reading, on a thread and a connection of its own: a WAL's readers never wait for its writer."""

from __future__ import annotations

import contextlib
from typing import Any

import apsw

from shipworthy.adapters.shared.lane import Job, Lane, unexpected
from shipworthy.adapters.shared.queries import SUMMARY, summary
from shipworthy.adapters.sqlite.connection import Database, connect, rows, translate
from shipworthy.adapters.sqlite.operations import CHAIN
from shipworthy.adapters.sqlite.workers import Worker
from shipworthy.domain.journal import RunSummary
from shipworthy.errors import ShipworthyError

HISTORY = f"""{CHAIN.format(where="r.tenant = ?2 AND r.run_id = ?3")}
SELECT r.head, c.first, j.events FROM runs AS r LEFT JOIN chain AS c LEFT JOIN journal AS j ON j.id = c.id
WHERE r.tenant = ?2 AND r.run_id = ?3 ORDER BY c.first"""


class Reader(Lane):
    """Does each job on its own; a connection that failed is replaced for the next one."""

    def __init__(self, database: Database) -> None:
        super().__init__("reader", database.path)
        self._database = database
        self._connection: apsw.Connection | None = None

    def _perform(self, group: list[Job[Any]]) -> None:
        for job in group:
            try:
                if self._connection is None:
                    self._connection = connect(self._database, reads=True)
                job.value = job.work(self._connection.cursor())
            except ShipworthyError as refusal:
                job.error = refusal
            except apsw.Error as error:
                job.error = translate(error, self._database)
                self._end()
            except Exception as error:
                job.error = unexpected(error)

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is not used again, whatever it says
                connection.close()


def orphans(cursor: apsw.Cursor, worker: Worker) -> list[RunSummary]:
    """Runs of every tenant that are running, with no owner, one that is gone, or this worker."""
    owners = rows(cursor, "SELECT DISTINCT worker FROM runs WHERE status = 'running'")
    found: list[RunSummary] = []
    for (owner,) in owners:
        if owner in (None, worker.id) or worker.standing(cursor, owner) != "alive":
            query = f"{SUMMARY} WHERE status = 'running' AND worker IS ? AND root IS NULL ORDER BY key"
            found += [summary(row) for row in rows(cursor, query, (owner,))]
    return found

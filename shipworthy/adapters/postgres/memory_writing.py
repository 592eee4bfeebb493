"""A put, and the session that does many of them in one transaction."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from shipworthy.adapters.postgres.connection import Connection, is_unanswered
from shipworthy.adapters.postgres.memory_places import encoded
from shipworthy.adapters.postgres.memory_session import MemorySession, Rows, Sight, Step, perform_all
from shipworthy.adapters.shared.lane import Job
from shipworthy.adapters.shared.places import size_of
from shipworthy.domain.memory import NOWHERE, Mark, Record
from shipworthy.errors import MemoryConflict, MemoryStoreError, MemoryUnavailable

AT_ONCE = 64
"""Puts of one transaction."""
BYTES_AT_ONCE = 32 << 20
"""Bytes after which a statement takes no further record, and a transaction no further put."""


def draw() -> int:
    """63 random bits, of which one is set: an epoch, or a token."""
    return secrets.randbelow((1 << 63) - 1) + 1


class Put(msgspec.Struct, gc=False):
    """What is to be written to a partition. `unanswered`: an attempt was made of which nothing is known."""

    place: bytes
    records: Sequence[Record]
    replace: bool
    at: Mark | None
    size: int
    token: int
    epoch: int
    unanswered: bool = False

    def __call__(self, _: object) -> Mark:
        raise TypeError("A put is the writer's.")

    def steps(self) -> list[Step]:
        """Made again, they find what an attempt that landed has written: the record's ids, or the token."""
        token = {"token": self.token}
        at = Mark(self.epoch, 0) if self.at == NOWHERE else self.at
        if not self.records:
            return [("mark", {})]
        steps: list[Step] = []
        if self.at is None or self.at == NOWHERE:
            steps.append(("make", {"epoch": self.epoch}))
        steps.append(
            ("claim", token) if at is None else ("claim_at", {**token, "at_epoch": at.epoch, "at_n": at.n})
        )
        if self.replace:
            steps.append(("displace", {**token, "ids": [encoded(each.id) for each in self.records]}))
        steps += [("insert", {**token, **_columns(portion)}) for portion in _portions(self.records)]
        return [*steps, ("mark", {})]

    def answer(self, rows: list[Rows]) -> Mark | None:
        """The partition's mark; None: it was emptied meanwhile, and is to be written to again. Raises
        MemoryConflict."""
        mark, token = (Mark(*rows[-1][0][:2]), rows[-1][0][2]) if rows[-1] else (NOWHERE, 0)
        if not self.records:
            if self.at is None or self.at == mark:
                return mark
        elif token == self.token:
            return mark
        elif self.at is None:
            return None
        elif self.unanswered:
            raise MemoryUnavailable(
                "The server went away while it was written to, and others have written since.",
                fix="Read the partition: it has all that was put, or nothing.",
            )
        raise MemoryConflict("The partition is not where its writer has read it.")


def put_of(place: bytes, records: Sequence[Record], replace: bool, at: Mark | None) -> Put:
    """What writes these records; of one id the first, or the last with *replace*."""
    ordered = records if replace else [*reversed(records)]
    chosen = list({each.id: each for each in ordered}.values())
    size = sum(map(size_of, chosen))
    return Put(place, chosen if replace else chosen[::-1], replace, at, size, draw(), draw())


class MemoryWriter(MemorySession):
    """Does puts in groups: each group is one transaction, in which a put that conflicts does nothing."""

    def _perform(self, group: list[Job[Any]]) -> None:
        deadline = self._deadline()
        super()._perform([job for job in group if type(job.work) is not Put])
        puts = [job for job in group if type(job.work) is Put]
        puts.sort(key=_place)  # partitions are locked in one order, whoever writes beside us
        for portion in _groups(puts):
            self._write(portion, deadline)

    def _write(self, group: list[Job[Any]], deadline: float) -> None:
        puts: list[Put] = [job.work for job in group]  # type: ignore[misc]

        def write(connection: Connection) -> list[list[Rows]]:
            try:
                return perform_all(connection, [(Sight(put.place), put.steps()) for put in puts])
            except psycopg.Error as error:
                for put in puts:
                    put.unanswered = put.unanswered or is_unanswered(error, connection)
                raise

        try:
            answers = self._persist(write, deadline)
        except MemoryStoreError as error:
            self._failed(group, error, deadline)
            return
        for job, put, rows in zip(group, puts, answers, strict=True):
            try:
                job.value = put.answer(rows)
            except MemoryStoreError as refusal:
                job.error = refusal
            else:
                if job.value is None:
                    self._again(job, deadline)

    def _failed(self, group: list[Job[Any]], error: MemoryStoreError, deadline: float) -> None:
        """Nothing is known of any of them; it may be the fault of one."""
        alone = len(group) > 1 and self._connection is not None
        for job in group:
            if alone:
                self._write([job], deadline)
            else:
                job.error = type(error)(error.what, fix=error.fix)

    def _again(self, job: Job[Any], deadline: float) -> None:
        """The partition was emptied between two steps of the put."""
        if time.monotonic() > deadline:
            job.error = MemoryUnavailable("The partition is emptied again and again while it is written to.")
        else:
            self._write([job], deadline)


def _place(job: Job[Any]) -> bytes:
    place: bytes = job.work.place  # type: ignore[attr-defined]
    return place


def _groups(jobs: list[Job[Any]]) -> Iterator[list[Job[Any]]]:
    group, size = [], 0
    for job in jobs:
        group.append(job)
        size += job.work.size  # type: ignore[attr-defined]
        if len(group) == AT_ONCE or size > BYTES_AT_ONCE or job is jobs[-1]:
            yield group
            group, size = [], 0


def _portions(records: Sequence[Record]) -> Iterator[list[Record]]:
    portion, size = [], 0
    for each in records:
        portion.append(each)
        size += size_of(each)
        if size > BYTES_AT_ONCE or each is records[-1]:
            yield portion
            portion, size = [], 0


def _columns(records: Sequence[Record]) -> dict[str, Any]:
    return {
        "ids": [encoded(each.id) for each in records],
        "kinds": [each.kind for each in records],
        "ats": [each.at for each in records],
        "weights": [float(each.weight) for each in records],
        "datas": [each.data for each in records],
        "terms": [each.terms for each in records],
        "vectors": [each.vector for each in records],
    }

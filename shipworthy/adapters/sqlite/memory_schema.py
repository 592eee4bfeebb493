"""The tables of a memory, in a file of their own or beside the runtime's, and what brings older ones to this format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

import apsw

from shipworthy.adapters.sqlite.connection import MEMORY_ID, Schema, rows
from shipworthy.errors import StoreForeign

SHELVES = 16
"""Tables that records are in. It is of the format: another number would look for a user's records elsewhere."""


PARTITIONS = "memory_partitions"


def records_of(shelf: int) -> str:
    """The table of a shelf."""
    return f"memory_records_{shelf:02}"


def steps() -> Mapping[int, str]:
    """SQL by the version that it leads to, from the one before."""
    text = resources.files("shipworthy.adapters.sqlite").joinpath("memory.sql").read_text("utf-8")
    made: dict[int, str] = {}
    for part in re.split(r"^-- version ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        version, _, each = head.partition(", ")
        if each:
            body = "".join(body.replace("{shelf}", f"{shelf:02}") for shelf in range(SHELVES))
        made[int(version)] = made.get(int(version), "") + body
    return made


def _version(connection: apsw.Connection) -> int:
    cursor = connection.cursor()
    if not rows(cursor, "SELECT 1 FROM sqlite_schema WHERE name = 'memory_meta'"):
        return 0
    [(version,)] = rows(cursor, "SELECT version FROM memory_meta")
    return int(version)


def _present(connection: apsw.Connection, path: str) -> bool:
    version, known = _version(connection), max(steps())
    if version > known:
        raise StoreForeign(f"The memory in {path} has format {version}; this release knows {known}.")
    return version == known


def _create(connection: apsw.Connection) -> None:
    if connection.pragma("application_id") == 0:
        connection.execute(f"PRAGMA application_id = {MEMORY_ID}")
    found = _version(connection)
    for version, sql in sorted(steps().items()):
        if version > found:
            connection.execute(sql)
            connection.execute("UPDATE memory_meta SET version = ?", (version,))


MEMORY = Schema(_present, _create, ("memory_meta", PARTITIONS), overwrites=True)
"""A memory's tables."""

"""Ranking vectors on the server, with pgvector: a copy of a partition's vectors is made when it is first asked for, and
kept up when it is asked again."""

from __future__ import annotations

import array
import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

from psycopg.adapt import Dumper
from psycopg.pq import Format

from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.memory_places import decoded
from shipworthy.adapters.postgres.memory_schema import Pgvector
from shipworthy.adapters.postgres.memory_session import Sight, perform
from shipworthy.domain.memory import Kind

COPIED_AT_ONCE = 2000
_TAG = 4
_DIMENSIONS = 16_000
"""What the type `vector` takes at most."""


class Vectors(list[bytes | None]):
    """Vectors as pgvector reads them, for an array of its type."""


class Ranking:
    """Ranks partitions in sessions of one database."""

    def __init__(self, pgvector: Pgvector) -> None:
        class Dumping(Dumper):
            oid = pgvector.array
            format = Format.BINARY

            def dump(self, obj: Vectors) -> bytes:
                """An array in PostgreSQL's binary format: dimensions, NULLs, type; size and lower bound; elements."""
                head = struct.pack("!iiIii", 1, int(None in obj), pgvector.oid, len(obj), 1)
                return head + b"".join(
                    [
                        struct.pack("!i", -1) if each is None else struct.pack("!i", len(each)) + each
                        for each in obj
                    ]
                )

        self._dumper = Dumping

    def copy(self, connection: Connection, sight: Sight) -> bool:
        """Copy the next vectors that were not copied yet; whether there were any."""
        connection.adapters.register_dumper(Vectors, self._dumper)
        [rows] = perform(connection, sight, ("uncopied", {"limit": COPIED_AT_ONCE}))
        if rows:
            perform(connection, sight, ("lock", {}), ("copy", _columns(rows)))
        return bool(rows)

    def rank(
        self, connection: Connection, sight: Sight, vector: bytes, limit: int, kinds: Sequence[Kind]
    ) -> list[tuple[str, float]]:
        """`Nearest.nearest`, of what was copied."""
        connection.adapters.register_dumper(Vectors, self._dumper)
        query = sent(vector)
        if query is None:
            return []
        values = {
            "query": Vectors([query]),
            "tag": vector[:_TAG],
            "dimensions": (len(vector) - _TAG) // 4,
            "kinds": list(kinds),
            "limit": limit,
        }
        [rows] = perform(connection, sight, ("nearest", values))
        return [(decoded(id), cosine) for id, cosine in rows]


def sent(vector: bytes) -> bytes | None:
    """A record's vector in pgvector's binary format: dimensions, then big-endian numbers; None for what is none."""
    numbers = array.array("f")
    if len(vector) <= _TAG or len(vector) % 4 or len(vector) > _TAG + 4 * _DIMENSIONS:
        return None
    numbers.frombytes(vector[_TAG:])
    if sys.byteorder == "big":
        numbers.byteswap()
    if not math.isfinite(sum(numbers)):
        return None
    if sys.byteorder == "little":
        numbers.byteswap()
    return struct.pack("!HH", len(numbers), 0) + numbers.tobytes()


def _columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, object]:
    vectors = [sent(vector) for _, _, _, vector in rows]
    return {
        "ns": [n for n, _, _, _ in rows],
        "ids": [id for _, id, _, _ in rows],
        "kinds": [kind for _, _, kind, _ in rows],
        "tags": [vector[:_TAG] for _, _, _, vector in rows],
        "sizes": [0 if each is None else (len(each) - _TAG) // 4 for each in vectors],
        "embeddings": Vectors(vectors),
    }

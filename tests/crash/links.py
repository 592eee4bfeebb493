"""The way to a PostgreSQL server, cut at a chosen append: before it is sent, or when the server has done it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg

from tests.crash.scenario import append


class LinkFault(msgspec.Struct, frozen=True):
    """The connection is lost at the *nth* group that is sent for appending, and at those after it, *times* in all:
    before it reaches the server, or when only the answer is still to come."""

    nth: int
    side: Literal["before", "after"]
    times: int = 1


def cut(fault: LinkFault | None, folder: Path, counted: dict[str, int]) -> None:
    """Let it go wrong so in this process, and tell of it in the folder's file `died`."""
    execute = psycopg.Connection.execute
    numbers = itertools.count(1)

    def execute_or_lose(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        if not (isinstance(query, str) and "FROM append(" in query):
            return execute(self, query, *args, **options)
        counted["append"] = nth = next(numbers)
        if fault is None or not fault.nth <= nth < fault.nth + fault.times:
            return execute(self, query, *args, **options)
        if fault.side == "after":
            execute(self, query, *args, **options)
        append(folder / "died", f"{fault.side} append {nth}")
        self.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")

    psycopg.Connection.execute = execute_or_lose  # type: ignore[method-assign]

"""The SQL of memory.sql: its migrations in their order, and its statements by name."""

from __future__ import annotations

import re
from importlib import resources

TEXT = resources.files("shipworthy.adapters.postgres").joinpath("memory.sql").read_text("utf-8")


def _parts(kind: str) -> dict[str, str]:
    """The parts of the file that begin with `-- kind: name`, or with `-- kind`."""
    found = re.split(r"^-- (migration|vectors|statement)(?:: (\w+))?\n", TEXT, flags=re.MULTILINE)[1:]
    return {
        name or said: text.strip()
        for said, name, text in zip(*[iter(found)] * 3, strict=True)
        if said == kind
    }


MIGRATIONS: tuple[str, ...] = tuple(_parts("migration").values())
"""The one of index n makes format n + 1 of format n."""
VECTORS: str = _parts("vectors")["vectors"]
"""Made beside any format, where the server has pgvector."""
STATEMENTS: dict[str, str] = _parts("statement")

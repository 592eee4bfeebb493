"""`shipworthy memory export`: everything of a scope, as JSON lines, in bounded memory.

The first line is `{"type": "memory", "export": 1, "memory", "tenant", "user", "session", "exported_at"}`; then a line
for each thing, `{"type": "episode" | "fact" | "block", "partition": {"tenant", "user", "session"}, ...}` with all its
fields; last `{"type": "end", "episodes": n, "facts": n, "blocks": n}`, so that a file cut short is seen. What is
changed meanwhile may come twice; the later line of an id counts. Times are milliseconds since the epoch. Vectors are
left out: they are made from the texts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.app.commands.printing import OK, Printer, note
from shipworthy.domain.memory import Remembered
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.memory.records import id_of, kind_of
from shipworthy.errors import ConfigurationError

FORMAT = 1
_AT_ONCE = 200
"""Lines that are written at once."""


async def export(printer: Printer, memory: Memory, scope: Scope, to: Path | None) -> int:
    """Write the scope's memory to *to*, or to stdout. An existing file is not replaced; one that could not be finished
    is removed."""
    if to is None:
        await _write(printer.write, memory, scope)
        return OK
    with _new(to) as write:
        lines = await _write(write, memory, scope)
    note(f"{to}: {lines} lines")
    return OK


@contextlib.contextmanager
def _new(to: Path) -> Iterator[Callable[[str], object]]:
    try:
        file = open(to, "x", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise _unwritten(to, error) from error
    try:
        with file:
            yield file.write
    except BaseException as error:
        to.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritten(to, error) from error
        raise


def _unwritten(to: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{to} cannot be written: {error.strerror}.", fix="Name a new file.")


async def _write(write: Callable[[str], object], memory: Memory, scope: Scope) -> int:
    waiting: list[str] = []
    written = 0
    async for line in _lines(memory, scope):
        waiting.append(msgspec.json.encode(line).decode() + "\n")
        if len(waiting) == _AT_ONCE:
            write("".join(waiting))
            written, waiting = written + len(waiting), []
    write("".join(waiting))
    return written + len(waiting)


async def _lines(memory: Memory, scope: Scope) -> AsyncIterator[dict[str, Any]]:
    now = time.time_ns() // 1_000_000
    yield {"type": "memory", "export": FORMAT, "memory": memory.name, **whose_data(scope), "exported_at": now}
    counts = {"episodes": 0, "facts": 0, "blocks": 0}
    async for partition, item in memory.export(scope):
        counts[f"{kind_of(item)}s"] += 1
        yield {"type": kind_of(item), "partition": whose_data(partition), **data_of(item)}
    yield {"type": "end", **counts}


def data_of(item: Remembered) -> dict[str, Any]:
    """One remembered thing with all its fields, those that have their defaults too."""
    return {"id": id_of(item)} | {name: _plain(getattr(item, name)) for name in item.__struct_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def whose_data(scope: Scope) -> dict[str, Any]:
    """Whose it is, as JSON has it."""
    return {"tenant": scope.tenant, "user": scope.user, "session": scope.session}

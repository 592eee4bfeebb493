"""`shipworthy runs export`: one run, whole, as JSON lines.

The first line is `{"type": "run", "export": 1, ...}` with the run's summary; then a line for each event,
`{"type": "event", "event": {...}}`, in order and in the journal's own format; then one for each body that the events
refer to, `{"type": "body", "digest": SHA-256, "size": bytes, "text": ...}`, with `"base64"` in place of `"text"` where
the bytes are not UTF-8; last `{"type": "end", "events": n, "bodies": n}`, so that a file cut short is seen.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.app.commands.printing import OK, Printer, note
from shipworthy.app.commands.runs import summary_data
from shipworthy.domain.scope import Scope
from shipworthy.engine.bodies import digests_of
from shipworthy.errors import ConfigurationError
from shipworthy.ports.store import Store

FORMAT = 1


async def export(printer: Printer, store: Store, scope: Scope, run_id: str, to: Path | None) -> int:
    """Write the run to *to*, or to stdout. An existing file is not replaced."""
    lines = [msgspec.json.encode(line) async for line in _lines(store, scope, run_id)]
    data = b"\n".join(lines) + b"\n"
    if to is None:
        printer.write(data.decode())
        return OK
    _write(to, data)
    note(f"{to}: {len(lines)} lines")
    return OK


def _write(to: Path, data: bytes) -> None:
    try:
        with open(to, "xb") as file:
            file.write(data)
    except OSError as error:
        raise ConfigurationError(
            f"{to} cannot be written: {error.strerror}.", fix="Name a new file."
        ) from error


async def _lines(store: Store, scope: Scope, run_id: str) -> AsyncIterator[dict[str, Any]]:
    summary = await store.find(scope, run_id)
    events = await store.read(scope, run_id)
    yield {"type": "run", "export": FORMAT, **summary_data(summary)}
    for event in events:
        yield {"type": "event", "event": event}
    digests = digests_of(events)
    for digest in digests:
        body = await store.body(scope, run_id, digest)
        yield {"type": "body", "digest": digest, "size": len(body), **_data(body)}
    yield {"type": "end", "events": len(events), "bodies": len(digests)}


def _data(body: bytes) -> dict[str, str]:
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode("ascii")}

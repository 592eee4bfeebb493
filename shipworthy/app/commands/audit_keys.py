"""`shipworthy audit keys`: secrets are made, sealed for writers, looked at and changed. None is ever an argument."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path
from typing import Any

from shipworthy.adapters.shared.sealed import SealedKey, seal_key
from shipworthy.app.commands.opening_audit import Given, reading, secrets_of, texts_of
from shipworthy.app.commands.printing import OK, Printer, note
from shipworthy.domain.audit import Draft, Entry
from shipworthy.errors import InputError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import BEGUN, ROTATED
from shipworthy.rules.audit.entries import done
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.signatures import public_of

_BYTES = 32
_NAMING = tuple([b'{"action":' + form.encode(action) for action in (BEGUN, ROTATED)])


def new(*, as_json: bool) -> int:
    """Print a secret that nobody had before, once."""
    text = secrets.token_urlsafe(_BYTES)
    printer = Printer(as_json=as_json)
    if as_json:
        printer.emit({"key": {"secret": text, "id": Secret(text).id}})
    else:
        printer.write(text + "\n")
        note(
            f"note: this secret, of the key {Secret(text).id}, is kept nowhere. Put it where only verifiers read it."
        )
    return OK


def seal(output: Path, given: Given, log: str | None, name: str | None, *, as_json: bool) -> int:
    """Make the key file that a writer has in place of the secret: for a log that is yet to begin, or goes on."""
    [text] = _one(texts_of(given))
    log_id, epoch, named = os.urandom(16).hex(), 0, name or ""
    if log is not None:
        first, last = _ends(log)
        every = first.facts.get("every")
        if type(every) is not int or every < 1:
            raise InputError(f"Entry 0 of {log} is none.", fix="Run `shipworthy audit verify` on it.")
        log_id, epoch = first.log, (last.seq + 1) // every
        named = name or str(first.facts.get("name") or "")
        if first.facts.get("sealed") is not True:
            note(
                "note: the log was begun with its plain secret, so a verifier goes on to call it not forward-secure."
            )
    made = seal_key(output, text, log_id, epoch, named)
    printer = Printer(as_json=as_json)
    if as_json:
        printer.emit({"sealed": {"file": str(output), **_sealed_data(made)}})
    else:
        printer.say(f"{output}: the key {made.id} of the log {made.log}, from epoch {epoch} on.")
        note("note: give the writers this file, and nobody but verifiers the secret.")
    return OK


def show(file: Path | None, given: Given, log: str | None, *, as_json: bool) -> int:
    """Show the ids of keys, and who signs a log's checkpoints. No secret is shown."""
    shown: list[dict[str, Any]] = []
    if file is not None:
        shown.append({"file": str(file), **_sealed_data(SealedKey(file))})
    if file is None or texts_of(given):
        log_id = None if log is None else _ends(log)[0].log
        for secret in secrets_of(given):
            signer = None if log_id is None else public_of(secret.seed(log_id)).hex()
            shown.append({"key": secret.id, "log": log_id, "signer": signer})
    printer = Printer(as_json=as_json)
    if as_json:
        printer.emit({"keys": shown})
        return OK
    for each in shown:
        printer.say(f"key {each['key']}" + ("" if each["log"] is None else f" of the log {each['log']}"))
        if each["signer"] is not None:
            printer.say(f"  signer  {each['signer']}")
    return OK


def rotate(log: str, given: Given, to: Given, by: str, why: str, *, as_json: bool) -> int:
    """Let a new secret take over: the log names it, in an entry that the old one makes."""
    old = secrets_of(given)
    [after] = _one(texts_of(to))
    first, _ = _ends(log)
    name = str(first.facts.get("name") or "")
    keys = [Secret(after), *old]
    if keys[0].id in _named(log):
        raise InputError(
            f"The key {keys[0].id} was the log's already, or is.",
            fix="Make a new secret with `shipworthy audit keys new`.",
        )
    asked = done("keys.rotated", by, time.time_ns() // 1_000_000, None, {"key": keys[0].id, "why": why})
    signer = asyncio.run(_rotated(_writer(log, name, keys), asked))
    printer = Printer(as_json=as_json)
    if as_json:
        printer.emit({"rotated": {"log": first.log, "key": keys[0].id, "signer": signer}})
    else:
        printer.say(
            f"The log {first.log} goes on under the key {keys[0].id}; its checkpoints are signed by {signer}."
        )
        note("note: give its writers secret=[new, old] or the new one alone; verifiers need both for good.")
    return OK


async def _rotated(writer: Any, asked: Draft) -> str:
    await writer.open()
    try:
        await writer.append([asked])
        standing, _ = await asyncio.to_thread(writer.standing)
        return str(standing.signer)
    finally:
        await writer.close()


def _writer(log: str, name: str, keys: list[Secret]) -> Any:
    from shipworthy.app.audit_logs import FileAuditLog, PostgresAuditLog, SqliteAuditLog

    kind, _, _ = log.partition(":")
    address, _, called = log.rpartition("#") if "#" in log else (log, "", "audit")
    if kind == "sqlite":
        return SqliteAuditLog(address.removeprefix("sqlite:").removeprefix("//"), secret=keys, name=called)
    if kind in ("postgres", "postgresql"):
        return PostgresAuditLog(address, secret=keys, name=called)
    return FileAuditLog(log.removeprefix("file:"), secret=keys, name=name or None)


def _one(texts: list[str]) -> list[str]:
    if len(texts) != 1:
        raise InputError("Which secret?", fix="Pass one of --secret-env NAME and --secret-file FILE, once.")
    return texts


def _ends(log: str) -> tuple[Entry, Entry]:
    """The first and the last entry of a log, as they stand. Raises InputError."""
    with reading(log) as read:
        first = last = None
        for line in read.entries(0):
            first, last = line if first is None else first, line
    one, other = form.entry_of(first or b""), form.entry_of(last or b"")
    if one is None or other is None:
        raise InputError(
            f"The log at {log} has no entries that can be read.", fix="Run `shipworthy audit verify` on it."
        )
    return one, other


def _named(log: str) -> set[Any]:
    """The ids of the keys that a log names, as it stands."""
    with reading(log) as read:
        entries = [form.entry_of(line) for line in read.entries(0) if line.startswith(_NAMING)]
    return {entry.facts.get("key") for entry in entries if entry is not None}


def _sealed_data(key: SealedKey) -> dict[str, Any]:
    return {
        "key": key.id,
        "log": key.log,
        "name": key.name or None,
        "signer": public_of(key.seed(key.log)).hex(),
    }

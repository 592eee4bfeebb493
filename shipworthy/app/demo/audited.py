"""The demo's audit log, in the runtime's own file: its secret, a copy of it, and what a verifier says."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shipworthy import SqliteAuditLog
from shipworthy.app.commands.opening_audit import opened
from shipworthy.domain.audit import Entry
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import Seal
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.verdicts import Report
from shipworthy.rules.audit.verifying import Verifier

SECRET = "audit.secret"


class Copy(msgspec.Struct, kw_only=True):
    """All that a verifier needs: the lines, the seal, the checkpoints, and the secret."""

    lines: list[bytes]
    seals: list[Seal]
    checkpoints: list[bytes]
    secret: str

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """The entries, each with the index of its line."""
        for index, line in enumerate(self.lines):
            if form.is_entry(line) and (entry := form.entry_of(line)) is not None:
                yield index, entry

    def verified(self) -> Report:
        """What a verifier says."""
        verifier = Verifier([Secret(self.secret)], seals=self.seals, checkpoints=self.checkpoints)
        for line in self.lines:
            verifier.feed(line)
        return verifier.report(missing=not self.lines)


def make_secret(folder: Path) -> None:
    """Draw the log's secret. In production only writers and verifiers can read it."""
    (folder / SECRET).write_text(secrets.token_urlsafe(32), "utf-8")


def log_in(folder: Path, database: str) -> SqliteAuditLog:
    """The log, in the file of the runtime: its entries land in the journal's own commits."""
    return SqliteAuditLog(database, secret=_secret_in(folder))


def copy_of(folder: Path, database: str) -> Copy:
    """What is in the file of it."""
    with contextlib.closing(opened(f"sqlite:{database}")) as log:
        seals, checkpoints = list(log.seals()), list(log.checkpoints())
        lines = [line for line, _ in log.lines()]
    return Copy(lines=lines, seals=seals, checkpoints=checkpoints, secret=_secret_in(folder))


def _secret_in(folder: Path) -> str:
    return (folder / SECRET).read_text("utf-8")

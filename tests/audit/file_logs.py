"""What the tests of audit logs in files share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shipworthy.adapters.files.audit_lines import numbers, older
from shipworthy.domain.audit import Draft, Entry
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import seals_of
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.verdicts import Report
from shipworthy.rules.audit.verifying import Verifier

SECRET = "a secret of the log's owner, kept elsewhere"
OTHER = "another secret, of somebody else altogether"


def draft(what: str, body: bytes = b"", **more: Any) -> Draft:
    return Draft(action="test", actor="writer", at=1, facts={"what": what}, body=body, **more)


def lines(path: Path) -> list[bytes]:
    """The lines of all parts, with what does not end."""
    files = [Path(older(str(path), number)) for number in numbers(str(path))] + [path]
    return b"".join([file.read_bytes() for file in files if file.exists()]).split(b"\n")


def entries(path: Path) -> list[Entry]:
    return [entry for line in lines(path)[:-1] if form.is_entry(line) and (entry := form.entry_of(line))]


def said(path: Path) -> list[str]:
    """What the test's own entries say."""
    return [entry.facts["what"] for entry in entries(path) if entry.action == "test"]


def verified(path: Path, *secrets: str, anchored: Sequence[bytes] | None = None) -> Report:
    """What the verifier says of the files as they are."""
    seal, heads = path.with_name(path.name + ".seal"), path.with_name(path.name + ".checkpoints")
    checkpoints = heads.read_bytes().split(b"\n")[:-1] if heads.exists() else []
    verifier = Verifier(
        [Secret(text) for text in secrets or (SECRET,)],
        seals=seals_of(seal.read_bytes()) if seal.exists() else [],
        checkpoints=checkpoints,
        anchored=[] if anchored is None else [anchored],
    )
    *whole, rest = lines(path)
    for line in whole:
        verifier.feed(line)
    if rest:
        verifier.feed(rest, whole=False)
    return verifier.report(missing=not path.exists() and not numbers(str(path)))

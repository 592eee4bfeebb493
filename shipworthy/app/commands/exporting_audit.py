"""`shipworthy audit export` and `prove`: a log as files for anybody's verifier, and proofs for who has no log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from shipworthy.app.commands.opening_audit import Opened, reading
from shipworthy.app.commands.printing import ERROR, OK, Printer, note
from shipworthy.errors import InputError
from shipworthy.rules.audit import form, proofs
from shipworthy.rules.audit.chain import SLOT


def export(log: str, output: Path, *, as_json: bool) -> int:
    """Write a log as the files of docs/reference/audit-format.md: OUTPUT, OUTPUT.seal and OUTPUT.checkpoints."""
    printer = Printer(as_json=as_json)
    names = [output, Path(f"{output}.seal"), Path(f"{output}.checkpoints")]
    with reading(log) as read, contextlib.ExitStack() as undo:
        seals, heads = read.seals(), read.checkpoints()
        for path in names:
            if path.exists():
                raise InputError(f"{path} is there already.", fix="Name a new file.")
        for path in names:
            undo.callback(path.unlink, missing_ok=True)
        counts = {"entries": 0, "bodies": 0, "checkpoints": 0}
        with _new(names[0]) as file:
            for line, whole in read.lines():
                if whole:
                    file.write(line + b"\n")
                    counts["entries" if form.is_entry(line) else "bodies"] += 1
        with _new(names[1]) as file:
            for seal in seals[:2]:
                file.write(form.encode(seal).ljust(SLOT - 1) + b"\n")
        with _new(names[2]) as file:
            for line in heads:
                file.write(line + b"\n")
                counts["checkpoints"] += 1
        undo.pop_all()
    if as_json:
        printer.emit({"exported": {"files": [str(path) for path in names], **counts}})
    else:
        said = ", ".join([f"{count} {name}" for name, count in counts.items()])
        printer.say(f"{output}: {said}. Its seal and its checkpoints are beside it.")
    return OK


@contextlib.contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}.", fix="Name a new file.") from error
    with open(fd, "wb") as file:
        yield file
        file.flush()
        os.fsync(fd)


class Asked(NamedTuple):
    """What is to be proved: that an entry is under a checkpoint, or that one only added to another. Checkpoints are
    files with a line, or numbers of entries of one of the log's own."""

    entry: int | None = None
    checkpoint: str | None = None
    earlier: str | None = None
    later: str | None = None


def prove(log: str, asked: Asked) -> int:
    """Print a proof, on one line."""
    with reading(log) as read:
        if asked.entry is not None:
            under = (
                _covering(read, asked.entry) if asked.checkpoint is None else _head(read, asked.checkpoint)
            )
            proof: proofs.Proof = proofs.prove_inclusion(read.entries(0), asked.entry, under)
        else:
            earlier, later = _head(read, asked.earlier or ""), _head(read, asked.later or "")
            proof = proofs.prove_consistency(read.entries(0), earlier, later)
    Printer().write(proofs.encode_proof(proof).decode() + "\n")
    return OK


def _covering(read: Opened, entry: int) -> bytes:
    """The first of the log's own checkpoints that covers an entry. Raises InputError."""
    for line in read.checkpoints():
        head = form.head_of(line)
        if head is not None and head[0].entries > entry:
            return line
    raise InputError(
        f"The log has no checkpoint of entry {entry}.",
        fix="Wait for one, or pass --checkpoint FILE of an anchor.",
    )


def _head(read: Opened, which: str) -> bytes:
    """The last checkpoint of a file, or the log's own of so many entries. Raises InputError."""
    if which.isdecimal() and not os.path.exists(which):
        for line in read.checkpoints():
            head = form.head_of(line)
            if head is not None and head[0].entries == int(which):
                return line
        raise InputError(
            f"The log has no checkpoint of {which} entries.",
            fix="Pass a file with a checkpoint's line, or another number.",
        )
    try:
        lines = Path(which).read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"{which} cannot be read: {error}.", fix="Pass a file with a checkpoint's line."
        ) from error
    heads = [line for line in lines if form.head_of(line) is not None]
    if not heads:
        raise InputError(f"{which} has no checkpoint.", fix="Pass a file with a checkpoint's line.")
    return heads[-1]


def check(path: Path, signers: Sequence[str], *, as_json: bool) -> int:
    """Say whether a proof holds; 0 if it does."""
    try:
        proof = proofs.proof_of(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.", fix="Pass the file of a proof.") from error
    if proof is None:
        raise InputError(f"{path} is no proof.", fix="Make one with `shipworthy audit prove`.")
    checked = proofs.check(proof, *[signer.strip().lower() for signer in signers])
    printer = Printer(as_json=as_json)
    if as_json:
        printer.emit({"proof": {"holds": checked.holds, "what": checked.what}})
    elif checked.holds:
        printer.say(f"holds: {checked.what}", "green")
    else:
        printer.say(f"does not hold: {checked.what}", "red")
        note(
            "note: the signer's key has to come from somewhere else than the proof, such as `audit keys show`."
        )
    return OK if checked.holds else ERROR

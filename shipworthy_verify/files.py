"""A log as it is given: as lines, or as files with what is beside them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from . import marks
from .keys import Secrets
from .report import Report, report
from .walk import Walk

_LINE = 64 * 2**20  # a file's line is cut here


def verify(
    lines: Iterable[bytes] | None,
    *,
    secrets: Secrets = (),
    seal: bytes | None = None,
    checkpoints: Iterable[bytes] = (),
    anchored: Iterable[bytes] = (),
    expected_log: str | None = None,
    bodies: bool = True,
) -> Report:
    """Verify a log; `lines` is None where there is none. Never raises for what the log holds."""
    walk = Walk(secrets, seal, checkpoints, anchored)
    walk.judge_bodies, walk.expected = bodies, expected_log
    if lines is None:
        told = walk.seal.given or expected_log is not None or walk.marks.tell(None)
        words = f"There is no log, {'though something' if told else 'and nothing'} tells of one."
        walk.found.append(("missing", None, words))
    else:
        walk.run(lines)
    return report(walk)


def _file_lines(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines of a file; of one that is too long only the beginning."""
    read = file.readline
    while line := read(_LINE):
        yield line
        while len(line) == _LINE and not line.endswith(b"\n"):
            line = read(_LINE)


def _all_lines(files: Iterable[BinaryIO]) -> Iterator[bytes]:
    for file in files:
        yield from _file_lines(file)


def _log_lines(path: Path) -> Iterator[bytes]:
    """Give the lines of a log's files as they are at one moment: its writer may be cutting them."""
    while True:
        with contextlib.ExitStack() as stack:
            older, files = _older(path), []
            for part in [*older, path]:
                with contextlib.suppress(FileNotFoundError):
                    files.append(stack.enter_context(part.open("rb")))
            if _older(path) == older:
                yield from _all_lines(files)
                return


class _Anchor:
    """A file of anchored checkpoints; `logs` are those that it tells of, when it was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.logs: set[str] = set()

    def lines(self) -> Iterator[bytes]:
        for line in _file_lines(self._file):
            mark = marks.read(line.removesuffix(b"\n"))
            if mark is not None:
                self.logs.add(mark.log)
            yield line


def _held_to(found: Report, anchors: Sequence[_Anchor]) -> Report:
    """The same; or that an anchor knows nothing of a log that is in order otherwise."""
    silent = sum(found.log not in anchor.logs for anchor in anchors)
    if not found.ok or not silent:
        return found
    words = f"{found.words} Of the anchors, {silent} have no checkpoint of this log."
    return dataclasses.replace(found, verdict="unanchored", words=words)


def _older(path: Path) -> list[Path]:
    """Give the older parts of a log, the oldest first."""
    pattern = re.compile(re.escape(path.name) + r"\.([0-9]{6,})")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    older = sorted((int(match[1]), name) for name in names if (match := pattern.fullmatch(name)))
    return [path.parent / name for _, name in older]


def verify_file(
    path: str | os.PathLike[str],
    *,
    secrets: Secrets = (),
    anchors: Iterable[str | os.PathLike[str]] = (),
    expected_log: str | None = None,
    bodies: bool = True,
) -> Report:
    """Verify a log in files, with what is beside it. Raises OSError where one cannot be read.

    The seal and the checkpoints are read before the lines, so a log that is being written can be verified.
    """
    path = Path(path).resolve()  # what belongs to a log is beside the file itself, not beside a link to it
    seal, own = Path(f"{path}.seal"), Path(f"{path}.checkpoints")
    sealed = seal.read_bytes() if seal.exists() else None
    with contextlib.ExitStack() as stack:
        outside = [_Anchor(stack.enter_context(Path(anchor).open("rb"))) for anchor in anchors]
        beside = [stack.enter_context(own.open("rb"))] if own.exists() else []
        found = verify(
            _log_lines(path) if path.exists() or _older(path) else None,
            secrets=secrets,
            seal=sealed,
            checkpoints=_all_lines(beside),
            anchored=(line for anchor in outside for line in anchor.lines()),
            expected_log=expected_log,
            bodies=bodies,
        )
    return _held_to(found, outside)

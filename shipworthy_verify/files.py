"""A log as it is given: as lines, or as files with what is beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

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


def _all_lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            yield from _file_lines(file)


def _parts(path: Path) -> list[Path]:
    """Give the files of a log, the oldest first."""
    pattern = re.compile(re.escape(path.name) + r"\.([0-9]{6,})")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    older = sorted((int(match[1]), name) for name in names if (match := pattern.fullmatch(name)))
    return [path.parent / name for _, name in older] + ([path] if path.exists() else [])


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
    seal, own = Path(f"{path}.seal"), Path(f"{path}.checkpoints")
    sealed = seal.read_bytes() if seal.exists() else None
    files = _parts(Path(path))
    return verify(
        _all_lines(files) if files else None,
        secrets=secrets,
        seal=sealed,
        checkpoints=_all_lines([own] if own.exists() else []),
        anchored=_all_lines(Path(anchor) for anchor in anchors),
        expected_log=expected_log,
        bodies=bodies,
    )

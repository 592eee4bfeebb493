"""Opening what `shipworthy audit` reads: logs, their anchors, and secrets. Nothing is changed by it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from shipworthy.adapters.files.audit_lines import Reader, parts
from shipworthy.app.anchors import anchor_for
from shipworthy.errors import AnchorError, AuditUnavailable, ConfigurationError, InputError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import SLOT, Seal, seals_of
from shipworthy.rules.audit.keys import Secret

_BUFFER = 1 << 20
_LONGEST = 64 << 20
"""Bytes of a line; what goes on is another one, and is not authentic."""
_FIX = "Pass the path of a log's file, sqlite:<path> or postgres://...; #name after the last two where it is not audit."


class Opened(Protocol):
    """A log that is read: its seals, lines and checkpoints, in this order, so that writers may go on."""

    where: str

    def exists(self) -> bool: ...
    def seals(self) -> Sequence[Seal]: ...
    def name(self) -> str:
        """What its first entry says, or else its checkpoints, or what it would be called by its place."""
        ...

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        """Entries and bodies, without newlines; whether they had one."""
        ...

    def entries(self, after: int) -> Iterator[bytes]:
        """The whole entries' lines from this number on."""
        ...

    def checkpoints(self) -> Iterator[bytes]:
        """Its own, up to the newest one that there was when it was asked for."""
        ...

    def size(self) -> int:
        """Of its lines, in bytes; 0 where nobody can tell."""
        ...

    def close(self) -> None: ...


class OfFile:
    """A log in files."""

    def __init__(self, path: str) -> None:
        self.where = path
        self._path = os.path.realpath(path)  # its seal and older parts are beside the file, not beside a link

    def exists(self) -> bool:
        try:
            with parts(self._path) as files:
                return bool(files)
        except FileNotFoundError:
            return False

    def seals(self) -> Sequence[Seal]:
        with contextlib.suppress(FileNotFoundError), open(f"{self._path}.seal", "rb") as file:
            return seals_of(file.read(2 * SLOT))
        return []

    def name(self) -> str:
        first = next(self.entries(0), None) if self.exists() else None
        return _name_in(first) or self._signed_name() or os.path.basename(self._path)

    def _signed_name(self) -> str:
        """What its own checkpoints call it; "" where there are none."""
        name = ""
        for line in self.checkpoints():
            read = form.head_of(line)
            name = name if read is None else read[0].name
        return name

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        with parts(self._path) as files:
            for part in files:
                with open(os.dup(part.fd), "rb", buffering=_BUFFER) as file:
                    for line in iter(partial(file.readline, _LONGEST), b""):
                        yield (line[:-1], True) if line.endswith(b"\n") else (line, False)

    def entries(self, after: int) -> Iterator[bytes]:
        return Reader(self._path).lines(after)

    def checkpoints(self) -> Iterator[bytes]:
        path = f"{self._path}.checkpoints"
        return _up_to(path, os.stat(path).st_size) if os.path.exists(path) else iter(())

    def size(self) -> int:
        with parts(self._path) as files:
            return sum([part.size for part in files])

    def close(self) -> None:
        """Every file is closed when it is read."""


def _up_to(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            size -= len(line)
            if size < 0 or not line.endswith(b"\n"):
                return
            yield line[:-1]


class OfDatabase:
    """A log in the tables of a database."""

    def __init__(self, where: str, kind: str, address: str, name: str) -> None:
        from shipworthy.app.audit_logs import copy_in_postgres, copy_in_sqlite

        self.where = where
        self._is_there = kind != "sqlite" or os.path.isfile(address)
        self._copy = copy_in_sqlite(address, name) if kind == "sqlite" else copy_in_postgres(address, name)

    def exists(self) -> bool:
        return self._is_there and self._copy.kept() is not None

    def others(self) -> list[str]:
        """What the logs are called that are there."""
        return self._copy.names() if self._is_there else []

    def seals(self) -> Sequence[Seal]:
        seal = self._copy.seal() if self.exists() else None
        return [] if seal is None else [seal]

    def name(self) -> str:
        return self._copy.name

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        return ((line, True) for line in self._copy.written()) if self.exists() else iter(())

    def entries(self, after: int) -> Iterator[bytes]:
        return self._copy.lines(after) if self.exists() else iter(())

    def checkpoints(self) -> Iterator[bytes]:
        last = self._copy.last_checkpoint() if self.exists() else None
        read = None if last is None else form.head_of(last)
        if last is None:
            return iter(())
        if read is None:
            return self._copy.checkpoints()
        return bounded(self._copy.checkpoints(), {read[0].log: read[0].entries})

    def size(self) -> int:
        return 0

    def close(self) -> None:
        self._copy.let_go()


def _name_in(line: bytes | None) -> str | None:
    entry = None if line is None else form.entry_of(line)
    name = None if entry is None else entry.facts.get("name")
    return name if isinstance(name, str) and name else None


def opened(log: str) -> Opened:
    """The log at a place. Raises ConfigurationError."""
    kind, colon, rest = log.partition(":")
    if colon and kind in ("sqlite", "postgres", "postgresql"):
        address, hash_, name = log.rpartition("#") if "#" in log else (log, "", "audit")
        if not name or (hash_ and not address):
            raise ConfigurationError(f"{_hidden(log)} names no log.", fix=_FIX)
        if kind == "sqlite":
            address = address.removeprefix("sqlite:").removeprefix("//")
        return OfDatabase(_hidden(log), kind, address, name)
    if not log or (colon and rest.startswith("//")):
        raise ConfigurationError(f"{_hidden(log)!r} is no place of a log.", fix=_FIX)
    return OfFile(log.removeprefix("file:"))


def _hidden(place: str) -> str:
    """An address without what stands before its host."""
    head, _, rest = place.partition("://")
    return f"{head}://{rest.rpartition('@')[2]}" if rest else place


def found(log: Opened) -> Opened:
    """The same. Raises InputError where there is none."""
    if log.exists():
        return log
    others = log.others() if isinstance(log, OfDatabase) else []
    raise InputError(
        f"There is no audit log at {log.where}.",
        fix=f"Its database has: {', '.join(others)}. Name one with #name." if others else _FIX,
    )


@contextlib.contextmanager
def reading(place: str, *, found_only: bool = True) -> Iterator[Opened]:
    """The log at a place, closed afterwards. Raises InputError where there is none, AuditUnavailable where it cannot be
    read."""
    log = opened(place)
    try:
        yield found(log) if found_only else log
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AuditUnavailable(
            f"The audit log at {log.where} cannot be read: {error.strerror or error}.",
            fix="Give this process its files, for reading.",
        ) from error
    finally:
        log.close()


class Given(NamedTuple):
    """Where secrets are: names of environment variables, and files."""

    environment: Sequence[str] = ()
    files: Sequence[Path] = ()


def texts_of(given: Given) -> list[str]:
    """The secrets, in the order of their options. Raises InputError."""
    texts = []
    for name in given.environment:
        text = os.environ.get(name)
        if not text:
            raise InputError(f"The environment has no {name}.", fix="Export it, or pass --secret-file.")
        texts.append(text)
    for path in given.files:
        try:
            texts.append(path.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The secret in {path} cannot be read: {error}.", fix="Pass a file with the secret's text."
            ) from error
    return texts


def secrets_of(given: Given) -> list[Secret]:
    """The keys of these secrets. Raises InputError, ConfigurationError."""
    texts = texts_of(given)
    if not texts:
        raise InputError(
            "Which secret?",
            fix="Pass --secret-env NAME or --secret-file FILE; it is never an argument itself.",
        )
    return [Secret(text) for text in texts]


class Anchored(NamedTuple):
    """What an anchor has, up to the newest that there was when it was asked. `knows`: the logs of the name that was
    asked for. The lines may be of other names where it knows none."""

    where: str
    lines: Iterator[bytes]
    knows: frozenset[str]
    close: contextlib.ExitStack


def anchored(addresses: Sequence[str], name: str) -> list[Anchored]:
    """What the anchors have of the logs of this name. Raises AnchorError, ConfigurationError."""
    return [_asked(address, name) for address in addresses]


def _asked(address: str, name: str) -> Anchored:
    is_file = address.startswith("file:") or "://" not in address
    path = address.removeprefix("file:") if is_file else ""
    anchor = anchor_for(f"file:{path}" if is_file else address)
    if is_file and not os.path.exists(path):
        raise AnchorError(
            f"There is no anchor at {path}.",
            fix="Correct --anchor, or mount its disk: it is the file that the log's writers send checkpoints to.",
        )
    stack = contextlib.ExitStack()
    stack.callback(anchor.close)
    newest: dict[str, int] = {}
    for line in anchor.newest(name):
        read = form.head_of(line)
        if read is not None:
            newest[read[0].log] = read[0].entries
    if is_file and not newest:  # it tells of other logs, of which this may have taken the place
        lines = _up_to(path, os.path.getsize(path))
        return Anchored(anchor.where, (line for line in lines if form.head_of(line)), frozenset(), stack)
    return Anchored(anchor.where, bounded(anchor.all(name), newest), frozenset(newest), stack)


def bounded(lines: Iterable[bytes], newest: Mapping[str, int]) -> Iterator[bytes]:
    """The checkpoints that cover no more than the newest of their log did."""
    for line in lines:
        read = form.head_of(line)
        if read is None or read[0].entries <= newest.get(read[0].log, 0):
            yield line

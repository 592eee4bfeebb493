"""The thread that appends to an audit log in files: many appends, one write, one sync.

The order of the lines is the guarantee: under the lock that all processes share, look whether somebody else has
appended; link, write, sync, seal; and only then is anybody told.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shipworthy.adapters.files.audit_lines import Identity, Part, numbers, older, parts
from shipworthy.adapters.files.audit_seal import SealFile
from shipworthy.adapters.files.audit_tail import Begin, Tail, beginning, damaged, tail_of
from shipworthy.adapters.shared.filelock import FileLock, sync_folder, write_at
from shipworthy.adapters.shared.lane import Job, Lane
from shipworthy.domain.audit import Draft, EpochKeys, Standing
from shipworthy.errors import AuditClosed, AuditError, AuditKeyWrong, AuditUnavailable, ShipworthyError
from shipworthy.rules.audit.chain import SALT, Chain, genesis, seal_of

log = logging.getLogger("shipworthy.audit")
_BACK = 5_000
"""Milliseconds by which a clock may be behind before it is said."""
_LONGEST = 64 << 20
"""Bytes of a line from which on verifiers refuse it."""
_FULL = getattr(fcntl, "F_FULLFSYNC", None)


def _sync(fd: int) -> None:
    """Have it on the disk; on a Mac that takes more than fsync."""
    if _FULL is not None:
        fcntl.fcntl(fd, _FULL)
    else:
        os.fdatasync(fd)


class Place(msgspec.Struct, frozen=True):
    """Which log it is, and how it is written. `name`: what it has to be called; `called`: what one that is begun is
    called. `synced`: an append is safe from loss of power. `rotate`: bytes from which on a file is cut; 0 is never."""

    path: str
    keys: tuple[EpochKeys, ...]
    name: str | None
    called: str
    rotate: int
    synced: bool


class Appender(Lane):
    """Has the files of a log. *tells*: what else tells of a log where there is none. *made*: is told of new entries."""

    def __init__(self, place: Place, tells: Callable[[], str], made: Callable[[int], None]) -> None:
        super().__init__("audit", place.path)
        self._place, self._tells, self._made = place, tells, made
        self._lock = FileLock(place.path + ".lock")
        self._seal = SealFile(place.path + ".seal")
        self._fd = -1
        self._id: Identity | None = None
        self._size = 0
        self._chain: Chain | None = None
        self._lines: list[bytes] = []
        self.is_trusted = False
        """Whether all was asked that tells of the log: until then nothing is entered."""
        self._late = False
        self._before = 0
        self.durable: tuple[Standing, EpochKeys] | None = None
        """Where the log stood when this process appended last, or looked; replaced as a whole."""

    @property
    def count(self) -> int:
        """How many entries were there before those of the group that is under way."""
        return self._before

    def settle(self) -> None:
        """Make durable the seal, and before it what it counts; from any thread."""
        if not self._place.synced:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._seal.sync()

    def enter(self, drafts: Sequence[Draft]) -> None:
        """Link these; a job's work."""
        assert self._chain is not None
        link, now = self._chain.link, time.time_ns() // 1_000_000
        if now < self._chain.standing.logged - _BACK and not self._late:
            self._late = True
            log.error("The clock is behind the audit log %s: was it set back?", self._path)
        for draft in drafts:
            made = link(draft, now, os.urandom(SALT) if draft.body else b"")
            if len(made.line) >= _LONGEST or len(made.body) >= _LONGEST:
                raise AuditError(
                    f"An entry of {draft.action!r} would be {max(len(made.line), len(made.body))} bytes long, and an "
                    f"audit log's lines are shorter than {_LONGEST}: no verifier would read it.",
                    fix="Keep the content elsewhere, and enter its digest.",
                )
            self._lines.append(made.line)
            if made.body:
                self._lines.append(made.body)

    # on the thread

    def _closed(self) -> AuditError:
        return AuditClosed(f"The audit log {self._path} was closed.")

    def _perform(self, group: list[Job[Any]]) -> None:
        try:
            with self._lock:
                chain = self._sound()
                self._before = chain.standing.count
                self._take_over(chain)
                for job in group:
                    self._do(job, chain)
                self._commit(chain)
        except Exception as error:
            self._chain = None  # look again before anything is appended, at a file that is opened anew
            for job in group:
                job.error = job.error or self._meaning(error)
            return
        finally:
            self._lines = []
        self.durable = (msgspec.structs.replace(chain.standing), chain.active())
        if made := chain.standing.count - self._before:
            self._made(made)

    def _do(self, job: Job[Any], chain: Chain) -> None:
        """Have a job link its entries: all of them, or none where it is at fault."""
        standing, lines = msgspec.structs.replace(chain.standing), len(self._lines)
        try:
            job.value = job.work(self)
            return
        except AuditKeyWrong:
            raise
        except ShipworthyError as refusal:
            job.error = refusal
        except Exception as error:
            job.error = AuditError(
                f"An entry cannot be written to the audit log ({type(error).__name__}: {error}).",
                fix="Keep lone surrogates, and what JSON has no word for, out of names and facts.",
            )
            job.error.__cause__ = error
        chain.standing = standing
        del self._lines[lines:]

    def _commit(self, chain: Chain) -> None:
        if not self._lines:
            return
        if self._place.rotate and self._size >= self._place.rotate:
            self._rotate()
        self._lines.append(b"")
        self._write(b"\n".join(self._lines))
        self._sealed(chain.standing, chain.seal())

    def _write(self, data: bytes) -> None:
        """Append, durably, whole or not at all. Raises OSError: what was written is cut off again."""
        try:
            write_at(self._fd, data, self._size)
            if self._place.synced:
                _sync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # then it is a torn end, and whoever looks next cuts it off
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _sealed(self, standing: Standing, seal: bytes) -> None:
        try:
            self._seal.write(standing, seal)
        except OSError as error:  # the entries are durable; the seal is behind
            log.error("The seal of the audit log %s cannot be written: %s", self._path, error)
            self._chain = None

    def _rotate(self) -> None:
        """Cut the file here: it becomes an older part."""
        os.fsync(self._fd)
        at = numbers(self._path)
        os.rename(self._path, older(self._path, at[-1] + 1 if at else 1))
        self._open_newest()

    def _open_newest(self) -> None:
        self._let_go_of_file()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        at = os.fstat(self._fd)
        self._id, self._size = (at.st_dev, at.st_ino), at.st_size
        if not at.st_size:
            sync_folder(self._path)

    # looking

    def _sound(self) -> Chain:
        """The chain, as it goes on: the files are looked at if anybody else was there, or anything failed. Raises
        AuditDamaged, AuditKeyWrong, OSError."""
        if self._chain is None or not self._is_untouched():
            self._chain = None
            self._chain = self._look()
        return self._chain

    def _is_untouched(self) -> bool:
        try:
            at = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (at.st_dev, at.st_ino) == self._id and at.st_size == self._size and self._seal.is_there

    def _look(self) -> Chain:
        seals = self._seal.read()
        with parts(self._path) as files:
            self._is_followed(files)
            begin = beginning(files, self._path)
            if begin is None:
                return self._begin(files, bool(seals))
            self._is_ours(begin)
            tail = tail_of(files, self._path, begin, self._place.keys, seals)
            self._goes_on(tail.standing)
            self._adopt(files, tail)
        return Chain(self._place.keys, tail.standing)

    def _is_followed(self, files: Sequence[Part]) -> None:
        """Whether the file that was written last is still one of the log's."""
        if self._id is not None and self._id not in [part.id for part in files]:
            raise damaged(
                "swapped" if files else "missing", f"The audit log {self._path} was removed, or replaced"
            )

    def _is_ours(self, begin: Begin) -> None:
        place = self._place
        if place.name is not None and begin.name != place.name:
            raise damaged("swapped", f"The audit log {self._path} is {begin.name!r}, not {place.name!r}")
        for key in place.keys:
            if key.log is not None and key.log != begin.log:
                raise damaged(
                    "swapped", f"The audit log {self._path} is {begin.log}; the sealed key's is {key.log}"
                )

    def _goes_on(self, standing: Standing) -> None:
        """Whether this is what the log became that this process knows."""
        if self.durable is None:
            return
        known = self.durable[0]
        if standing.log != known.log:
            raise damaged("swapped", f"The audit log {self._path} was {known.log}, and is {standing.log}")
        if standing.count < known.count:
            what = f"The audit log {self._path} has {standing.count} entries, and had {known.count}"
            raise damaged("truncated", what)
        if standing.count == known.count and standing.mac != known.mac:
            raise damaged("rewritten", f"The audit log {self._path} has another last entry than it had")

    def _adopt(self, files: Sequence[Part], tail: Tail) -> None:
        """Go on from there: what is torn is cut off, and what no seal counts yet is made durable and sealed."""
        if tail.torn:
            log.info("The torn end of the audit log %s was cut off: it was never acknowledged.", self._path)
            for part in files[files.index(tail.part) + 1 :]:
                os.truncate(part.path, 0)
            os.truncate(tail.part.path, tail.end)
        self._open_newest()
        standing = tail.standing
        if tail.slot is not None:
            self._seal.holds(tail.slot)
        if tail.sealed < standing.count:
            os.fsync(self._fd)
            key = tail.maker.epoch(standing.log, (standing.count - 1) // standing.every)
            seal = seal_of(key, standing.log, standing.count, standing.mac)
            if tail.slot is None:
                self._seal.create(standing, seal)
            else:
                self._seal.write(standing, seal)

    def _take_over(self, chain: Chain) -> None:
        """Go on with the first key, if another one is in use: entered with what is appended now."""
        rotation = chain.rotation(time.time_ns() // 1_000_000) if self.is_trusted else None
        if rotation is not None:
            self._lines.append(chain.link(rotation, rotation.at, b"").line)
            chain.rotate()

    def _begin(self, files: Sequence[Part], is_sealed: bool) -> Chain:
        told = f"{self._path}.seal" if is_sealed else self._tells()
        if told or self.durable is not None:
            verdict = "emptied" if files else "missing"
            raise damaged(verdict, f"The audit log {self._path} has no entries, and there were some: {told}")
        key = self._place.keys[0]
        now = time.time_ns() // 1_000_000
        standing, draft = genesis(key, self._place.called, key.log or os.urandom(16).hex(), now)
        chain = Chain(self._place.keys, standing)
        self._open_newest()
        os.ftruncate(self._fd, 0)
        self._size = 0
        line = chain.link(draft, now, b"").line + b"\n"
        write_at(self._fd, line, 0)
        os.fsync(self._fd)
        self._size = len(line)
        self._seal.create(standing, chain.seal())
        return chain

    # letting go

    def _meaning(self, error: Exception) -> ShipworthyError:
        """An error of its own for each who is told."""
        if isinstance(error, ShipworthyError):
            meaning = type(error)(error.what, fix=error.fix)
        elif isinstance(error, OSError):
            meaning = AuditUnavailable(f"The audit log {self._path} cannot be written: {error}.")
        else:
            what = f"The audit log {self._path} failed: {type(error).__name__}: {error}."
            meaning = AuditError(what, fix="Please report it; resume the run meanwhile.")
        meaning.__cause__ = error
        return meaning

    def _let_go_of_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _end(self) -> None:
        self._let_go_of_file()
        self._seal.close()
        self._lock.close()

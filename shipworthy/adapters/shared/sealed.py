"""The evolving key file: what it has can make what comes, and nothing that is over.

The file moves on after an entry of the new epoch, and the seal that counts it, are durable; never before. So whatever
is lost in between, key file and log fit. When another key took over, nothing is left in it but whose it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading

import msgspec

from shipworthy.adapters.shared.filelock import FileLock, sync_folder, write_at
from shipworthy.errors import AuditKeyWrong, AuditUnavailable, ConfigurationError
from shipworthy.rules.audit.form import encode
from shipworthy.rules.audit.keys import Secret, following

_FIX = "Make one with `shipworthy audit keys new`, on the machine that writes the log."


_TAKEN_OVER = "Give the log the key that took over; this file can be removed."


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is in the file, all of it in hex. `begun`: entries of the log are durable. `retired`: another key took over,
    and the keys are gone."""

    begun: bool
    epoch: int
    id: str
    key: str
    log: str
    name: str
    seed: str
    retired: bool = False


_file = msgspec.json.Decoder(_Kept)
_FORM = {"id": 16, "key": 64, "log": 32, "seed": 64}


class SealedKey:
    """The keys of one log, from the epoch in the file at *path* on. Several processes may share the file. Raises
    ConfigurationError."""

    sealed = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(path)  # what a link points to is what must not keep old keys
        self._lock = threading.Lock()
        self._turn = FileLock(self.path + ".lock")
        kept = _read(self.path)
        self.id, self.log, self.name = kept.id, kept.log, kept.name
        self._seed = bytes.fromhex(kept.seed)
        self._begun = kept.begun
        self._keys = {} if kept.retired else {kept.epoch: bytes.fromhex(kept.key)}

    def __repr__(self) -> str:
        return f"<SealedKey {self.id} {self.path!r}>"

    @property
    def begun(self) -> bool:
        """Whether the log had durable entries when the file was written last."""
        return self._begun

    @property
    def retired(self) -> bool:
        """Whether another key took over, and these are gone."""
        return not self._keys

    def epoch(self, log: str, number: int) -> bytes:
        """The key of an epoch. Raises AuditKeyWrong for one that is over, and for another log."""
        if log != self.log:
            raise AuditKeyWrong(f"The sealed key {self.path!r} is of the log {self.log}, not of {log}.")
        with self._lock:
            self._in_use()
            key = self._keys.get(number)
            if key is not None:
                return key
            at = max([each for each in self._keys if each < number], default=-1)
            if at < 0:
                raise AuditKeyWrong(
                    f"The sealed key {self.path!r} is at epoch {min(self._keys)}; that of {number} is gone.",
                    fix="Run `shipworthy audit verify`: the log is behind its key.",
                )
            key = self._keys[at]
            for _ in range(number - at):
                key = following(key)
            self._keys = {min(self._keys): self._keys[min(self._keys)], number: key}
            return key

    def seed(self, log: str) -> bytes:
        """The seed of the key that signs this log's checkpoints. Raises AuditKeyWrong where it is gone."""
        self._in_use()
        return self._seed

    def _in_use(self) -> None:
        if not self._keys:
            raise AuditKeyWrong(f"The sealed key {self.path!r} was retired.", fix=_TAKEN_OVER)

    def over(self, log: str, number: int) -> None:
        """Forget the keys before this epoch's, here and in the file. Raises AuditUnavailable: nothing was forgotten."""
        self._in_use()
        if self._begun and number <= min(self._keys):
            return
        key = self.epoch(log, number)
        try:
            with self._turn:
                kept = _read(self.path)
                if (kept.log, kept.id) != (self.log, self.id):
                    raise AuditKeyWrong(f"The sealed key {self.path!r} was replaced by another one.")
                if kept.retired:
                    raise AuditKeyWrong(f"The sealed key {self.path!r} was retired.", fix=_TAKEN_OVER)
                if kept.epoch < number:
                    _write(self.path, msgspec.structs.replace(kept, begun=True, epoch=number, key=key.hex()))
                elif not kept.begun:
                    _write(self.path, msgspec.structs.replace(kept, begun=True))
        except OSError as error:
            raise AuditUnavailable(f"The sealed key {self.path!r} cannot move on: {error}.") from error
        with self._lock:
            self._begun = True
            later = {at: each for at, each in self._keys.items() if at > number}
            self._keys = {number: key, **later}  # the lane may have made later ones meanwhile

    def retire(self) -> None:
        """Another key took over: destroy these, here and in the file, which says so from then on. Raises
        AuditUnavailable: nothing was destroyed."""
        try:
            with self._turn:
                kept = _read(self.path)
                if (kept.log, kept.id) == (self.log, self.id) and not kept.retired:
                    _bury(self.path, msgspec.structs.replace(kept, begun=True, key="", seed="", retired=True))
        except OSError as error:
            raise AuditUnavailable(f"The sealed key {self.path!r} cannot be destroyed: {error}.") from error
        with self._lock:
            self._begun, self._keys, self._seed = True, {}, b""


def seal_key(
    path: str | os.PathLike[str], secret: str, log_id: str, epoch: int = 0, name: str = ""
) -> SealedKey:
    """Make the key file of a log, from the secret that only verifiers keep. Raises ConfigurationError, for a file that
    is there too."""
    if re.fullmatch("[0-9a-f]{32}", log_id) is None:
        raise ConfigurationError(f"{log_id!r} is not a log's id.", fix="Pass 32 hexadecimal digits.")
    keys = Secret(secret)
    kept = _Kept(
        begun=epoch > 0,
        epoch=epoch,
        id=keys.id,
        key=keys.epoch(log_id, epoch).hex(),
        log=log_id,
        name=name,
        seed=keys.seed(log_id).hex(),
    )
    place = os.path.realpath(path)
    turn = FileLock(place + ".lock")
    try:
        with turn:
            if os.path.exists(place):
                raise ConfigurationError(f"{place!r} is there already.", fix="Choose another file.")
            _write(place, kept)
    except OSError as error:
        raise ConfigurationError(
            f"{place!r} cannot be written: {error}.", fix="Choose another file."
        ) from error
    finally:
        turn.close()
    return SealedKey(place)


def _read(path: str) -> _Kept:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            kept = _file.decode(file.read())
    except OSError as error:
        raise ConfigurationError(f"The sealed key {path!r} cannot be read: {error}.", fix=_FIX) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path!r} is not a sealed key: {error}.", fix=_FIX) from None
    sizes = _FORM | {"key": 0, "seed": 0} if kept.retired else _FORM
    wrong = [
        name for name, size in sizes.items() if not re.fullmatch(f"[0-9a-f]{{{size}}}", getattr(kept, name))
    ]
    if wrong or kept.epoch < 0:
        raise ConfigurationError(
            f"{path!r} is not a sealed key: its {(wrong or ['epoch'])[0]} is not.", fix=_FIX
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"Others may read the sealed key {path!r}.", fix=f"chmod 600 {path}")
    return kept


def _write(path: str, kept: _Kept) -> None:
    """Put this in the file's place, durably, at once or not at all."""
    beside = f"{path}.new"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_at(fd, encode(kept) + b"\n", 0)
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    finally:
        os.close(fd)
    os.rename(beside, path)
    sync_folder(path)


def _bury(path: str, kept: _Kept) -> None:
    """The same, and nothing is left of what was in the file before."""
    old = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(old).st_size
        _write(path, kept)
        write_at(old, b"\0" * size, 0)
        os.fsync(old)
        os.ftruncate(old, 0)
    finally:
        os.close(old)

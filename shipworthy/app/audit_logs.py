"""Audit logs: where their entries are kept, and the secrets that they are made with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

from shipworthy.adapters.files.audit import FileLog
from shipworthy.adapters.shared.kept_logs import Copy, Database, KeptLog
from shipworthy.adapters.shared.sealed import SealedKey
from shipworthy.domain.audit import EpochKeys
from shipworthy.errors import ConfigurationError, MissingExtra
from shipworthy.ports.anchors import Anchor
from shipworthy.rules.audit.keys import Secret

Given = str | os.PathLike[str] | EpochKeys | Sequence[str | os.PathLike[str] | EpochKeys]
"""A secret, a SealedKey or the Path of its file, or several of them, newest first: the first one is used, and may take
over from the others."""
LONGEST_NAME = 200
NAME = "audit"
_SMALLEST = 4096


class FileAuditLog(FileLog):
    """A log in a file of lines, with its seal and its checkpoints beside it; several processes of one machine may
    append. Many appends are one write and one sync.

    `secret`: a text of at least 16 characters; or a SealedKey (or the Path of its file), with which whoever breaks in
    later cannot change what is over; or several of them, newest first. `name`: what anchors know the log by, by
    default the sealed key's, or that of the file. `rotate_bytes`: the size at which the file becomes PATH.000001 and a
    new one is begun. `durability`: "power" syncs every append; with "process", a power loss may take what was entered
    last, and the verifier says so.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        secret: Given,
        name: str | None = None,
        anchors: Sequence[Anchor] = (),
        rotate_bytes: int | None = None,
        durability: Literal["power", "process"] = "power",
    ) -> None:
        if durability not in ("power", "process"):
            raise ConfigurationError(
                f"durability={durability!r} is none.",
                fix='Use "power", or "process" where the machine never fails.',
            )
        if rotate_bytes is not None and (type(rotate_bytes) is not int or rotate_bytes < _SMALLEST):
            raise ConfigurationError(
                f"rotate_bytes={rotate_bytes!r} is no size.",
                fix=f"Pass an int of at least {_SMALLEST}, or None.",
            )
        super().__init__(
            _path(path, "audit.jsonl"),
            keys_of(secret),
            name=None if name is None else _name(name),
            anchors=_anchors(anchors),
            rotate_bytes=rotate_bytes or 0,
            synced=durability == "power",
        )


class SqliteAuditLog(KeptLog):
    """A log in an SQLite file, which several processes of one machine may share.

    In the file of the agent's runtime its entries land in the journal's own commits, and cost no sync; in another one
    they are durable before what they tell of. `secret`: a text of at least 16 characters, a SealedKey, or several,
    newest first. `name`: what anchors know the log by, by default the sealed key's, or "audit"; a file may have several
    logs. `durability` and `busy_timeout` (seconds): as in SqliteRuntime.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        secret: Given,
        name: str | None = None,
        anchors: Sequence[Anchor] = (),
        durability: Literal["power", "process"] = "power",
        busy_timeout: float = 5.0,
    ) -> None:
        from shipworthy.adapters.sqlite.audit_log import SqliteAudits

        database = SqliteAudits(_path(path), durability=durability, busy_timeout=busy_timeout)
        keys = keys_of(secret)
        super().__init__(database, name=_name(name, keys), keys=keys, anchors=_anchors(anchors))


class PostgresAuditLog(KeptLog):
    """A log in a PostgreSQL database, which processes on many machines share.

    In the database of the agent's runtime its entries land in the journal's own commits; in another one they are
    durable before what they tell of. Those who share a log take turns at committing. `secret`, `name`: as in
    SqliteAuditLog; `patience`: seconds for which a server that restarts or fails over is waited for.
    """

    def __init__(
        self,
        dsn: str,
        *,
        secret: Given,
        name: str | None = None,
        anchors: Sequence[Anchor] = (),
        patience: float = 5.0,
    ) -> None:
        database = _postgres(dsn, patience)
        keys = keys_of(secret)
        super().__init__(database, name=_name(name, keys), keys=keys, anchors=_anchors(anchors))


def copy_in_sqlite(path: str | os.PathLike[str], name: str = NAME) -> Copy:
    """A log in an SQLite file, to be read without any secret."""
    from shipworthy.adapters.sqlite.audit_log import SqliteAudits

    return Copy(SqliteAudits(_path(path)), _name(name))


def copy_in_postgres(dsn: str, name: str = NAME) -> Copy:
    """A log in a PostgreSQL database, to be read without any secret."""
    return Copy(_postgres(dsn, 5.0), _name(name))


def keys_of(given: Given) -> tuple[EpochKeys, ...]:
    """The keys of what `secret=` takes. Raises ConfigurationError."""
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise ConfigurationError(
            "An audit log needs a secret.", fix="Make one with `shipworthy audit keys new`."
        )
    return tuple([_keys(each) for each in several])


def _keys(given: Any) -> EpochKeys:
    if isinstance(given, os.PathLike):
        return SealedKey(given)
    keys: EpochKeys = given if hasattr(given, "epoch") else Secret(given)
    return keys


def _postgres(dsn: str, patience: float) -> Database:
    try:
        from shipworthy.adapters.postgres.audit_log import PostgresAudits
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"PostgresAuditLog needs the package {error.name}.", fix='pip install "shipworthy[postgres]"'
        ) from error
    return PostgresAudits(dsn, patience=patience)


def _path(path: str | os.PathLike[str], example: str = "bot.db") -> str:
    wrong = not isinstance(path, (str, os.PathLike)) or str(path) in ("", ":memory:")
    if wrong or str(path).endswith("/") or "\0" in str(path):
        raise ConfigurationError(
            f"{path!r} is not the path of a file.", fix=f'Pass a path such as "{example}".'
        )
    return os.fspath(path)


def _name(name: str | None, keys: tuple[EpochKeys, ...] = ()) -> str:
    """What the log is called: if nobody says, as its sealed key does."""
    if name is None:
        name = next((sealed for key in keys if (sealed := getattr(key, "name", ""))), NAME)
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= LONGEST_NAME:
        raise ConfigurationError(
            f"{name!r} is no name of an audit log.",
            fix=f"Pass 1 to {LONGEST_NAME} printable characters, such as the service's name.",
        )
    return name


def _anchors(anchors: Any) -> tuple[Anchor, ...]:
    several: Sequence[Anchor] = anchors if isinstance(anchors, (list, tuple)) else (anchors,)
    for anchor in several:
        if isinstance(anchor, type) or not all(
            [hasattr(anchor, word) for word in ("put", "newest", "where")]
        ):
            raise ConfigurationError(
                f"{anchor!r} keeps no checkpoints.", fix='Pass anchors=[FileAnchor("/mnt/elsewhere/anchor")].'
            )
    return tuple(several)

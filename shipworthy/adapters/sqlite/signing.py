"""Keys and grants inside the writer's transaction: it is the only one at a time in all processes, so that whoever makes
the first key is one."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from shipworthy.adapters.shared.grants import GrantRow
from shipworthy.adapters.shared.keys import new_key
from shipworthy.adapters.shared.queries import KEYS
from shipworthy.adapters.sqlite.connection import rows
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.scope import Scope

NOW = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
"""Milliseconds of the wall clock."""
_NEW_KEY = """INSERT INTO signing_keys (nth, id, secret, made_at)
VALUES ((SELECT coalesce(max(nth), 0) + 1 FROM signing_keys), ?, ?, ?)"""
_OLD_KEY = """INSERT INTO signing_keys (nth, id, secret, made_at)
VALUES ((SELECT min(nth) - 1 FROM signing_keys), ?, ?, ?) ON CONFLICT (id) DO NOTHING"""
_DROP = """UPDATE signing_keys SET secret = NULL WHERE secret IS NOT NULL AND nth NOT IN (
  SELECT nth FROM signing_keys WHERE secret IS NOT NULL ORDER BY nth DESC LIMIT ?)"""
_EXPIRED = f"expires_at <= {NOW}"
_SWEEP = f"DELETE FROM grants WHERE tenant = ? AND user = ? AND {_EXPIRED}"
_REMEMBER = """INSERT INTO grants (tenant, id, user, expires_at, data) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, id) DO NOTHING"""
_REVOKE = f"""UPDATE grants SET revoked = 1, data = x''
WHERE tenant = ? AND id = ? AND user = coalesce(?, user) AND NOT revoked AND NOT {_EXPIRED}"""


def keys(cursor: apsw.Cursor) -> list[SigningKey]:
    """The keys, newest first; the first one is made."""
    found = rows(cursor, KEYS)
    if not found:
        _add(cursor, new_key())
        found = rows(cursor, KEYS)
    return [SigningKey(*row) for row in found]


def rotate(cursor: apsw.Cursor, keep: int) -> SigningKey:
    """Sign with a new key. The names of those that are dropped are kept, without their secrets."""
    key = new_key()
    _add(cursor, key)
    cursor.execute(_DROP, (max(keep, 1),))
    return key


def _add(cursor: apsw.Cursor, key: SigningKey) -> None:
    cursor.execute(_NEW_KEY, (key.id, key.secret, key.made_at))


def adopt(cursor: apsw.Cursor, others: Sequence[SigningKey], grants: Sequence[GrantRow]) -> None:
    """`Signing.adopt`."""
    keys(cursor)
    for key in others:
        cursor.execute(_OLD_KEY, (key.id, key.secret, key.made_at))
    remember(cursor, grants)


def remember(cursor: apsw.Cursor, grants: Sequence[GrantRow]) -> None:
    """Keep these; what of the same users has expired goes."""
    cursor.executemany(_SWEEP, [(grant.tenant, grant.user_id) for grant in grants])
    values = [(grant.tenant, grant.id, grant.user_id, grant.expires_at, grant.data) for grant in grants]
    cursor.executemany(_REMEMBER, values)


def revoke(cursor: apsw.Cursor, scope: Scope, grant_id: str) -> bool:
    """`Signing.revoke`."""
    cursor.execute(_REVOKE, (scope.tenant, grant_id, scope.user))
    return cursor.connection.changes() > 0


def forget_expired(cursor: apsw.Cursor) -> int:
    """Forget what has expired, of everybody; no run goes with it."""
    cursor.execute(f"DELETE FROM grants WHERE {_EXPIRED}")
    return 0

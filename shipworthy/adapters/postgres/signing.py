"""Keys and grants, each operation in a transaction that may be made again. What sees the keys says so, and sees nothing
else (signing.sql)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shipworthy.adapters.postgres.connection import Connection
from shipworthy.adapters.postgres.operations import ask, do, of
from shipworthy.adapters.shared.grants import GrantRow
from shipworthy.adapters.shared.keys import new_key
from shipworthy.adapters.shared.queries import KEYS
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.scope import Scope

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('shipworthy signing', 0))"
_NEW_KEY = """INSERT INTO signing_keys (nth, id, secret, made_at)
SELECT coalesce(max(nth), 0) + 1, ?, ?, ? FROM signing_keys ON CONFLICT (id) DO NOTHING"""
_OLD_KEY = """INSERT INTO signing_keys (nth, id, secret, made_at)
SELECT min(nth) - 1, ?, ?, ? FROM signing_keys ON CONFLICT (id) DO NOTHING"""
_DROP = """UPDATE signing_keys SET secret = NULL WHERE secret IS NOT NULL AND nth NOT IN (
  SELECT nth FROM signing_keys WHERE secret IS NOT NULL ORDER BY nth DESC LIMIT ?)"""
_REVOKE = """UPDATE grants SET revoked = true, data = ''
WHERE tenant = ? AND id = ? AND "user" = coalesce(?, "user") AND NOT revoked AND expires_at > now_ms()
RETURNING true"""
_encode = msgspec.json.Encoder().encode


def keys(connection: Connection) -> list[SigningKey]:
    """The keys, newest first; the first one is made."""
    with of(connection, "signing", "on"):
        return _found(connection) or _made(connection)


def _found(connection: Connection) -> list[SigningKey]:
    return [SigningKey(id, bytes(secret), made_at) for id, secret, made_at in ask(connection, KEYS)]


def _made(connection: Connection) -> list[SigningKey]:
    """Of all who find none, one makes it; the others wait for it, and see it then."""
    do(connection, _ONE_AT_A_TIME)
    if not (found := _found(connection)):
        found = [new_key()]
        _add(connection, _NEW_KEY, found[0])
    return found


def _add(connection: Connection, statement: str, key: SigningKey) -> None:
    do(connection, statement, (key.id, key.secret, key.made_at))


def rotate(connection: Connection, key: SigningKey, keep: int) -> None:
    """Sign with this key. The names of those that are dropped are kept, without their secrets."""
    with of(connection, "signing", "on"):
        do(connection, _ONE_AT_A_TIME)
        _add(connection, _NEW_KEY, key)
        do(connection, _DROP, (max(keep, 1),))


def adopt_keys(connection: Connection, others: Sequence[SigningKey]) -> None:
    """Verify with these too, as older than all that are here."""
    with of(connection, "signing", "on"):
        _made(connection)
        for key in others:
            _add(connection, _OLD_KEY, key)


def adopt_grants(connection: Connection, grants: Sequence[GrantRow]) -> None:
    """Remember these, of whatever tenants; for an operator."""
    with of(connection, "operator", "on"):
        do(connection, "SELECT remember(?)", (_encode(grants).decode(),))


def revoke(connection: Connection, scope: Scope, grant_id: str) -> bool:
    """`Signing.revoke`."""
    with of(connection, "tenant", scope.tenant):
        return bool(ask(connection, _REVOKE, (scope.tenant, grant_id, scope.user)))

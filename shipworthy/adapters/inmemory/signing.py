"""Keys and grants in memory. Whoever uses them holds the store's lock."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shipworthy.adapters.shared.entries import PAGE
from shipworthy.adapters.shared.keys import new_key
from shipworthy.domain.grants import Grant, SigningKey
from shipworthy.domain.scope import Scope


def _now() -> int:
    return time.time_ns() // 1_000_000


class Vault:
    """The store's own keys, and what was said yes to beyond one run."""

    def __init__(self) -> None:
        self._keys: list[SigningKey] = []
        self._dropped: set[str] = set()
        self._grants: dict[tuple[str, str], tuple[int, Grant]] = {}
        self._of: dict[tuple[str, str], dict[str, None]] = {}
        self._revoked: dict[tuple[str, str], int] = {}
        self._places = 0

    # keys

    def keys(self) -> tuple[SigningKey, ...]:
        if not self._keys:
            self._keys.append(new_key())
        return tuple(self._keys)

    def rotate(self, keep: int) -> SigningKey:
        self._keys.insert(0, new_key())
        self._dropped |= {key.id for key in self._keys[max(keep, 1) :]}
        del self._keys[max(keep, 1) :]
        return self._keys[0]

    def adopt(self, keys: Sequence[SigningKey]) -> None:
        known = {key.id for key in self.keys()} | self._dropped
        self._keys += [key for key in keys if key.id not in known]

    # grants

    def remember(self, grants: Sequence[Grant]) -> None:
        """A grant that is there, or was revoked, is left as it is."""
        for grant in grants:
            name, whose = (grant.tenant, grant.id), (grant.tenant, grant.user)
            self._sweep([(grant.tenant, id) for id in self._of.get(whose, ())])
            if name not in self._grants and name not in self._revoked:
                self._places += 1
                self._grants[name] = (self._places, grant)
                self._of.setdefault(whose, {})[grant.id] = None

    def of(self, scope: Scope) -> tuple[Grant, ...]:
        if scope.user is None:
            return ()
        ids, now = self._of.get((scope.tenant, scope.user), {}), _now()
        grants = [self._grants[scope.tenant, id][1] for id in ids]
        return tuple([grant for grant in grants if grant.expires_at > now])

    def everyones(self, after: int) -> list[tuple[int, Grant]]:
        now = _now()
        found = [
            (place, grant)
            for place, grant in self._grants.values()
            if place > after and grant.expires_at > now
        ]
        return found[:PAGE]

    def revoke(self, scope: Scope, grant_id: str) -> bool:
        tenant = scope.tenant
        _, grant = self._grants.get((tenant, grant_id), (0, None))
        if grant is None or grant.expires_at <= _now() or scope.user not in (None, grant.user):
            return False
        self._forget(tenant, grant_id)
        self._revoked[tenant, grant_id] = grant.expires_at
        return True

    def disown(self, scope: Scope) -> None:
        """Forget what is of the scope's user, or of every user of the tenant."""
        for tenant, user in [whose for whose in self._of if whose[0] == scope.tenant]:
            if scope.user in (None, user):
                for grant_id in list(self._of[tenant, user]):
                    self._forget(tenant, grant_id)

    def tidy(self) -> None:
        """Forget what has expired, and what was revoked and would have."""
        self._sweep(list(self._grants))
        now = _now()
        self._revoked = {name: until for name, until in self._revoked.items() if until > now}

    def _sweep(self, names: Sequence[tuple[str, str]]) -> None:
        now = _now()
        for name in names:
            if self._grants[name][1].expires_at <= now:
                self._forget(*name)

    def _forget(self, tenant: str, grant_id: str) -> None:
        _, grant = self._grants.pop((tenant, grant_id))
        ids = self._of[tenant, grant.user]
        del ids[grant_id]
        if not ids:
            del self._of[tenant, grant.user]

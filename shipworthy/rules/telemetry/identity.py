"""Whom a metric may name: so many tenants or users, and no more, for every one of them is a time series."""

from __future__ import annotations

from typing import Literal

from shipworthy.domain.scope import Scope
from shipworthy.rules.telemetry.names import ANONYMOUS, OTHER, TENANT_ID, USER_ID

MetricIdentity = Literal["none", "tenant", "user"]


class Identities:
    """Attributes that say whose a measurement is. The first *most* tenants that are seen, and the first *most* users,
    keep their names until the process ends; all other tenants are "other" together, and so are all other users."""

    def __init__(self, identity: MetricIdentity, most: int) -> None:
        self._identity, self._most = identity, most
        self._tenants: dict[str, dict[str, str]] = {}
        self._users: dict[tuple[str, str], dict[str, str]] = {}
        self._anonymous, self._other = {TENANT_ID: ANONYMOUS}, {TENANT_ID: OTHER}
        self._others: dict[str, dict[str, str]] = {}

    def of(self, scope: Scope) -> dict[str, str]:
        """The attributes of a scope, the same for the same one."""
        if self._identity == "none":
            return {}
        if scope.anonymous:
            return self._anonymous
        tenant = self._tenant(scope.tenant)
        if self._identity == "tenant" or not scope.user:
            return tenant
        known = self._users.get((scope.tenant, scope.user))
        if known is None:
            if tenant is self._other or len(self._users) >= self._most:
                name = tenant[TENANT_ID]
                return self._others.setdefault(name, {**tenant, USER_ID: OTHER})
            known = self._users[scope.tenant, scope.user] = {**tenant, USER_ID: scope.user}
        return known

    def _tenant(self, name: str) -> dict[str, str]:
        known = self._tenants.get(name)
        if known is None:
            if len(self._tenants) >= self._most:
                return self._other
            known = self._tenants[name] = {TENANT_ID: name}
        return known

"""Whom a metric may name: so many tenants or users, and no more, for every one of them is a time series."""

from __future__ import annotations

from typing import Literal

from shipworthy.domain.scope import Scope
from shipworthy.rules.telemetry.names import ANONYMOUS, OTHER, TENANT_ID, USER_ID

MetricIdentity = Literal["none", "tenant", "user"]


class Identities:
    """Attributes that say whose a measurement is. The first *most* that are seen keep their names until the process
    ends; all others are "other" together."""

    def __init__(self, identity: MetricIdentity, most: int) -> None:
        self._identity, self._most = identity, most
        self._known: dict[tuple[str, str], dict[str, str]] = {}
        self._others = {"tenant": {TENANT_ID: OTHER}, "user": {TENANT_ID: OTHER, USER_ID: OTHER}}

    def of(self, scope: Scope) -> dict[str, str]:
        """The attributes of a scope, the same for the same one."""
        if self._identity == "none":
            return {}
        tenant = ANONYMOUS if scope.anonymous else scope.tenant
        user = "" if self._identity == "tenant" or scope.anonymous else scope.user or ""
        known = self._known.get((tenant, user))
        if known is None:
            if len(self._known) >= self._most:
                return self._others[self._identity]
            known = {TENANT_ID: tenant, USER_ID: user} if user else {TENANT_ID: tenant}
            self._known[tenant, user] = known
        return known

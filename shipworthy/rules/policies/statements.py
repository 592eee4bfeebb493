"""What a policy document is made of, and what it explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from shipworthy.domain.policy import Decision, Ruling
from shipworthy.errors import ConfigurationError


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence of a policy document: these calls, by these principals, under these conditions, are allowed, denied
    or asked about. Checked when it becomes part of a document.

    `actions`: "tool:refund", "agent:*", "memory:write", "*"; at least one. `resources`: what the call is about,
    "tool/refund", "label/payment", "source/mcp:*"; one of them has to fit, and all do where there are none.
    `principals`: a mapping of tenant, user, session, agent or path to a name, or a list of names, that all have to fit;
    or a list of such mappings, one of which has to. `id`: for people and approvals, by default a digest of the
    statement. `reason` and `tell` are those of its Decision; `approvers` and `among` too, for an ask.

    `conditions`: for each key a value to equal, or operators with their values; all have to hold. The keys:
    `arguments.<name>` (`arguments.to.country` within), `tenant`, `user`, `session`, `agent` (who asks), `path` (the
    agents from the outermost one on, joined with "/"), `source`, `effect`, `labels`, `returned.<tool>` (results that
    were had from it; calls of one answer of the model are judged before any of them has one), `allowed.<tool>`
    (calls of it that were allowed before this one, those of the same answer included: what bounds how often; both count
    in the outermost run and all that are nested in it, together), and
    `time` with `zone`, `hours` ("22:00-06:00"), `weekdays` (["mon"]), `after` and `before`. The operators: ==, !=, in,
    not_in; matches, not_matches (with `*`); <, <=, >, >= of numbers; exists; has_any, has_all, has_none, every_in and
    every_matches of lists. Texts may have ${user}, ${tenant}, ${session} and ${agent} in them.
    """

    effect: Ruling
    actions: Sequence[str]
    resources: Sequence[str] = ()
    principals: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    conditions: Mapping[str, Any] = {}
    id: str = ""
    reason: str = ""
    tell: str | None = None
    approvers: int = 1
    among: Sequence[str] = ()


class Considered(msgspec.Struct, frozen=True, gc=False):
    """One statement about an action. `because`: the test that kept it from matching; for one that matched, what could
    not be told, and held for that."""

    id: str
    effect: Ruling
    matched: bool
    because: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """Why a document decides a call as it does. `decided_by`: ids of the statements that did, none for the default."""

    decision: Decision
    action: str
    decided_by: tuple[str, ...]
    considered: tuple[Considered, ...]


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where in a document something stands, for its errors."""

    words: str

    def at(self, key: str) -> Place:
        """A part of it."""
        return Place(f"{self.words}, {key}")

    def refuse(self, what: str, fix: str) -> NoReturn:
        """Raises ConfigurationError."""
        raise ConfigurationError(f"{self.words}: {what}.", fix=fix)
